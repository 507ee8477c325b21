//! What an exemption looks at in a packet: addresses, ports, flags and lengths, read with bounds checks.
//!
//! Only packets without surprises are read: no IP options, no fragments, no extension headers, no bytes behind the end
//! that the IP header names. An exempted conversation needs none of these, and each is a place to hide data in.

use crate::Direction;

/// An IPv6 address, or an IPv4 one in the last four bytes. Which it is, is said beside it.
pub type Address = [u8; 16];

/// IP protocol numbers.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// `ICMPv6`.
    pub const ICMP6: u8 = 58;
}

/// Flags of a TCP header.
pub mod tcp {
    /// The sender has no more data.
    pub const FIN: u8 = 0x01;
    /// The connection begins.
    pub const SYN: u8 = 0x02;
    /// The connection is no more.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// Flags that say nothing about the connection: congestion, and "hand it on now".
    pub const NEUTRAL: u8 = 0xc8;
}

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: u32 = 20;
const UDP_HEADER: u32 = 8;

/// Where a packet's bytes come from.
pub trait Source {
    /// `N` bytes at `offset`, or none if the packet ends before their end.
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
    /// Length of the whole packet.
    fn length(&self) -> u32;
}

/// One packet of an isolated pod, seen from the pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Whether it is IPv6.
    pub v6: bool,
    /// The other side's address.
    pub peer: Address,
    /// The pod's address.
    pub own: Address,
    /// IP protocol.
    pub protocol: u8,
    /// The other side's port; 0 without ports.
    pub peer_port: u16,
    /// The pod's port; 0 without ports.
    pub own_port: u16,
    /// TCP flags, or the type of an ICMP message.
    pub kind: u8,
    /// Bytes behind the TCP or UDP header.
    pub payload: u32,
}

impl Packet {
    /// Reads the IP packet that begins at `start`; none if it is something else, or has what no exemption needs.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
    pub fn read(source: &impl Source, start: usize, direction: Direction) -> Option<Self> {
        let [first] = source.bytes::<1>(start)?;
        let (v6, from, to, protocol, rest, header) = match first {
            0x45 => {
                let header = source.bytes::<IPV4_HEADER>(start)?;
                // More fragments, or not the first one. (The other two bits are reserved and "do not fragment".)
                if header[6] & 0x3f != 0 || header[7] != 0 {
                    return None;
                }
                let rest = u32::from(u16::from_be_bytes([header[2], header[3]])).checked_sub(20)?;
                let (mut from, mut to) = ([0; 16], [0; 16]);
                from[12..].copy_from_slice(&header[12..16]);
                to[12..].copy_from_slice(&header[16..20]);
                (false, from, to, header[9], rest, IPV4_HEADER)
            }
            0x60..=0x6f => {
                let header = source.bytes::<IPV6_HEADER>(start)?;
                if is_extension(header[6]) {
                    return None;
                }
                let rest = u32::from(u16::from_be_bytes([header[4], header[5]]));
                let (mut from, mut to) = ([0; 16], [0; 16]);
                from.copy_from_slice(&header[8..24]);
                to.copy_from_slice(&header[24..40]);
                (true, from, to, header[6], rest, IPV6_HEADER)
            }
            _ => return None,
        };
        let start = start + header;
        if u32::try_from(start).ok()?.checked_add(rest)? != source.length() {
            return None;
        }
        let (mut from_port, mut to_port, mut kind, mut payload) = (0, 0, 0, rest);
        match protocol {
            protocol::TCP => {
                let [a, b, c, d, _, _, _, _, _, _, _, _, offset, flags] = source.bytes::<14>(start)?;
                let options = u32::from(offset >> 4) * 4;
                // The low half is reserved, but for one bit of accurate ECN, which nothing here needs.
                if offset & 0x0f != 0 || options < TCP_HEADER {
                    return None;
                }
                payload = rest.checked_sub(options)?;
                (from_port, to_port, kind) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), flags);
            }
            protocol::UDP => {
                let [a, b, c, d] = source.bytes::<4>(start)?;
                payload = rest.checked_sub(UDP_HEADER)?;
                (from_port, to_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            }
            protocol::ICMP | protocol::ICMP6 => [kind] = source.bytes::<1>(start)?,
            _ => {}
        }
        let (peer, own, peer_port, own_port) = match direction {
            Direction::In => (from, to, from_port, to_port),
            Direction::Out => (to, from, to_port, from_port),
        };
        Some(Self { v6, peer, own, protocol, peer_port, own_port, kind, payload })
    }
}

/// Whether another header of IPv6 follows, and not a protocol (IANA, "IPv6 Extension Header Types"; without ESP, which hides
/// all that follows, and those for experiments: an `--allow` without a port lets these pass).
#[inline(always)]
#[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
const fn is_extension(next: u8) -> bool {
    // Hop by hop, routing, fragment, authentication, destination, mobility, HIP, Shim6.
    matches!(next, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140)
}

#[cfg(test)]
pub(crate) mod tests;
