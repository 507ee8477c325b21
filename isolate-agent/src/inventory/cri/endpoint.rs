//! Where container runtimes have their sockets, and how a user names one.

use std::{
    fs,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

/// The usual places of those that speak CRI, as whom they are known.
pub(crate) const USUAL: [(&str, &str); 6] = [
    ("containerd", "/run/containerd/containerd.sock"),
    ("CRI-O", "/run/crio/crio.sock"),
    ("k3s' containerd", "/run/k3s/containerd/containerd.sock"),
    ("k0s' containerd", "/run/k0s/containerd.sock"),
    ("MicroK8s' containerd", "/var/snap/microk8s/common/run/containerd.sock"),
    ("cri-dockerd", "/run/cri-dockerd.sock"),
];

/// The path in what a user gave: as kubelet and crictl take it (`unix:///run/…`), or a path.
pub(crate) fn path(given: &Path) -> PathBuf {
    match given.to_str().and_then(|text| text.strip_prefix("unix://")) {
        Some(path) => PathBuf::from(path),
        None => given.to_owned(),
    }
}

/// The sockets to ask, best first: the one that was set, or those that are there.
pub(crate) fn candidates(set: Option<&Path>) -> Vec<PathBuf> {
    match set {
        Some(path) => vec![path.to_owned()],
        None => USUAL.iter().map(|(_, path)| PathBuf::from(path)).filter(|path| is_socket(path)).collect(),
    }
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_name_a_socket() {
        for given in ["unix:///run/crio/crio.sock", "/run/crio/crio.sock"] {
            assert_eq!(path(Path::new(given)), Path::new("/run/crio/crio.sock"));
        }
        assert_eq!(path(Path::new("run/crio.sock")), Path::new("run/crio.sock"), "the settings refuse it");
        assert_eq!(path(Path::new("tcp://1.2.3.4:5")), Path::new("tcp://1.2.3.4:5"));
    }

    #[test]
    fn what_was_set_is_asked_even_if_it_is_not_there_yet() {
        assert_eq!(candidates(Some(Path::new("/nonexistent/cri.sock"))), [PathBuf::from("/nonexistent/cri.sock")]);
    }
}
