//! A pod as kubelet and a CNI make it: cgroups, a network namespace, veths, and processes in its containers.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cgroup::Cgroup,
    channel::End,
    frame::Mac,
    launch, name, netdev,
    netns::Netns,
    node::{BRIDGES, Node, gateway_v4, gateway_v6},
    process::Process,
};

/// Which names kubelet gives the cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// `kubepods-burstable-pod<uid with _>.slice`.
    Systemd,
    /// `burstable/pod<uid>`.
    Cgroupfs,
}

/// The quality of service class, a level of the cgroup tree (guaranteed has none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Directly below `kubepods`.
    Guaranteed,
    /// Below `burstable`.
    Burstable,
    /// Below `besteffort`.
    BestEffort,
}

/// How the pod's interfaces reach the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The host ends are ports of the node's bridges.
    Bridged,
    /// The host end carries a route to the pod's one address.
    Routed,
    /// No namespace of its own: the pod uses the node's.
    HostNetwork,
}

/// What pod to make.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its UID as the API shows it; a fresh one if none.
    pub uid: Option<String>,
    /// Which cgroup names.
    pub driver: Driver,
    /// Its class.
    pub qos: Qos,
    /// What kubelet's cgroup root is called, above `kubepods`; empty for none.
    pub prefix: &'static str,
    /// How many containers, each with one process.
    pub containers: usize,
    /// How many interfaces (one or two; routed pods have one).
    pub interfaces: u8,
    /// How they reach the node.
    pub link: Link,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            uid: None,
            driver: Driver::Systemd,
            qos: Qos::Burstable,
            prefix: "",
            containers: 1,
            interfaces: 1,
            link: Link::Bridged,
        }
    }
}

/// A running pod; dropping it stops it.
#[derive(Debug)]
pub struct Pod {
    uid: String,
    processes: Vec<Process>,
    cgroup: Cgroup,
    driver: Driver,
    network: Option<Network>,
    node: Node,
}

#[derive(Debug)]
struct Network {
    host_veths: Vec<String>,
    address: u8,
    link: Link,
    mac: Mac,
    netns: Netns,
    node: Node,
}

impl Pod {
    pub(crate) fn start(node: &Node, spec: &Spec) -> Self {
        let uid = spec.uid.clone().unwrap_or_else(fresh_uid);
        let cgroup = Cgroup::new(node.cgroup().join(cgroup_path(spec, &uid)));
        node.watch(cgroup.path());
        let network = (spec.link != Link::HostNetwork).then(|| Network::new(node, spec));
        let mut pod = Self { uid, processes: Vec::new(), cgroup, driver: spec.driver, network, node: node.clone() };
        pod.processes.extend((0..spec.containers).map(|_| pod.start_container()).collect::<Vec<_>>());
        pod
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
        Process::start(self.netns(), &self.new_leaf())
    }

    /// A command that will run in a new container of the pod.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        launch::command(program, self.netns(), &self.new_leaf())
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

impl Network {
    fn new(node: &Node, spec: &Spec) -> Self {
        let netns = Netns::new();
        node.watch(&netns.path());
        let (address, link) = (node.next_address(), spec.link);
        let mac = Mac([0; 6]);
        let mut network = Self { host_veths: Vec::new(), address, link, mac, netns, node: node.clone() };
        for _ in 0..spec.interfaces {
            network.add_interface();
        }
        network.mac = netdev::mac(&network.netns, "eth0");
        network
    }

