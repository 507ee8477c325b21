//! Frames: what a packet socket sends past the IP layer, by every way that the kernel has for it.

use std::net::{Ipv4Addr, Ipv6Addr};

use isolate_tests::{
    frame::{ARP, EXPERIMENT, Mac, Mark, arp_request, ethernet},
    netdev,
    packet::{IPV4, IPV6, UDP, icmpv6, ipv4, ipv4_with, ipv6, link_address, multicast_mac, udp},
    wire::{Handle, Raw, Request, Ring},
};

use super::{
    Escape, Halt, escape,
    run::Setting::Bridged,
    stage::{DISCARD, Stage},
};

/// Options of `SOL_PACKET`, `linux/if_packet.h`.
const PACKET_QDISC_BYPASS: i32 = 20;
const PACKET_VNET_HDR: i32 = 15;
/// Groups of link-local protocols (IEEE 802.1).
const SPANNING_TREE: Mac = Mac([0x01, 0x80, 0xc2, 0, 0, 0]);
const EAPOL: Mac = Mac([0x01, 0x80, 0xc2, 0, 0, 3]);
const LLDP: Mac = Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]);

const fn frame(name: &'static str, attempt: fn(&Stage, &Mark) -> Result<bool, Halt>) -> Escape {
    escape(Bridged, name, attempt)
}

