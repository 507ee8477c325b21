//! What runs on the node: pod UID to cgroup, network namespaces and host veths. Reads only; decides nothing.
//!
//! cgroupfs, procfs and netlink are enough: neither a container runtime nor an API server is asked.

use std::{collections::BTreeMap, path::PathBuf};

use crate::pod::PodUid;

/// Id of a cgroup in the unified hierarchy: the inode number of its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupId(pub u64);

/// Index of an interface in the node's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfIndex(pub u32);

/// All pods of the node, by UID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Pods that have a cgroup directory, whether or not processes run in it.
    pub pods: BTreeMap<PodUid, Pod>,
}

/// One pod as the node shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its UID.
    pub uid: PodUid,
    /// Its pod-level directory in the unified hierarchy; none on a cgroup v1 node.
    pub cgroup: Option<PodCgroup>,
    /// Whether one of its processes lives in the node's own network namespace.
    pub host_network: bool,
    /// How many network namespaces other than the node's its processes live in: one, or none while nothing runs.
    pub namespaces: usize,
    /// Processes in its cgroups.
    pub processes: usize,
    /// The interfaces of those namespaces, loopback left out.
    pub interfaces: Vec<Interface>,
    /// Why the pod must not be isolated without being forced, if so.
    pub guard: Option<Guard>,
}

/// A pod-level cgroup of the unified hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCgroup {
    /// Its directory.
    pub path: PathBuf,
    /// Its id.
    pub id: CgroupId,
    /// Its depth below the root of the hierarchy (1 is a child of the root); `None` where the mount shows only a
    /// part of the hierarchy.
    pub level: Option<u32>,
}

/// An interface inside a pod's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name in there.
    pub name: String,
    /// Kind as rtnetlink spells it (`veth`, `macvlan`, …); `unknown` where the kernel names none.
    pub kind: String,
    /// Its other end in the node's network namespace; none for kinds without one.
    pub host: Option<HostVeth>,
}

/// The host end of a pod's veth.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostVeth {
    /// Its index in the node's network namespace.
    pub ifindex: IfIndex,
    /// Its name there.
    pub name: String,
}

/// A pod whose isolation would cut off the one who isolates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// This process runs in it.
    AgentItself,
    /// A process of the node itself runs in it.
    NodeProcess {
        /// Its process id.
        pid: i32,
        /// Its name.
        name: String,
    },
}

impl Pod {
    /// The host ends of its interfaces.
    pub fn host_veths(&self) -> impl Iterator<Item = &HostVeth> {
        self.interfaces.iter().filter_map(|interface| interface.host.as_ref())
    }

    /// Its interfaces that have no host end.
    pub fn without_host_end(&self) -> impl Iterator<Item = &Interface> {
        self.interfaces.iter().filter(|interface| interface.host.is_none())
    }
}
