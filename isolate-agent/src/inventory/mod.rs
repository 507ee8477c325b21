//! What runs on the node: pod UID to cgroup, network namespaces and host veths. Reads only; decides nothing.
//!
//! cgroupfs, procfs and netlink are enough. What a container runtime tells ([`cri`]) adds namespaces to those of a pod's
//! processes, and never takes one away.

mod address;
pub(crate) mod cgroup;
pub mod cri;
mod guard;
pub(crate) mod hierarchy;
mod kubelet;
mod link;
mod netdev;
mod netlink;
mod power;
mod process;
mod route;
mod scan;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use isolate_common::{Direction, Mac, packet::Address};
use rustix::io::Errno;
use thiserror::Error;

pub(crate) use self::{
    cgroup::uid_in_name,
    link::other_end,
    process::{NamespaceId, Process, pids},
};
pub use self::{
    kubelet::KubeletError,
    power::{Power, Powers},
    scan::Scanner,
};
use crate::pod::PodUid;

/// Why the node cannot be read. A pod or process that goes away meanwhile is no error.
#[derive(Debug, Error)]
pub enum InventoryError {
    /// Neither a cgroup2 nor a v1 hierarchy is mounted.
    #[error("no cgroup hierarchy is mounted here; mount one, or name its folder with --cgroup-root")]
    NoHierarchy,
    /// The folder given as cgroup root is something else.
    #[error("{path} is no folder of a cgroup hierarchy and has none mounted below; give --cgroup-root another folder")]
    NotCgroup {
        /// What was given.
        path: PathBuf,
    },
    /// A file or folder that has to be there cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A process of a pod cannot be looked at because the agent or the node is out of resources.
    #[error("cannot look at process {pid}")]
    Process {
        /// Its process id.
        pid: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    /// The kernel refused a netlink request or did not answer it.
    #[error("netlink request {request} failed")]
    Netlink {
        /// Name of the request.
        request: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program is ending.
    #[error("the program ends before the node was read")]
    Ending,
}

/// Whether the agent or the node ran out of what a look needs. What was seen then is not all that there is, unlike
/// when a folder or a process went away.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

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
    /// What is the node's own; none if addresses were not looked at, those of pods neither.
    pub node: Option<Taken>,
}

/// Addresses on the pods' links that are no pod's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Hardware addresses of the node's interfaces.
    pub macs: BTreeSet<Mac>,
    /// The node's addresses, and those of the routers that it knows. IPv4 mapped.
    pub addresses: BTreeSet<Address>,
}

/// Who is at the two sides of a host veth, as far as they show it now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// The node's hardware address there: that of the bridge, or of the host end itself.
    pub node: Mac,
    /// The hardware address of the pod's end, which the pod can change.
    pub pod: Mac,
    /// The addresses of the pod's end, which the pod can change. IPv4 mapped; none if they were not looked at.
    pub addresses: Vec<Address>,
}

/// One pod as the node shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its UID.
    pub uid: PodUid,
    /// Its pod-level directory in the unified hierarchy; none on a cgroup v1 node.
    pub cgroup: Option<PodCgroup>,
    /// Whether one of its processes lives in the node's own network namespace. The runtime's own processes that
    /// some runtimes put beside the pod's (CRI-O's conmon) do not count.
    pub host_network: bool,
    /// How many network namespaces other than the node's its processes live in: one, or none while nothing runs.
    pub namespaces: usize,
    /// The ids that those namespaces have in the node's, and those that only the container runtime says are the pod's:
    /// events name them so.
    pub namespace_ids: Vec<i32>,
    /// Processes in its cgroups.
    pub processes: usize,
    /// The interfaces that lead out of those namespaces. Loopback is left out, and so is whatever only stands on
    /// other interfaces of the same pod (its bridges, VLANs, tunnels, veths to containers nested in it).
    pub interfaces: Vec<Interface>,
    /// Why the pod must not be isolated without being forced, if so.
    pub guard: Option<Guard>,
    /// Who is at the two sides of its host veths.
    pub links: BTreeMap<IfIndex, Ends>,
    /// Its addresses as the container runtime tells them. IPv4 mapped; none where it does not.
    pub assigned: Vec<Address>,
    /// What its processes can do past every hook; none if they were not looked at closely.
    pub powers: Option<Powers>,
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
    /// Its name in there, as the pod chose it (bytes that are no UTF-8 replaced); `?` if it came up too late to be
    /// asked for it.
    pub name: String,
    /// Kind as rtnetlink spells it (`veth`, `macvlan`, …); `unknown` where the kernel names none.
    pub kind: String,
    /// Its other end in the node's network namespace; none for kinds without one.
    pub host: Option<HostVeth>,
    /// How to get at it from inside; none if it came up too late to be asked for it.
    pub inside: Option<Inside>,
    /// Whether only the container runtime says that it is this pod's: no process of it was seen in its namespace.
    pub claimed: bool,
}

/// An interface as its own namespace has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inside {
    /// Inode number of the namespace: unique for as long as the namespace lives.
    pub namespace: u64,
    /// Its index there.
    pub index: u32,
    /// What leads there.
    pub way: Way,
}

/// What leads to a network namespace. Either may lead elsewhere a moment later.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// A process that lives in it.
    Process(i32),
    /// A file that keeps it, as runtimes make them.
    File(Arc<Path>),
}

impl Way {
    /// The file to open.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Process(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
            Self::File(path) => path.to_path_buf(),
        }
    }
}

/// The host end of a pod's veth, or of its pair of netkit devices.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostVeth {
    /// Its index in the node's network namespace.
    pub ifindex: IfIndex,
    /// Its name there.
    pub name: String,
    /// What netkit tells of it; none for a veth.
    pub netkit: Option<Netkit>,
}

impl HostVeth {
    /// Whether it drops by itself what goes in this direction, as long as no program is attached there. One that has no opinion
    /// opens it then (`netkit_run`, drivers/net/netkit.c), so ours must not stand there for a pod that nobody isolates.
    pub fn is_blackhole(&self, direction: Direction) -> bool {
        self.netkit.as_ref().is_some_and(|netkit| netkit.blackhole[direction as usize])
    }
}

/// A pair of netkit devices whose primary one is the host end.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Netkit {
    /// Whether its policy is to drop, by direction.
    pub blackhole: [bool; 2],
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
