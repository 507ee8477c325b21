//! Topologies: the plain channels on pods that are connected in other ways.

use std::net::SocketAddr;

use isolate_tests::{
    frame::{EXPERIMENT, Mac, Mark, arp_request, echo_request, ethernet},
    packet::{IPV4, ipv4},
    wire::{Family, Kind, Request, Ring},
};

use super::{
    Escape, Halt, escape,
    inward::{command, connection, pinged, redirected, sniffed},
    l2::{experiment, experiment_on, qdisc_bypass, qdisc_bypass_from, sends, through},
    run::Setting::{HostNetwork, Ipvlan, Macvlan, Netkit, NetkitBridged, Routed, TwoInterfaces, V6Only},
    sockets::{by_process, connect_and_send, datagram, scm_rights, tcp, v4, v6},
    stage::{DISCARD, Stage, receives},
    tampering::tun,
};

pub(super) const ALL: &[Escape] = &[
    escape(Routed, "routed veth: TCP", |s, mark| tcp(s, mark, Family::V4, 0, connect_and_send)),
    escape(Routed, "routed veth: UDP over IPv4", |s, mark| datagram(s, mark, v4(s, DISCARD))),
    escape(Routed, "routed veth: UDP over IPv6", |s, mark| datagram(s, mark, v6(s, DISCARD))),
    escape(Routed, "routed veth: frame", experiment),
    escape(Routed, "routed veth: a process of another cgroup", |s, mark| by_process(s, mark, &s.stranger)),
    escape(Routed, "routed veth: TCP connection into the pod", |s, _| connection(s, Family::V4)),
    escape(Routed, "routed veth: one-way UDP command", |s, mark| command(s, mark, Family::V4)),
    escape(Routed, "routed veth: ping that the pod's kernel answers", routed_ping),
    escape(Netkit, "routed netkit: TCP", |s, mark| tcp(s, mark, Family::V4, 0, connect_and_send)),
    escape(Netkit, "routed netkit: UDP over IPv4", |s, mark| datagram(s, mark, v4(s, DISCARD))),
    escape(Netkit, "routed netkit: UDP over IPv6", |s, mark| datagram(s, mark, v6(s, DISCARD))),
    escape(Netkit, "routed netkit: frame", experiment),
    escape(Netkit, "routed netkit: frame past the queueing discipline", |s, mark| qdisc_bypass(s, mark, "eth0")),
    escape(Netkit, "routed netkit: frame from a packet socket of before", |s, mark| {
        qdisc_bypass_from(s, mark, s.old.packet)
    }),
    escape(Netkit, "routed netkit: a process of another cgroup", |s, mark| by_process(s, mark, &s.stranger)),
    escape(Netkit, "routed netkit: a socket of another cgroup, received by SCM_RIGHTS", scm_rights),
    escape(Netkit, "routed netkit: TCP connection into the pod", |s, _| connection(s, Family::V4)),
    escape(Netkit, "routed netkit: one-way UDP command", |s, mark| command(s, mark, Family::V4)),
    escape(Netkit, "routed netkit: ping that the pod's kernel answers", routed_ping),
    escape(NetkitBridged, "netkit on a bridge: TCP", |s, mark| tcp(s, mark, Family::V4, 0, connect_and_send)),
    escape(NetkitBridged, "netkit on a bridge: UDP over IPv6", |s, mark| datagram(s, mark, v6(s, DISCARD))),
    escape(NetkitBridged, "netkit on a bridge: frame", experiment),
    escape(NetkitBridged, "netkit on a bridge: frame past the queueing discipline", |s, mark| {
        qdisc_bypass(s, mark, "eth0")
    }),
    escape(NetkitBridged, "netkit on a bridge: frame through AF_XDP in copy mode", |s, mark| {
        through(s, mark, Ring::Xdp)
    }),
    escape(NetkitBridged, "netkit on a bridge: ARP request", |s, mark| {
        sends(s, mark, &arp_request(s.victim().mac, s.victim().v4, s.neighbour().v4, mark))
    }),
    escape(NetkitBridged, "netkit on a bridge: a process of another cgroup", |s, mark| {
        by_process(s, mark, &s.stranger)
    }),
    escape(NetkitBridged, "netkit on a bridge: TCP connection into the pod", |s, _| connection(s, Family::V4)),
    escape(NetkitBridged, "netkit on a bridge: one-way UDP command", |s, mark| command(s, mark, Family::V4)),
    escape(NetkitBridged, "netkit on a bridge: ping that the pod's kernel answers", pinged),
    escape(NetkitBridged, "netkit on a bridge: frame that a sniffer in the pod sees", sniffed),
    escape(NetkitBridged, "netkit on a bridge: datagram delivered by bpf_redirect_peer", |s, mark| {
        redirected(s, |s| command(s, mark, Family::V4))
    }),
    escape(TwoInterfaces, "second veth: UDP", |s, mark| {
        let to = (s.scene.neighbour.second_end().v4, DISCARD).into();
        datagram(s, mark, to)
    }),
    escape(TwoInterfaces, "second veth: frame", |s, mark| experiment_on(s, mark, "eth1")),
    escape(TwoInterfaces, "second veth: one-way UDP command", |s, mark| {
        let socket = s.make(&Request::Socket { kind: Kind::Udp, family: Family::V4, timeout: s.patience() })?;
        let own = s.scene.web.second_end().v4;
        let bound = s.call(&Request::Bind(socket, (own, 0).into()))?;
        let to = SocketAddr::new(own.into(), u16::try_from(bound.value).expect("a port has 16 bits"));
        s.peer().socket(Kind::Udp, Family::V4, s.patience()).send_to(to, mark.bytes());
        Ok(receives(&s.attacker, socket, mark))
    }),
    escape(TwoInterfaces, "second veth: frame that a sniffer in the pod sees", |s, mark| {
        let frame = ethernet(Mac::BROADCAST, s.scene.neighbour.second_end().mac, EXPERIMENT, mark.bytes());
        s.sniffs("eth1", mark, || {
            s.peer().packet("eth1", s.patience()).send(&frame);
        })
    }),
    escape(V6Only, "IPv6 only: TCP", |s, mark| tcp(s, mark, Family::V6, 0, connect_and_send)),
    escape(V6Only, "IPv6 only: UDP", |s, mark| datagram(s, mark, v6(s, DISCARD))),
    escape(V6Only, "IPv6 only: frame", experiment),
    escape(V6Only, "IPv6 only: IPv4 packet in a frame", |s, mark| {
        let packet = ipv4(s.victim().v4, s.neighbour().v4, 253, mark.bytes());
        sends(s, mark, &ethernet(s.neighbour().mac, s.victim().mac, IPV4, &packet))
    }),
    escape(V6Only, "IPv6 only: one-way UDP command", |s, mark| command(s, mark, Family::V6)),
    escape(Macvlan, "macvlan: TCP", |s, mark| tcp(s, mark, Family::V4, 0, connect_and_send)),
    escape(Macvlan, "macvlan: UDP over IPv4", |s, mark| datagram(s, mark, v4(s, DISCARD))),
    escape(Macvlan, "macvlan: UDP over IPv6", |s, mark| datagram(s, mark, v6(s, DISCARD))),
    escape(Macvlan, "macvlan: frame", experiment),
    escape(Macvlan, "macvlan: frame past the queueing discipline", |s, mark| qdisc_bypass(s, mark, "eth0")),
    escape(Macvlan, "macvlan: frame past the queueing discipline, from a socket of before", |s, mark| {
        qdisc_bypass_from(s, mark, s.old.packet)
    }),
    escape(Macvlan, "macvlan: frame that a sniffer of before sees", sniffed_of_before),
    escape(Macvlan, "macvlan: a process of another cgroup", |s, mark| by_process(s, mark, &s.stranger)),
    escape(Macvlan, "macvlan: a socket of another cgroup, received by SCM_RIGHTS", scm_rights),
    escape(Macvlan, "macvlan: a TUN device, and the pod forwards", tun),
    escape(Macvlan, "macvlan: TCP connection into the pod", |s, _| connection(s, Family::V4)),
    escape(Macvlan, "macvlan: one-way UDP command", |s, mark| command(s, mark, Family::V4)),
    escape(Macvlan, "macvlan: ping that the pod's kernel answers", pinged),
    escape(Macvlan, "macvlan: frame that a sniffer in the pod sees", sniffed),
    escape(Ipvlan, "ipvlan: UDP", |s, mark| datagram(s, mark, v4(s, DISCARD))),
    escape(Ipvlan, "ipvlan: frame", experiment),
    escape(Ipvlan, "ipvlan: one-way UDP command", |s, mark| command(s, mark, Family::V4)),
    escape(Ipvlan, "ipvlan: ping that the pod's kernel answers", pinged),
    escape(HostNetwork, "host network: TCP", |s, mark| tcp(s, mark, Family::V4, 0, connect_and_send)),
    escape(HostNetwork, "host network: UDP over IPv4", |s, mark| datagram(s, mark, v4(s, DISCARD))),
    escape(HostNetwork, "host network: UDP over IPv6", |s, mark| datagram(s, mark, v6(s, DISCARD))),
    escape(HostNetwork, "host network: raw IPv4", |s, mark| {
        let socket = s.make(&Request::Socket { kind: Kind::Raw, family: Family::V4, timeout: s.patience() })?;
        s.send(socket, v4(s, 0), mark.bytes())?;
        Ok(s.arrives(mark))
    }),
    escape(HostNetwork, "host network: TCP connection into the pod", |s, _| connection(s, Family::V4)),
    escape(HostNetwork, "host network: one-way UDP command", |s, mark| command(s, mark, Family::V4)),
    escape(HostNetwork, "host network: frame", |s, mark| experiment_on(s, mark, "cni0")),
    escape(HostNetwork, "host network: frame past the queueing discipline", |s, mark| qdisc_bypass(s, mark, "cni0")),
    escape(HostNetwork, "host network: frame that a sniffer in the pod sees", |s, mark| {
        let frame = ethernet(Mac::BROADCAST, s.neighbour().mac, EXPERIMENT, mark.bytes());
        s.sniffs("cni0", mark, || s.neighbour_sends(&frame))
    }),
    escape(HostNetwork, "host network: frame from a packet socket of before", |s, mark| {
        qdisc_bypass_from(s, mark, s.old.packet)
    }),
    escape(HostNetwork, "host network: frame that a sniffer of before sees", sniffed_of_before),
    escape(HostNetwork, "host network: a TUN device, and the node forwards", tun),
    escape(HostNetwork, "host network: a socket of another cgroup, received by SCM_RIGHTS", scm_rights),
];

/// The neighbour's own kernel routes it; the answer is what comes back to its socket.
#[expect(clippy::unnecessary_wraps, reason = "it has the form of a channel")]
fn routed_ping(s: &Stage, mark: &Mark) -> Result<bool, Halt> {
    let socket = s.peer().socket(Kind::Icmp, Family::V4, s.patience());
    socket.send_to((s.victim().v4, 0).into(), &echo_request(false, mark));
    Ok(receives(s.peer(), socket.handle(), mark))
}

/// What a packet socket sees that was open all the time.
#[expect(clippy::unnecessary_wraps, reason = "it has the form of a channel")]
fn sniffed_of_before(s: &Stage, mark: &Mark) -> Result<bool, Halt> {
    s.neighbour_sends(&ethernet(Mac::BROADCAST, s.neighbour().mac, EXPERIMENT, mark.bytes()));
    Ok(isolate_tests::wait::happens_within(s.patience(), || receives(&s.attacker, s.old.packet, mark)))
}
