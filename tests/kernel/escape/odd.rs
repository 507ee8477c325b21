//! Odd packets: what a filter that reads packets may read wrongly.

use isolate_tests::{
    frame::{EXPERIMENT, Mac, Mark, ethernet},
    packet::{IPV4, IPV6, UDP, ipv4, ipv4_with, ipv6, udp},
};

use super::{
    Escape, Halt, escape,
    l2::sends,
    run::Setting::Bridged,
    stage::{DISCARD, Stage},
};

const fn odd(name: &'static str, attempt: fn(&Stage, &Mark) -> Result<bool, Halt>) -> Escape {
    escape(Bridged, name, attempt)
}

/// IP protocol numbers.
const IPIP: u8 = 4;
const IPV6_IN_IPV4: u8 = 41;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const GRE: u8 = 47;
const ESP: u8 = 50;
const AH: u8 = 51;
const DESTINATION: u8 = 60;

pub(super) const ALL: &[Escape] = &[
    odd("first fragment (IPv4)", |s, mark| fragment(s, mark, 0x2000)),
    odd("later fragment without the first (IPv4)", |s, mark| fragment(s, mark, 0x2064)),
    odd("last fragment without the first (IPv4)", |s, mark| fragment(s, mark, 0x0064)),
    odd("fragment (IPv6)", |s, mark| {
        v6(s, mark, FRAGMENT, &[&[UDP, 0, 0, 1, 0, 0, 0, 7], &datagram(mark)[..]].concat())
    }),
    odd("IPv4 options to the last word", |s, mark| {
        let packet = ipv4_with(s.victim().v4, s.neighbour().v4, UDP, 0, &[1; 40], &datagram(mark));
        v4_frame(s, mark, &packet)
    }),
    odd("IPv6 hop-by-hop header", |s, mark| v6(s, mark, 0, &extended(UDP, mark))),
    odd("IPv6 destination options, three times", |s, mark| {
        let third = extended(UDP, mark);
        let second = [&[DESTINATION, 0, 1, 4, 0, 0, 0, 0], &third[..]].concat();
        v6(s, mark, DESTINATION, &[&[DESTINATION, 0, 1, 4, 0, 0, 0, 0], &second[..]].concat())
    }),
    odd("IPv6 routing header", |s, mark| {
        // Type 4 (segment routing), no segments left.
        v6(s, mark, ROUTING, &[&[UDP, 0, 4, 0, 0, 0, 0, 0], &datagram(mark)[..]].concat())
    }),
    odd("IPv6 packet that says it has no next header", |s, mark| v6(s, mark, 59, mark.bytes())),
    odd("frame that is only a header", |s, _| {
        // It has no place for a mark but its source.
        let from = Mac([2, 0x15, 0x0b, 0, s.number().to_be_bytes()[0], s.number().to_be_bytes()[1]]);
        s.frame_on("eth0", &ethernet(s.neighbour().mac, from, EXPERIMENT, &[]))?;
        Ok(s.arrives_such(|frame| frame.from() == from))
    }),
    odd("frame of the greatest length", |s, mark| {
        let mut payload = mark.bytes().to_vec();
        payload.resize(1500, b'.');
        sends(s, mark, &ethernet(s.neighbour().mac, s.victim().mac, EXPERIMENT, &payload))
    }),
    odd("IPv4 header cut short", |s, mark| {
        // Says IPv4, and that its header is longer than the frame.
        v4_frame(s, mark, &[&[0x4f], mark.bytes()].concat())
    }),
    odd("packet of IP version 5", |s, mark| v4_frame(s, mark, &[&[0x55], mark.bytes()].concat())),
    odd("IPv6 packet in an IPv4 frame", |s, mark| {
        v4_frame(s, mark, &ipv6(s.victim().v6, s.neighbour().v6, UDP, &datagram(mark)))
    }),
    odd("datagram of length zero", |s, _| {
        // Its ports are the mark.
        let port = 20000 + s.number();
        let packet = ipv4(s.victim().v4, s.neighbour().v4, UDP, &udp(port, port, &[]));
        s.frame_on("eth0", &ethernet(s.neighbour().mac, s.victim().mac, IPV4, &packet))?;
        let ports = [port.to_be_bytes(), port.to_be_bytes()].concat();
        Ok(s.arrives_such(|frame| frame.bytes().get(34..38) == Some(&ports)))
    }),
    odd("packet with a wrong checksum", |s, mark| {
        let mut packet = ipv4(s.victim().v4, s.neighbour().v4, UDP, &datagram(mark));
        packet[10] ^= 0xff;
        v4_frame(s, mark, &packet)
    }),
    odd("packet from its own destination (LAND)", |s, mark| {
        v4_frame(s, mark, &ipv4(s.neighbour().v4, s.neighbour().v4, UDP, &datagram(mark)))
    }),
    odd("packet from a loopback address", |s, mark| {
        v4_frame(s, mark, &ipv4([127, 0, 0, 1].into(), s.neighbour().v4, UDP, &datagram(mark)))
    }),
    odd("GRE", |s, mark| {
        let inner = ipv4([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), UDP, &datagram(mark));
        v4(s, mark, GRE, &[&[0, 0, 8, 0], &inner[..]].concat())
    }),
    odd("IP in IP", |s, mark| {
        v4(s, mark, IPIP, &ipv4([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), UDP, &datagram(mark)))
    }),
    odd("IPv6 in IPv4", |s, mark| {
        v4(s, mark, IPV6_IN_IPV4, &ipv6(s.victim().v6, s.neighbour().v6, UDP, &datagram(mark)))
    }),
    odd("ESP", |s, mark| v4(s, mark, ESP, &[&[0, 0, 1, 0, 0, 0, 0, 1], mark.bytes()].concat())),
    odd("AH", |s, mark| {
        v4(s, mark, AH, &[&[UDP, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1], &[0; 12], &datagram(mark)[..]].concat())
    }),
    odd("UDP shaped like WireGuard", |s, mark| {
        to_port(s, mark, 51820, &[4, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    }),
    odd("UDP shaped like VXLAN", |s, mark| {
        let inner = ethernet(Mac::BROADCAST, s.victim().mac, EXPERIMENT, &[]);
        to_port(s, mark, 4789, &[&[8, 0, 0, 0, 0, 0, 42, 0], &inner[..]].concat())
    }),
    odd("UDP shaped like Geneve", |s, mark| to_port(s, mark, 6081, &[0, 0, 0x65, 0x58, 0, 0, 42, 0])),
    odd("UDP shaped like DNS", |s, mark| to_port(s, mark, 53, &[0x15, 0x0a, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0])),
];

fn datagram(mark: &Mark) -> Vec<u8> {
    udp(DISCARD, DISCARD, mark.bytes())
}

/// An extension header with one padding option, and a datagram.
fn extended(next: u8, mark: &Mark) -> Vec<u8> {
    [&[next, 0, 1, 4, 0, 0, 0, 0], &datagram(mark)[..]].concat()
}

fn fragment(s: &Stage, mark: &Mark, field: u16) -> Result<bool, Halt> {
    v4_frame(s, mark, &ipv4_with(s.victim().v4, s.neighbour().v4, UDP, field, &[], &datagram(mark)))
}

fn to_port(s: &Stage, mark: &Mark, port: u16, head: &[u8]) -> Result<bool, Halt> {
    v4(s, mark, UDP, &udp(port, port, &[head, mark.bytes()].concat()))
}

fn v4(s: &Stage, mark: &Mark, protocol: u8, payload: &[u8]) -> Result<bool, Halt> {
    v4_frame(s, mark, &ipv4(s.victim().v4, s.neighbour().v4, protocol, payload))
}

fn v4_frame(s: &Stage, mark: &Mark, packet: &[u8]) -> Result<bool, Halt> {
    sends(s, mark, &ethernet(s.neighbour().mac, s.victim().mac, IPV4, packet))
}

fn v6(s: &Stage, mark: &Mark, next: u8, payload: &[u8]) -> Result<bool, Halt> {
    let packet = ipv6(s.victim().v6, s.neighbour().v6, next, payload);
    sends(s, mark, &ethernet(s.neighbour().mac, s.victim().mac, IPV6, &packet))
}
