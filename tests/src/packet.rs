//! Packets and socket addresses by hand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::frame::{Mac, checksum};

/// Ethertype of IPv4.
pub const IPV4: u16 = 0x0800;
/// Ethertype of IPv6.
pub const IPV6: u16 = 0x86dd;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// An IPv4 packet.
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(from, to, protocol, 0, &[], payload)
}

/// An IPv4 packet with this fragment field (flags and offset) and these options, whole words of them.
pub fn ipv4_with(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, fragment: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let version = 0x40 | u8::try_from(header / 4).expect("at most ten words of options");
    let total = u16::try_from(header + payload.len()).expect("a packet has at most 65535 bytes");
    let mut packet = [&[version, 0], &total.to_be_bytes()[..], &[0x15, 0x0a], &fragment.to_be_bytes()].concat();
    packet.extend([64, protocol, 0, 0]);
    packet.extend(from.octets().into_iter().chain(to.octets()).chain(options.iter().copied()));
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet.
pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a packet has at most 65535 bytes");
    // Neighbour discovery wants the hop limit 255.
    [&[0x60, 0, 0, 0], &length.to_be_bytes()[..], &[next, 255], &from.octets(), &to.octets(), payload].concat()
}

/// A UDP datagram without checksum, which IPv4 allows.
pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a datagram has at most 65535 bytes");
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// An `ICMPv6` message with its checksum.
pub fn icmpv6(from: Ipv6Addr, to: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0], body].concat();
    let length = u32::try_from(message.len()).expect("a message is short");
    let pseudo = [&from.octets()[..], &to.octets(), &length.to_be_bytes(), &[0, 0, 0, 58], &message].concat();
    let sum = checksum(&pseudo);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// The Ethernet address of an IPv6 multicast group.
pub fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// A `sockaddr_in` or `sockaddr_in6`.
pub fn sockaddr(address: SocketAddr) -> Vec<u8> {
    let family = |family: i32| u16::try_from(family).expect("a family has 16 bits").to_ne_bytes();
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => [&family(libc::AF_INET)[..], &port, &ip.octets(), &[0; 8]].concat(),
        IpAddr::V6(ip) => [&family(libc::AF_INET6)[..], &port, &[0; 4], &ip.octets(), &[0; 4]].concat(),
    }
}

/// A `sockaddr_ll`.
pub fn link_address(ifindex: u32, ethertype: u16, to: Mac) -> Vec<u8> {
    let family = u16::try_from(libc::AF_PACKET).expect("a family has 16 bits").to_ne_bytes();
    [&family[..], &ethertype.to_be_bytes(), &ifindex.to_ne_bytes(), &[0, 0, 0, 6], &to.0, &[0, 0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_add_up() {
        let packet = ipv4_with([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), UDP, 0, &[1, 1, 1, 0], b"payload");
        assert_eq!((packet[0], packet.len()), (0x46, 31));
        assert_eq!(checksum(&packet[..24]), 0, "the header's own checksum makes its sum zero");
        assert_eq!(udp(1, 2, b"xy")[4..6], [0, 10]);
        assert_eq!(ipv6(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, 17, b"abc")[4..6], [0, 3]);
    }
}