    fn add_interface(&mut self) {
        let number = u8::try_from(self.host_veths.len()).expect("a pod has few interfaces");
        let (host, inner) = (format!("veth{:x}", name::number()), format!("eth{number}"));
        netdev::veth(self.node.netns(), &host, &self.netns, &inner);
        let (v4, v6) = (self.v4(number), self.v6(number));
        let mut on_node = vec![format!("link set {host} up")];
        let mut in_pod = vec![format!("link set {inner} up")];
        if self.link == Link::Routed {
            let (gw4, gw6) = ("169.254.1.1", "fe80::1");
            on_node.push(format!("addr add {gw4}/32 dev {host}"));
            on_node.push(format!("addr add {gw6}/64 dev {host} nodad"));
            on_node.push(format!("route add {v4}/32 dev {host}"));
            on_node.push(format!("route add {v6}/128 dev {host}"));
            in_pod.push(format!("addr add {v4}/32 dev {inner}"));
            in_pod.push(format!("addr add {v6}/128 dev {inner} nodad"));
            in_pod.push(format!("route add {gw4} dev {inner}"));
            in_pod.push(format!("route add default via {gw4} dev {inner}"));
            in_pod.push(format!("route add default via {gw6} dev {inner}"));
        } else {
            on_node.push(format!("link set {host} master {}", BRIDGES[usize::from(number)]));
            in_pod.push(format!("addr add {v4}/24 dev {inner}"));
            in_pod.push(format!("addr add {v6}/64 dev {inner} nodad"));
            if number == 0 {
                in_pod.push(format!("route add default via {}", gateway_v4(0)));
                in_pod.push(format!("route add default via {}", gateway_v6(0)));
            }
        }
        netdev::ip(self.node.netns(), &on_node);
        netdev::ip(&self.netns, &in_pod);
        self.host_veths.push(host);
    }

    fn v4(&self, interface: u8) -> Ipv4Addr {
        if self.link == Link::Routed {
            Ipv4Addr::new(10, 120, 0, self.address)
        } else {
            with_host_v4(gateway_v4(interface), self.address)
        }
    }

    fn v6(&self, interface: u8) -> Ipv6Addr {
        let base =
            if self.link == Link::Routed { Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 1) } else { gateway_v6(interface) };
        Ipv6Addr::from_bits(base.to_bits() - 1 + u128::from(self.address))
    }
}

fn with_host_v4(gateway: Ipv4Addr, host: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(gateway.to_bits() - 1 + u32::from(host))
}

impl Drop for Network {
    fn drop(&mut self) {
        // A namespace takes its veths along some time after it ends; the node's side must be gone at once.
        for host in &self.host_veths {
            netdev::remove(self.node.netns(), host);
        }
    }
}

/// A UID whose first eight digits no other pod of this run has.
fn fresh_uid() -> String {
    format!("{:08x}-0000-4000-8000-{:012x}", 0x1500_0000 + name::number(), std::process::id())
}

fn cgroup_path(spec: &Spec, uid: &str) -> PathBuf {
    let class = match spec.qos {
        Qos::Guaranteed => None,
        Qos::Burstable => Some("burstable"),
        Qos::BestEffort => Some("besteffort"),
    };
    let names = [Some(spec.prefix).filter(|prefix| !prefix.is_empty()), Some("kubepods"), class];
    let pod = format!("pod{uid}");
    let names = names.into_iter().flatten();
    match spec.driver {
        Driver::Cgroupfs => names.chain([pod.as_str()]).collect(),
        Driver::Systemd => {
            // A slice's name holds those of all slices above it.
            let pod = pod.replace('-', "_");
            let mut slice = String::new();
            let grow = |name: &str| {
                slice = if slice.is_empty() { name.to_owned() } else { format!("{slice}-{name}") };
                format!("{slice}.slice")
            };
            names.chain([pod.as_str()]).map(grow).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_named_as_kubelet_names_them() {
        let uid = "0f0e0d0c-1234-4000-8000-0123456789ab";
        let path = |driver, qos, prefix| {
            let spec = Spec { driver, qos, prefix, ..Spec::default() };
            cgroup_path(&spec, uid).display().to_string()
        };
        assert_eq!(path(Driver::Cgroupfs, Qos::BestEffort, ""), format!("kubepods/besteffort/pod{uid}"));
        assert_eq!(path(Driver::Cgroupfs, Qos::Guaranteed, "kubelet"), format!("kubelet/kubepods/pod{uid}"));
        let slice =
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f0e0d0c_1234_4000_8000_0123456789ab.slice";
        assert_eq!(path(Driver::Systemd, Qos::Burstable, ""), slice);
        assert!(path(Driver::Systemd, Qos::Guaranteed, "kubelet").starts_with("kubelet.slice/kubelet-kubepods.slice/"));
    }
}
