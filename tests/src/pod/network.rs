//! The pod's network namespace and its veths, as a CNI plugin would leave them.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::spec::{Link, Spec};
use crate::{
    frame::Mac,
    name, netdev,
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

    pub(super) fn add_interface(&mut self) {
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

    pub(super) fn v4(&self, interface: u8) -> Ipv4Addr {
        if self.link == Link::Routed {
            Ipv4Addr::new(10, 120, 0, self.address)
        } else {
            with_host_v4(gateway_v4(interface), self.address)
        }
    }

    pub(super) fn v6(&self, interface: u8) -> Ipv6Addr {
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
