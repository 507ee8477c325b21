//! The pod's network namespace and its veths, as a CNI plugin would leave them.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::spec::{Link, Spec};
use crate::{
    frame::Mac,
    name, netdev,
    netkit::{self, Mode},
    netns::Netns,
    node::{BRIDGES, Node, gateway_v4, gateway_v6},
};

#[derive(Debug)]
pub(super) struct Network {
    pub(super) host_veths: Vec<String>,
    address: u8,
    link: Link,
    pub(super) mac: Mac,
    pub(super) netns: Netns,
    node: Node,
}

impl Network {
    pub(super) fn new(node: &Node, spec: &Spec) -> Self {
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

    /// Another one in its place, with the same addresses.
    pub(super) fn renewed(self, interfaces: u8) -> Self {
        let (node, address, link) = (self.node.clone(), self.address, self.link);
        drop(self);
        let netns = Netns::new();
        node.watch(&netns.path());
        let mut network = Self { host_veths: Vec::new(), address, link, mac: Mac([0; 6]), netns, node };
        for _ in 0..interfaces {
            network.add_interface();
        }
        network.mac = netdev::mac(&network.netns, "eth0");
        network
    }

    /// Gives `eth0` on a bridge its state, addresses and routes again.
    pub(super) fn configure(&self) {
        let mut commands = vec!["link set eth0 up".to_owned()];
        commands.extend(self.addresses(0, "eth0"));
        netdev::ip(&self.netns, &commands);
    }

    fn is_routed(&self) -> bool {
        matches!(self.link, Link::Routed | Link::Netkit)
    }

    /// The device type of an interface that stands on the node's bridge and has no host end.
    fn without_host_end(&self) -> Option<&'static str> {
        match self.link {
            Link::Macvlan => Some("macvlan mode bridge"),
            Link::Ipvlan => Some("ipvlan mode l2"),
            Link::Bridged | Link::Routed | Link::Netkit | Link::NetkitBridged | Link::HostNetwork => None,
        }
    }

    /// One interface, `eth0`, that stands on the node's first bridge.
    fn add_on_bridge(&self, kind: &str) {
        let (pod, bridge) = (self.netns.name(), BRIDGES[0]);
        netdev::ip(self.node.netns(), &[format!("link add link {bridge} name eth0 netns {pod} type {kind}")]);
        self.configure();
    }

    /// The commands that give an interface its addresses on the link of that number, and the first one the routes.
    fn addresses(&self, number: u8, inner: &str) -> Vec<String> {
        let mut commands = vec![
            format!("addr replace {}/24 dev {inner}", self.v4(number)),
            format!("addr replace {}/64 dev {inner} nodad", self.v6(number)),
        ];
        if number == 0 {
            commands.push(format!("route replace default via {}", gateway_v4(0)));
            commands.push(format!("route replace default via {}", gateway_v6(0)));
        }
        commands
    }

    pub(super) fn add_interface(&mut self) {
        if let Some(kind) = self.without_host_end() {
            return self.add_on_bridge(kind);
        }
        let number = u8::try_from(self.host_veths.len()).expect("a pod has few interfaces");
        let (host, inner) = (format!("veth{:x}", name::number()), format!("eth{number}"));
        match self.link {
            Link::Netkit => netkit::pair(Mode::default(), self.node.netns(), &host, &self.netns, &inner),
            Link::NetkitBridged => {
                let mode = Mode { l2: true, ..Mode::default() };
                netkit::pair(mode, self.node.netns(), &host, &self.netns, &inner);
            }
            _ => netdev::veth(self.node.netns(), &host, &self.netns, &inner),
        }
        let (v4, v6) = (self.v4(number), self.v6(number));
        let mut on_node = vec![format!("link set {host} up")];
        let mut in_pod = vec![format!("link set {inner} up")];
        if self.is_routed() {
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
            in_pod.extend(self.addresses(number, &inner));
        }
        netdev::ip(self.node.netns(), &on_node);
        netdev::ip(&self.netns, &in_pod);
        self.host_veths.push(host);
    }

    pub(super) fn v4(&self, interface: u8) -> Ipv4Addr {
        if self.is_routed() {
            Ipv4Addr::new(10, 120, 0, self.address)
        } else {
            with_host_v4(gateway_v4(interface), self.address)
        }
    }

    pub(super) fn v6(&self, interface: u8) -> Ipv6Addr {
        let base = if self.is_routed() { Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 1) } else { gateway_v6(interface) };
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
