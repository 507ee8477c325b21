//! A node: what one kubelet would own, apart from everything else on the machine.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    ops::RangeFrom,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};

use rustix::mount::{MountFlags, mount};

use crate::{
    cgroup::{self, Cgroup},
    channel::End,
    frame::Mac,
    launch, name, netdev,
    netns::Netns,
    pod::{Pod, Spec},
    process::Process,
    residue::{Folder, Residue},
};

/// The bridges on which pods' interfaces sit, first and second.
pub(crate) const BRIDGES: [&str; 2] = ["cni0", "cni1"];

/// A network namespace, a cgroup sub-tree, a bpffs and a folder under one name. A clone is the same node; with the last
/// one everything goes, and a residue that stays is a panic.
#[derive(Clone, Debug)]
pub struct Node(Arc<Parts>);

/// Dropped from top to bottom.
#[derive(Debug)]
struct Parts {
    cgroup: Cgroup,
    netns: Netns,
    folder: Folder,
    pods: Mutex<RangeFrom<u8>>,
    residue: Residue,
}

impl Node {
    /// A node with two bridges and forwarding between everything.
    pub fn new() -> Self {
        let name = name::unique();
        let residue = Residue::default();
        let folder = Folder::new(&name, &residue);
        let cgroup = Cgroup::new(cgroup::mount().join(&name));
        let netns = Netns::new();
        residue.watch(cgroup.path());
        residue.watch(&netns.path());
        let node = Self(Arc::new(Parts { cgroup, netns, folder, pods: Mutex::new(10..), residue }));
        for folder in ["run", "state", "bpf"] {
            fs::create_dir(node.folder().join(folder)).expect("the node's folder is new");
        }
        mount("bpf", node.folder().join("bpf"), "bpf", MountFlags::empty(), None).expect("root may mount a bpffs");
        node.set_up_network();
        node
    }

    fn set_up_network(&self) {
        self.netns().sysctl("net/ipv4/ip_forward", "1");
        self.netns().sysctl("net/ipv6/conf/all/forwarding", "1");
        let bridges = BRIDGES.iter().zip(0..);
        let commands: Vec<_> = bridges
            .flat_map(|(bridge, number)| netdev::bridge(bridge, gateway_v4(number), gateway_v6(number)))
            .collect();
        netdev::ip(self.netns(), &commands);
    }

    /// Its folder: `run` and `state` for the agent, `bpf` with a bpffs mounted on it, and whatever a test adds.
    pub fn folder(&self) -> &Path {
        self.0.folder.path()
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.0.netns
    }

    /// The root of its cgroup tree.
    pub fn cgroup(&self) -> &Path {
        self.0.cgroup.path()
    }

    /// Adds a path to what must be gone in the end.
    pub(crate) fn watch(&self, path: &Path) {
        self.0.residue.watch(path);
    }

    /// The last byte of the addresses of the next pod.
    pub(crate) fn next_address(&self) -> u8 {
        self.0.pods.lock().expect("taking a number does not panic").next().expect("fewer than 245 pods on a node")
    }

    /// Starts a pod.
    pub fn pod(&self, spec: &Spec) -> Pod {
        Pod::start(self, spec)
    }

    /// A command that will run as a service of the node: in its namespace, outside every pod.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        launch::command(program, self.netns(), &self.service())
    }

    /// Starts a process of the node itself, as kubelet is one.
    pub fn process(&self) -> Process {
        Process::start(self.netns(), &self.service())
    }

    /// The node's end of the first bridge.
    pub fn end<'a>(&self, process: &'a Process) -> End<'a> {
        let mac: Mac = netdev::mac(self.netns(), BRIDGES[0]);
        End { process, device: BRIDGES[0], mac, v4: gateway_v4(0), v6: gateway_v6(0) }
    }

    /// The cgroup of a service of the node.
    pub fn service(&self) -> PathBuf {
        let path = self.cgroup().join("system.slice/node.service");
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

/// The address of the node on the link of the pods' interface with this number.
pub(crate) fn gateway_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 88 + number, 0, 1)
}

/// The same for IPv6.
pub(crate) fn gateway_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd88 + u16::from(number), 0, 0, 0, 0, 0, 0, 1)
}
