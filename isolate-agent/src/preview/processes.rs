//! The processes of a pod as a preview needs them: whose sockets are whose, how old its containers are, and sockets of the
//! node in its file system. Reads procfs only, bounded; opens nothing that belongs to the pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use rustix::fs::Dir;

use crate::{
    inventory::{NamespaceId, Pod, Process, Way, pids},
    pod::PodUid,
};

/// Processes that are looked at.
const MAX_PROCESSES: usize = 4096;
/// Descriptors that are looked at, over all processes.
const MAX_DESCRIPTORS: usize = 1 << 17;
/// Mounts that are looked at in one mount namespace.
const MAX_MOUNTS: usize = 4096;
/// `USER_HZ`, in which /proc/PID/stat counts; 100 on every architecture that runs Kubernetes.
const TICKS_PER_SEC: u64 = 100;
/// Runtimes make a container's first process a moment before they start the container.
const CREATION_SECS: u64 = 2;

/// The processes of one pod.
#[derive(Debug)]
pub(super) struct PodProcesses {
    processes: Vec<Process>,
    host_network: Vec<NamespaceId>,
}

impl PodProcesses {
    /// Looks for them; one that ends meanwhile is passed over.
    pub(super) fn of(pod: &Pod) -> Self {
        let ids = pod.cgroup.as_ref().and_then(|cgroup| pids(&cgroup.path).ok()).unwrap_or_default();
        let inside = pod.interfaces.iter().filter_map(|interface| match interface.inside.as_ref()?.way {
            Way::Process(pid) => Some(pid),
            Way::File(_) => None,
        });
        let ids: BTreeSet<i32> = ids.into_iter().chain(inside).collect();
        let node = [1, i32::try_from(std::process::id()).unwrap_or(0)].into_iter();
        let node = node.filter_map(|pid| Process::open(pid).ok()?.namespace("net").ok());
        Self { processes: open(pod.uid, &ids), host_network: node.collect() }
    }

    pub(super) fn is_in_node_network(&self, process: &Process) -> bool {
        process.namespace("net").is_ok_and(|net| self.host_network.contains(&net))
    }

    /// One process of each network namespace.
    pub(super) fn one_of_each_namespace(&self) -> Vec<&Process> {
        self.one_of_each("net")
    }

    fn one_of_each(&self, kind: &str) -> Vec<&Process> {
        let mut seen: Vec<NamespaceId> = Vec::new();
        let is_new = |process: &&Process| {
            process.namespace(kind).is_ok_and(|id| {
                let new = !seen.contains(&id);
                seen.extend(new.then_some(id));
                new
            })
        };
        self.processes.iter().filter(is_new).collect()
    }

    /// Who holds which socket, by inode: name and process id.
    pub(super) fn sockets(&self) -> BTreeMap<u64, String> {
        let (mut holders, mut left) = (BTreeMap::new(), MAX_DESCRIPTORS);
        for process in &self.processes {
            let holder = format!("{} ({})", process.name(), process.pid());
            let Some(folder) = process.open_at("fd").ok() else { continue };
            let Ok(descriptors) = Dir::read_from(&folder) else { continue };
            for entry in descriptors.flatten() {
                let Some(rest) = left.checked_sub(1) else { return holders };
                left = rest;
                let Ok(target) = rustix::fs::readlinkat(&folder, entry.file_name(), Vec::new()) else { continue };
                let inode = target.to_str().ok().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
                if let Some(inode) = inode.and_then(|text| text.parse().ok()) {
                    holders.entry(inode).or_insert_with(|| holder.clone());
                }
            }
        }
        holders
    }

    /// All containers are at least so old, in seconds: the first process of the youngest.
    pub(super) fn age_secs(&self) -> u64 {
        let up = std::fs::read_to_string("/proc/uptime").ok();
        let up = up.and_then(|text| text.split('.').next()?.parse::<u64>().ok()).unwrap_or(0);
        let mut oldest: BTreeMap<String, u64> = BTreeMap::new();
        for process in &self.processes {
            let (Ok(cgroup), Some(start)) = (process.read("cgroup"), start_secs(process)) else { return 0 };
            let age = up.saturating_sub(start);
            oldest.entry(cgroup).and_modify(|known| *known = age.max(*known)).or_insert(age);
        }
        oldest.values().min().copied().unwrap_or(0).saturating_sub(CREATION_SECS)
    }

    /// Unix sockets that the node has mounted into the pod, as far as their names tell.
    pub(super) fn mounted_sockets(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for process in self.one_of_each("mnt") {
            let mounts = process.read("mountinfo").unwrap_or_default();
            found.extend(mounts.lines().take(MAX_MOUNTS).filter_map(mounted_socket));
        }
        found
    }
}

fn open(uid: PodUid, ids: &BTreeSet<i32>) -> Vec<Process> {
    let opened = ids.range(1..).take(MAX_PROCESSES).filter_map(|pid| Process::open(*pid).ok());
    opened.filter(|process| process.is_in(uid)).collect()
}

/// When it was started, in seconds from boot.
fn start_secs(process: &Process) -> Option<u64> {
    let stat = process.read("stat").ok()?;
    // The name, in parentheses, may hold anything.
    let ticks: u64 = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some(ticks / TICKS_PER_SEC)
}

/// As runtimes and services of the node name their sockets.
pub(super) fn is_socket(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "sock")
}

/// The mount point of a socket, from a line of mountinfo: the fourth field is what is mounted, the fifth where.
fn mounted_socket(line: &str) -> Option<String> {
    let mut fields = line.split(' ').skip(3);
    let (what, place) = (fields.next()?, fields.next()?);
    is_socket(what).then(|| place.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_socket_is_told_by_its_name() {
        let line = |what: &str| format!("1213 1201 0:25 {what} /run/cri.sock rw,nosuid - tmpfs tmpfs rw");
        assert_eq!(mounted_socket(&line("/containerd/containerd.sock")), Some("/run/cri.sock".to_owned()));
        assert_eq!(mounted_socket(&line("/containerd")), None);
        assert_eq!(mounted_socket(""), None);
    }
}
