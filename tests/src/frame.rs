//! Frames and packets by hand, and the marks by which observers know them again.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use crate::name;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everybody.
    pub const BROADCAST: Self = Self([0xff; 6]);
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if index == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        bytes.ok().and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(|| format!("no MAC address: {text}"))
    }
}

/// Ethertype for experiments on one link (IEEE 802): no protocol of the kernel answers it.
pub const EXPERIMENT: u16 = 0x88b5;
/// Ethertype of ARP.
pub const ARP: u16 = 0x0806;

/// Bytes that occur in no other packet of this run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark(Vec<u8>);

impl Mark {
    /// One that was not used before.
    pub fn new() -> Self {
        Self(format!("<isolate {} {}>", std::process::id(), name::number()).into_bytes())
    }

    /// Its bytes, to be sent.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether a packet carries it.
    pub fn is_in(&self, packet: &[u8]) -> bool {
        packet.windows(self.0.len()).any(|window| window == self.0)
    }
}

impl Default for Mark {
    fn default() -> Self {
        Self::new()
    }
}

/// An Ethernet frame.
pub fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &ethertype.to_be_bytes(), payload].concat()
}

/// An ARP request in a broadcast frame, the mark behind it as padding.
pub fn arp_request(from: Mac, sender: Ipv4Addr, target: Ipv4Addr, mark: &Mark) -> Vec<u8> {
    // Ethernet, IPv4, address lengths 6 and 4, operation 1: request.
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    let body = [&head[..], &from.0, &sender.octets(), &[0; 6], &target.octets(), mark.bytes()].concat();
    ethernet(Mac::BROADCAST, from, ARP, &body)
}

/// An ICMP echo request (type 8) for a raw IPv4 socket. For `ICMPv6` (type 128) the kernel fills the checksum in.
pub fn echo_request(v6: bool, mark: &Mark) -> Vec<u8> {
    let kind = if v6 { 128 } else { 8 };
    let mut packet = [&[kind, 0, 0, 0, 0x15, 0x0a, 0, 1], mark.bytes()].concat();
    if !v6 {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(packet: &[u8]) -> u16 {
    let words = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let sum = words.fold(0, |sum, word| {
        let sum: u32 = sum + word;
        (sum & 0xffff) + (sum >> 16)
    });
    !u16::try_from(sum).expect("the carry was folded in")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn marks_are_found_in_packets_that_carry_them() {
        let (mark, other) = (Mark::new(), Mark::new());
        let packet = echo_request(true, &mark);
        assert!(mark.is_in(&packet) && !other.is_in(&packet));
    }
}
