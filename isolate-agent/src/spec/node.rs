//! What the node's own folders say of a pod: its name, and the manifests of static pods.

use std::{fs, path::Path, path::PathBuf};

use super::{
    document::{self, Candidate},
    sources::Found,
};
use crate::pod::PodUid;

/// Files that are looked at in one folder.
const MAX_FILES: usize = 10_000;

/// Where kubelet keeps what is of interest here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFolders {
    /// Logs, in one folder a pod: `<namespace>_<name>_<uid>`.
    pub logs: PathBuf,
    /// Manifests of static pods.
    pub manifests: Vec<PathBuf>,
}

impl Default for NodeFolders {
    /// Where kubeadm, k3s and RKE2 have them.
    fn default() -> Self {
        let manifests = [
            "/etc/kubernetes/manifests",
            "/var/lib/rancher/k3s/agent/pod-manifests",
            "/var/lib/rancher/rke2/agent/pod-manifests",
        ];
        Self { logs: "/var/log/pods".into(), manifests: manifests.iter().map(PathBuf::from).collect() }
    }
}

/// Namespace and name of a pod, from the folder of its logs.
pub(super) fn name_of(uid: PodUid, logs: &Path) -> Option<(String, String)> {
    let folders = fs::read_dir(logs).ok()?.flatten().take(MAX_FILES);
    let mut names = folders.filter_map(|entry| entry.file_name().into_string().ok());
    names.find_map(|folder| {
        let mut parts = folder.splitn(3, '_');
        let (namespace, name, folder_uid) = (parts.next()?, parts.next()?, parts.next()?);
        (folder_uid.parse() == Ok(uid)).then(|| (namespace.to_owned(), name.to_owned()))
    })
}

/// The specification of a static pod, from the folders that kubelet watches. Files that are no manifests are passed over:
/// kubelet does the same.
pub(super) fn static_pod(name: &(String, String), folders: &[PathBuf]) -> Option<Found> {
    let mut found: Vec<(PathBuf, Candidate)> = Vec::new();
    for folder in folders {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten().take(MAX_FILES) {
            let path = entry.path();
            // kubelet passes over what begins with a dot.
            if entry.file_name().as_encoded_bytes().starts_with(b".") || !path.is_file() {
                continue;
            }
            let candidates = document::read_file(&path).unwrap_or_default();
            found.extend(candidates.into_iter().filter(|one| one.is_static(name)).map(|one| (path.clone(), one)));
        }
    }
    // `etcd` and `etcd-events` both fit `etcd-events-node1`: the longer one is meant.
    let (path, Candidate { spec, problems, .. }) =
        found.into_iter().max_by_key(|(_, one)| one.spec.name.as_ref().map_or(0, String::len))?;
    Some(Found { spec, source: format!("static pod in {}", path.display()), problems })
}
