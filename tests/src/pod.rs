//! A pod as kubelet and a CNI make it: cgroups, a network namespace, veths, and processes in its containers.

mod network;
mod spec;

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
};

use self::network::Network;
pub(crate) use self::spec::cgroup_path;
pub use self::spec::{Driver, Link, Qos, Spec};
use crate::{
    cgroup::Cgroup, channel::End, frame::Mac, launch, name, netdev, netns::Netns, node::Node, process::Process,
};

/// A running pod; dropping it stops it.
#[derive(Debug)]
pub struct Pod {
    uid: String,
    processes: Vec<Process>,
    cgroup: Cgroup,
    driver: Driver,
    capabilities: &'static [u32],
    network: Option<Network>,
    node: Node,
}

impl Pod {
    pub(crate) fn start(node: &Node, spec: &Spec) -> Self {
        let uid = spec.uid.clone().unwrap_or_else(fresh_uid);
        let cgroup = Cgroup::new(node.cgroup().join(cgroup_path(spec, &uid)));
        node.watch(cgroup.path());
        let network = (spec.link != Link::HostNetwork).then(|| Network::new(node, spec));
        let mut pod = Self {
            uid,
            processes: Vec::new(),
            cgroup,
            driver: spec.driver,
            capabilities: spec.capabilities,
            network,
            node: node.clone(),
        };
        pod.processes.extend((0..spec.containers).map(|_| pod.start_container()).collect::<Vec<_>>());
        pod
    }

    /// A new sandbox, as kubelet makes one when the pause process has died: another namespace and other veths, the same
    /// pod-level cgroup, and one process in a new container.
    pub fn renew_sandbox(&mut self) {
        self.processes.clear();
        let network = self.network.take().expect("a pod with host networking has no interfaces of its own");
        self.network = Some(network.renewed(1));
        self.processes.push(self.start_container());
    }

    /// Its UID as the API shows it.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Its pod-level cgroup directory.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// Its network namespace; the node's for a pod with host networking.
    pub fn netns(&self) -> &Netns {
        self.network.as_ref().map_or_else(|| self.node.netns(), |network| &network.netns)
    }

    /// The names of its veths' ends in the node's namespace.
    pub fn host_veths(&self) -> &[String] {
        self.network.as_ref().map_or(&[], |network| &network.host_veths)
    }

    /// The process in its first container.
    pub fn app(&self) -> &Process {
        self.container(0)
    }

    /// The process in the container with this number.
    pub fn container(&self, number: usize) -> &Process {
        &self.processes[number]
    }

    /// Starts another container; its process is the caller's to keep.
    pub fn start_container(&self) -> Process {
        Process::in_container(self.netns(), &self.new_leaf(), self.capabilities)
    }

    /// A command that will run in a new container of the pod, with everything that root on the node may do.
    pub fn privileged(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        launch::command(program, self.netns(), &self.new_leaf())
    }

    /// Gives `eth0` of a pod on a bridge its state, addresses and routes again.
    pub fn configure(&self) {
        self.network.as_ref().expect("a pod with host networking has no interfaces of its own").configure();
    }

    /// A command that will run in a container of the pod, with its capabilities.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        launch::container_command(program, self.netns(), &self.attic(), self.capabilities)
    }

    /// Starts a process in a new container of the pod, with no capabilities but a container's and these.
    pub fn attacker(&self, more: &'static [u32]) -> Process {
        Process::in_container(self.netns(), &self.new_leaf(), more)
    }

    /// One container's cgroup for many short commands.
    fn attic(&self) -> PathBuf {
        let leaf = self.cgroup.path().join("cri-containerd-commands.scope");
        std::fs::create_dir_all(&leaf).unwrap_or_else(|error| panic!("{}: {error}", leaf.display()));
        leaf
    }

    /// Adds an interface while the pod runs; returns the name of its host end.
    pub fn add_interface(&mut self) -> String {
        let network = self.network.as_mut().expect("a pod with host networking has no interfaces of its own");
        network.add_interface();
        network.host_veths.last().expect("one was added just now").clone()
    }

    /// Its first interface as an end of a channel, used by its first container.
    pub fn end(&self) -> End<'_> {
        self.end_of(self.app())
    }

    /// Its first interface, used by this process of it.
    pub fn end_of<'a>(&self, process: &'a Process) -> End<'a> {
        match &self.network {
            Some(network) => End { process, device: "eth0", mac: network.mac, v4: network.v4(0), v6: network.v6(0) },
            None => self.node.end(process),
        }
    }

    /// Its loopback, used by its first container.
    pub fn loopback(&self) -> End<'_> {
        self.loopback_of(self.app())
    }

    /// Its loopback, used by this process of it.
    pub fn loopback_of<'a>(&self, process: &'a Process) -> End<'a> {
        End { process, device: "lo", mac: Mac([0; 6]), v4: Ipv4Addr::LOCALHOST, v6: Ipv6Addr::LOCALHOST }
    }

    /// Its second interface, used by its first container.
    pub fn second_end(&self) -> End<'_> {
        let network = self.network.as_ref().expect("a pod with host networking has no interfaces of its own");
        let mac = netdev::mac(&network.netns, "eth1");
        End { process: self.app(), device: "eth1", mac, v4: network.v4(1), v6: network.v6(1) }
    }

    fn new_leaf(&self) -> PathBuf {
        let id = format!("{:032x}{:032x}", std::process::id(), name::number());
        let leaf = self.cgroup.path().join(match self.driver {
            Driver::Systemd => format!("cri-containerd-{id}.scope"),
            Driver::Cgroupfs => id,
        });
        std::fs::create_dir(&leaf).unwrap_or_else(|error| panic!("{}: {error}", leaf.display()));
        leaf
    }
}

/// A UID whose first eight digits no other pod of this run has.
pub(crate) fn fresh_uid() -> String {
    format!("{:08x}-0000-4000-8000-{:012x}", 0x1500_0000 + name::number(), std::process::id())
}