pub(super) const ALL: &[Escape] = &[
    frame("frame of an unknown ethertype", experiment),
    frame("frame by a datagram packet socket", |s, mark| {
        let socket = s.open(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
        let index = netdev::index(s.scene.web.netns(), "eth0");
        let to = Some(link_address(index, EXPERIMENT, s.neighbour().mac));
        s.raw(Raw::Send { socket, flags: 0, to, data: mark.bytes().to_vec() })?;
        Ok(s.arrives(mark))
    }),
    frame("frame past the queueing discipline (PACKET_QDISC_BYPASS)", |s, mark| qdisc_bypass(s, mark, "eth0")),
    frame("frame through a TX ring", |s, mark| through(s, mark, Ring::Packet)),
    frame("frame through AF_XDP in copy mode", |s, mark| through(s, mark, Ring::Xdp)),
    frame("frame for the kernel to segment (PACKET_VNET_HDR)", |s, mark| {
        let socket = s.make(&Request::Packet { device: "eth0".to_owned(), timeout: s.patience() })?;
        s.set(socket, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        let packet =
            ipv4(s.victim().v4, s.neighbour().v4, UDP, &udp(DISCARD, DISCARD, &[mark.bytes(), &[b'.'; 3000]].concat()));
        let frame = ethernet(s.neighbour().mac, s.victim().mac, IPV4, &packet);
        // A virtio_net_hdr: checksum needed from 34 on, at 6; pieces of 1000 bytes.
        let send = |kind: u8| {
            let numbers = [42_u16, 1000, 34, 6].map(u16::to_ne_bytes).concat();
            s.raw(Raw::Send { socket, flags: 0, to: None, data: [&[1, kind][..], &numbers, &frame].concat() })
        };
        // VIRTIO_NET_HDR_GSO_UDP_L4, datagrams (Linux 6.2, 860b7f27b8f7); before, VIRTIO_NET_HDR_GSO_UDP, fragments.
        send(5).or_else(|_refused| send(3))?;
        Ok(s.arrives(mark))
    }),
    frame("ARP request", |s, mark| sends(s, mark, &arp_request(s.victim().mac, s.victim().v4, s.neighbour().v4, mark))),
    frame("ARP announcement", |s, mark| {
        sends(s, mark, &arp_request(s.victim().mac, s.victim().v4, s.victim().v4, mark))
    }),
    frame("RARP", |s, mark| broadcast(s, mark, 0x8035)),
    frame("broadcast frame", |s, mark| broadcast(s, mark, EXPERIMENT)),
    frame("frame with a false source address", |s, mark| {
        let from = Mac([2, 0x15, 0x0a, 0, 0, 1]);
        sends(s, mark, &ethernet(s.neighbour().mac, from, EXPERIMENT, mark.bytes()))
    }),
    frame("frame with a VLAN tag (802.1Q)", |s, mark| tagged(s, mark, &[0x81, 0, 0, 42])),
    frame("frame with two VLAN tags (802.1ad)", |s, mark| tagged(s, mark, &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 42])),
    frame("LLDP", |s, mark| to(s, mark, LLDP, 0x88cc)),
    frame("EAPOL", |s, mark| to(s, mark, EAPOL, 0x888e)),
    frame("spanning tree", |s, mark| {
        // 802.2: the length where the ethertype is otherwise, then the service access points of spanning tree.
        let body = [&[0x42, 0x42, 3], mark.bytes()].concat();
        let length = u16::try_from(body.len()).expect("a mark is short");
        sends(s, mark, &ethernet(SPANNING_TREE, s.victim().mac, length, &body))
    }),
    frame("PPPoE discovery", |s, mark| broadcast(s, mark, 0x8863)),
    frame("MPLS", |s, mark| to(s, mark, s.neighbour().mac, 0x8847)),
    frame("MACsec", |s, mark| to(s, mark, s.neighbour().mac, 0x88e5)),
    frame("IPv4 multicast frame", |s, mark| {
        let group = Ipv4Addr::new(239, 1, 2, 3);
        let packet = ipv4(s.victim().v4, group, UDP, &udp(DISCARD, DISCARD, mark.bytes()));
        sends(s, mark, &ethernet(Mac([1, 0, 0x5e, 1, 2, 3]), s.victim().mac, IPV4, &packet))
    }),
    frame("IGMP report", |s, mark| {
        // Version 2 report for 239.1.2.3, with the router alert option, the mark behind it.
        let report = [&[0x16, 0, 0xf9, 0xfa, 239, 1, 2, 3][..], mark.bytes()].concat();
        let packet = ipv4_with(s.victim().v4, [239, 1, 2, 3].into(), 2, 0, &[0x94, 4, 0, 0], &report);
        sends(s, mark, &ethernet(Mac([1, 0, 0x5e, 1, 2, 3]), s.victim().mac, IPV4, &packet))
    }),
    frame("MLD report", |s, mark| icmp6(s, mark, "ff02::16".parse().expect("it is an address"), 143, &[0; 4])),
    frame("neighbour solicitation", |s, mark| {
        let target = [&[0; 4], &s.neighbour().v6.octets()[..]].concat();
        icmp6(s, mark, s.neighbour().v6, 135, &target)
    }),
    frame("neighbour advertisement", |s, mark| {
        let target = [&[0x20, 0, 0, 0], &s.victim().v6.octets()[..]].concat();
        icmp6(s, mark, "ff02::1".parse().expect("it is an address"), 136, &target)
    }),
    frame("router solicitation", |s, mark| icmp6(s, mark, "ff02::2".parse().expect("it is an address"), 133, &[0; 4])),
    frame("router advertisement", |s, mark| {
        icmp6(s, mark, "ff02::1".parse().expect("it is an address"), 134, &[64, 0, 0, 30, 0, 0, 0, 0, 0, 0, 0, 0])
    }),
    escape(Bridged, "neighbour discovery by the kernel for an unknown address", |s, mark| {
        // The address is the mark: nobody else asks for it.
        let [.., a, b] = s.victim().v6.octets();
        let unknown = Ipv6Addr::new(0xfd88, 0, 0, 0, 0xdead, 0, u16::from_be_bytes([a, b]), s.number());
        let socket = s.open(libc::AF_INET6, libc::SOCK_DGRAM, 0)?;
        let sent = s.send(socket, (unknown, DISCARD).into(), mark.bytes());
        let asked = s.arrives_such(|frame| frame.bytes().windows(16).any(|bytes| bytes == unknown.octets()));
        if asked { Ok(true) } else { sent.map(|_| false) }
    }),
];

/// The plainest of them.
pub(super) fn experiment(s: &Stage, mark: &Mark) -> Result<bool, Halt> {
    experiment_on(s, mark, "eth0")
}

pub(super) fn experiment_on(s: &Stage, mark: &Mark, device: &str) -> Result<bool, Halt> {
    s.frame_on(device, &ethernet(Mac::BROADCAST, s.victim().mac, EXPERIMENT, mark.bytes()))?;
    Ok(s.arrives(mark))
}

pub(super) fn qdisc_bypass(s: &Stage, mark: &Mark, device: &str) -> Result<bool, Halt> {
    let socket = s.make(&Request::Packet { device: device.to_owned(), timeout: s.patience() })?;
    qdisc_bypass_from(s, mark, socket)
}

/// The same from a socket that is there already.
pub(super) fn qdisc_bypass_from(s: &Stage, mark: &Mark, socket: Handle) -> Result<bool, Halt> {
    s.set(socket, libc::SOL_PACKET, PACKET_QDISC_BYPASS, 1)?;
    let data = ethernet(Mac::BROADCAST, s.victim().mac, EXPERIMENT, mark.bytes());
    s.raw(Raw::Send { socket, flags: 0, to: None, data })?;
    Ok(s.arrives(mark))
}

/// Sends a frame with the mark in it.
pub(super) fn sends(s: &Stage, mark: &Mark, frame: &[u8]) -> Result<bool, Halt> {
    s.frame_on("eth0", frame)?;
    Ok(s.arrives(mark))
}

fn to(s: &Stage, mark: &Mark, to: Mac, ethertype: u16) -> Result<bool, Halt> {
    sends(s, mark, &ethernet(to, s.victim().mac, ethertype, mark.bytes()))
}

fn broadcast(s: &Stage, mark: &Mark, ethertype: u16) -> Result<bool, Halt> {
    assert_ne!(ethertype, ARP, "an ARP packet has a body");
    to(s, mark, Mac::BROADCAST, ethertype)
}

pub(super) fn through(s: &Stage, mark: &Mark, ring: Ring) -> Result<bool, Halt> {
    let frame = ethernet(s.neighbour().mac, s.victim().mac, EXPERIMENT, mark.bytes());
    s.raw(Raw::SendThrough(ring, "eth0".to_owned(), frame))?;
    Ok(s.arrives(mark))
}

fn tagged(s: &Stage, mark: &Mark, tags: &[u8]) -> Result<bool, Halt> {
    let (to, from) = (s.neighbour().mac, s.victim().mac);
    sends(s, mark, &[&to.0[..], &from.0, tags, &EXPERIMENT.to_be_bytes(), mark.bytes()].concat())
}

fn icmp6(s: &Stage, mark: &Mark, group: Ipv6Addr, kind: u8, body: &[u8]) -> Result<bool, Halt> {
    let from = s.victim().v6;
    let message = icmpv6(from, group, kind, &[body, mark.bytes()].concat());
    let to = if group.is_multicast() { multicast_mac(group) } else { s.neighbour().mac };
    sends(s, mark, &ethernet(to, s.victim().mac, IPV6, &ipv6(from, group, 58, &message)))
}
