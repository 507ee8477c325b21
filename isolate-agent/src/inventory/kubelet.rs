//! Which cgroup kubelet runs in: found from its process, and known again as long as that lives there. Reads only.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::PoisonError,
};

use thiserror::Error;

use super::{CgroupId, Scanner, process::NodeNamespaces, uid_in_name};

/// Names (15 bytes, as the kernel keeps them) of the programs that are kubelet: itself (kubeadm, kind, RKE2, k0s and
/// most), or with it inside (k3s, and other small or old ones).
const KUBELETS: [&str; 6] = ["kubelet", "kubelite", "hyperkube", "k3s", "k3s-server", "k3s-agent"];

/// Why kubelet's cgroup is not known.
#[derive(Debug, Error)]
pub enum KubeletError {
    /// The folder that was named is no cgroup.
    #[error("kubelet's cgroup {path} (--kubelet-cgroup) cannot be used: {source}")]
    Configured {
        /// What was given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No such process.
    #[error("no kubelet (nor k3s) was found on this node; name its cgroup with --kubelet-cgroup")]
    NotFound,
    /// More than one.
    #[error(
        "several kubelets run on this node, in {0:?}; name the cgroup of the one that is meant with --kubelet-cgroup"
    )]
    Several(Vec<PathBuf>),
}

/// Where kubelet was seen last.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pid: i32,
    path: PathBuf,
    id: CgroupId,
}

impl Scanner {
    /// The cgroup whose packets are kubelet's: that of the folder `configured`, or of the one process that is kubelet.
    ///
    /// Takes some milliseconds the first time, and after kubelet has moved.
    pub fn kubelet(&self, configured: Option<&Path>) -> Result<CgroupId, KubeletError> {
        if let Some(path) = configured {
            let failed = |source| KubeletError::Configured { path: path.to_owned(), source };
            // Every cgroup has this file, and hardly anything else does.
            fs::metadata(path.join("cgroup.procs")).map_err(failed)?;
            return id(path).map_err(failed);
        }
        let mut seen = self.inner.kubelet.lock().unwrap_or_else(PoisonError::into_inner);
        match &*seen {
            Some(known) if still_there(known) => Ok(known.id),
            _ => {
                *seen = None;
                let found = find(&self.inner.node)?;
                Ok(seen.insert(found).id)
            }
        }
    }
}

fn id(path: &Path) -> io::Result<CgroupId> {
    Ok(CgroupId(fs::metadata(path)?.ino()))
}

fn still_there(seen: &Seen) -> bool {
    id(&seen.path).is_ok_and(|id| id == seen.id) && holds(&seen.path, seen.pid) && is_kubelet(seen.pid)
}

fn is_kubelet(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| KUBELETS.contains(&name.trim_end()))
}

fn holds(path: &Path, pid: i32) -> bool {
    let procs = fs::read_to_string(path.join("cgroup.procs"));
    procs.is_ok_and(|procs| procs.lines().any(|line| line.parse() == Ok(pid)))
}

fn find(node: &NodeNamespaces) -> Result<Seen, KubeletError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = cgroup2_mounts(&mounts);
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut found = BTreeMap::new();
    for pid in pids.filter(|&pid| is_kubelet(pid) && node.has_net_of(pid)) {
        let Ok(cgroups) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { continue };
        // A pod may call a process what it likes.
        if cgroups.lines().any(|line| line.split('/').any(|name| uid_in_name(name).is_some())) {
            continue;
        }
        let mut paths = unified(&cgroups).into_iter().flat_map(|cgroup| paths(cgroup, &mounts));
        let Some(path) = paths.find(|path| holds(path, pid)) else { continue };
        if let Ok(id) = id(&path) {
            found.insert(id, Seen { pid, path, id });
        }
    }
    let mut found: Vec<Seen> = found.into_values().collect();
    match found.len() {
        0 => Err(KubeletError::NotFound),
        1 => Ok(found.remove(0)),
        _ => Err(KubeletError::Several(found.into_iter().map(|seen| seen.path).collect())),
    }
}

/// The cgroup in the unified hierarchy, in a `/proc/<pid>/cgroup`.
fn unified(cgroups: &str) -> Option<&str> {
    cgroups.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Where a cgroup may be found. Both it and the roots of the mounts are told from where this process's own cgroup
/// namespace has its root: an agent in a pod sees the node's as `/../../..`.
fn paths<'a>(cgroup: &'a str, mounts: &'a [(PathBuf, PathBuf)]) -> impl Iterator<Item = PathBuf> + 'a {
    mounts.iter().filter_map(move |(root, mount)| Some(mount.join(Path::new(cgroup).strip_prefix(root).ok()?)))
}

/// Roots and places of the mounts of the unified hierarchy.
fn cgroup2_mounts(mountinfo: &str) -> Vec<(PathBuf, PathBuf)> {
    let parse = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        filesystem.starts_with("cgroup2 ").then(|| (root.into(), place.into()))
    };
    mountinfo.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_found_from_every_namespace() {
        let mountinfo = "39 31 0:36 / /sys/fs/cgroup/pids rw shared:9 - cgroup cgroup rw,pids\n\
                         41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
                         42 31 0:38 /../../.. /host/cgroup rw - cgroup2 cgroup2 rw\n\
                         garbage\n";
        let mounts = cgroup2_mounts(mountinfo);
        let all = |cgroup| paths(cgroup, &mounts).collect::<Vec<_>>();
        let on_node = all("/system.slice/kubelet.service");
        assert_eq!(on_node, [Path::new("/sys/fs/cgroup/unified/system.slice/kubelet.service")]);
        let from_pod = all("/../../../system.slice/k3s.service");
        assert!(from_pod.contains(&PathBuf::from("/host/cgroup/system.slice/k3s.service")), "{from_pod:?}");
        assert_eq!(unified("3:pids:/a\n0::/system.slice/kubelet.service\n"), Some("/system.slice/kubelet.service"));
        assert_eq!(unified("3:pids:/a\n"), None, "cgroup v1 alone");
    }
}
