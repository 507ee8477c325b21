//! What a pod's `--allow` rules let pass. Pure. Probes that they do prove nothing, and are no leak.

use std::net::IpAddr;

use isolate_common::{
    AllowKey, Direction, mapped,
    packet::{Packet, Source, protocol, tcp},
};

use super::socket::Kind;
use crate::allow::Compiled;

const ETHERNET: usize = 14;

/// A pod's rules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed<'a>(pub(crate) &'a Compiled);

impl Allowed<'_> {
    /// Whether a frame is let pass on its way in this direction.
    pub(super) fn frame(self, frame: &[u8], direction: Direction) -> bool {
        let version = match frame.get(12..15) {
            Some([0x08, 0x00, version]) => (*version, 4),
            Some([0x86, 0xdd, version]) => (*version, 6),
            _ => return false,
        };
        version.0 >> 4 == version.1
            && Packet::read(&Frame(frame), ETHERNET, direction).is_some_and(|packet| self.packet(&packet, direction))
    }

    /// Whether a socket's first packet is, between these addresses and ports of the pod and of the other side.
    pub(crate) fn first(self, kind: Kind, own: (IpAddr, u16), peer: (IpAddr, u16), direction: Direction) -> bool {
        let v6 = own.0.is_ipv6();
        let (protocol, kind) = match kind {
            Kind::Udp => (protocol::UDP, 0),
            Kind::Tcp => (protocol::TCP, tcp::SYN),
            Kind::Icmp if v6 => (protocol::ICMP6, 128),
            Kind::Icmp => (protocol::ICMP, 8),
            Kind::Raw => (super::socket::UNKNOWN, 0),
        };
        let has_ports = matches!(protocol, protocol::TCP | protocol::UDP);
        let port = |port| if has_ports { port } else { 0 };
        let packet = Packet {
            v6,
            own: address(own.0),
            peer: address(peer.0),
            own_port: port(own.1),
            peer_port: port(peer.1),
            protocol,
            kind,
            payload: 0,
        };
        self.packet(&packet, direction)
    }

    /// By the rules of the longest range that the other side is in, as the kernel finds them.
    fn packet(self, packet: &Packet, direction: Direction) -> bool {
        let (_, wanted) = AllowKey::of(0, packet);
        let covering = self.0.iter().filter_map(|(range, rules)| {
            let (bits, key) = range.key(0);
            let prefix = bits - AllowKey::bits(0);
            let differs = u128::from_be_bytes(key.address) ^ u128::from_be_bytes(wanted.address);
            (key.family == wanted.family && differs.leading_zeros() >= prefix).then_some((prefix, rules))
        });
        covering.max_by_key(|(prefix, _)| *prefix).is_some_and(|(_, rules)| rules.allow(packet, direction))
    }
}

/// As the reader of packets has it: the last four bytes are an IPv4 address.
fn address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

struct Frame<'a>(&'a [u8]);

impl Source for Frame<'_> {
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }

    fn length(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use Direction::{In, Out};

    use super::*;
    use crate::allow;

    #[test]
    fn the_longest_range_decides_by_direction_protocol_and_port() {
        let rules = ["0.0.0.0/0:53/udp", "out:192.0.2.0/24", "in:[2001:db8::/32]"];
        let rules: Vec<_> = rules.iter().map(|text| text.parse().expect("a rule")).collect();
        let compiled = allow::compile(&rules).expect("three rules");
        let asked = |kind, peer: &str, port, direction| {
            let peer: IpAddr = peer.parse().expect("an address");
            let own = if peer.is_ipv4() { "10.0.0.2" } else { "fd00::2" }.parse().expect("an address");
            Allowed(&compiled).first(kind, (own, 40_000), (peer, port), direction)
        };
        assert!(asked(Kind::Udp, "10.1.1.1", 53, Out) && !asked(Kind::Udp, "10.1.1.1", 54, Out));
        assert!(!asked(Kind::Icmp, "10.1.1.1", 53, Out), "a port is of UDP and TCP");
        assert!(asked(Kind::Icmp, "192.0.2.9", 0, Out) && !asked(Kind::Icmp, "192.0.2.9", 0, In));
        assert!(asked(Kind::Tcp, "2001:db8::1", 1, In) && !asked(Kind::Tcp, "2001:db8::1", 1, Out));
        assert!(asked(Kind::Raw, "2001:db8::1", 0, In) && !asked(Kind::Raw, "2001:db9::1", 0, In));
        let none = allow::compile(&[]).expect("no rules");
        assert!(!Allowed(&none).first(
            Kind::Udp,
            ("10.0.0.2".parse().expect("one"), 1),
            ("10.0.0.3".parse().expect("one"), 2),
            Out
        ));
    }

    #[test]
    fn probes_of_other_families_are_never_allowed() {
        let all: Vec<_> = ["0.0.0.0/0", "::/0"].iter().map(|text| text.parse().expect("a rule")).collect();
        let all = allow::compile(&all).expect("two rules");
        let frames = super::super::frame::all([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let allowed = frames.iter().filter(|frame| Allowed(&all).frame(frame, In)).count();
        // Padded ones hold more than their IP header says, which no exemption lets pass.
        assert!(allowed > 0 && allowed <= 8, "{allowed} of {}", frames.len());
    }
}
