//! The frames that are sent as probes: one of each family, addressed to one link, known by their source address.

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// For experiments (IEEE 802, local experimental ethertype 1).
const EXPERIMENT: u16 = 0x88b5;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// For experiments (RFC 3692).
const UNKNOWN: u8 = 253;

/// Link-local addresses for experiments, which no router forwards: 224.0.0.254 (RFC 4727), `ff02::114` (RFC 4727).
const SENTINEL_V4: [u8; 4] = [224, 0, 0, 254];
const SENTINEL_V6: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x14];
const FROM_V4: [u8; 4] = [169, 254, 0, 1];
const FROM_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// The discard port (RFC 863).
const DISCARD: u16 = 9;
/// Shortest frame without its checksum.
const SHORTEST: usize = 60;

/// What [`all`] makes, in words.
pub(super) const FAMILIES: &str = "ARP, UDP, TCP SYN, ICMP and raw over IPv4 and IPv6, an unknown ethertype";

/// One frame of each family.
pub(super) fn all(to: Mac, from: Mac) -> Vec<Vec<u8>> {
    let udp = [&DISCARD.to_be_bytes()[..], &DISCARD.to_be_bytes(), &8_u16.to_be_bytes(), &[0, 0]].concat();
    let syn = {
        let ports = [DISCARD.to_be_bytes(), DISCARD.to_be_bytes()].concat();
        // Sequence 0; header of 5 words, SYN; window, checksum, urgent pointer.
        [&ports[..], &[0; 8], &[5 << 4, 2], &[0xff, 0xff, 0, 0, 0, 0]].concat()
    };
    let echo = |kind: u8| vec![kind, 0, 0, 0, 0, 0, 0, 0];
    let mut frames = vec![ethernet(to, from, ARP, &arp(from)), ethernet(to, from, EXPERIMENT, &[])];
    for (protocol, payload) in [(UDP, udp.clone()), (TCP, syn.clone()), (ICMP, echo(8)), (UNKNOWN, vec![0; 8])] {
        frames.push(ethernet(to, from, IPV4, &ipv4(protocol, &payload)));
    }
    for (protocol, payload) in [(UDP, udp), (TCP, syn), (ICMPV6, echo(128)), (UNKNOWN, vec![0; 8])] {
        frames.push(ethernet(to, from, IPV6, &ipv6(protocol, &payload)));
    }
    frames
}

fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &from, &ethertype.to_be_bytes(), payload].concat();
    frame.resize(frame.len().max(SHORTEST), 0);
    frame
}

/// Who has the sentinel? Nobody.
fn arp(from: Mac) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    [&head[..], &from, &FROM_V4, &[0; 6], &SENTINEL_V4].concat()
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("a probe is short");
    let [high, low] = length.to_be_bytes();
    // Time to live 1.
    let mut header = [&[0x45, 0, high, low, 0, 0, 0, 0, 1, protocol, 0, 0][..], &FROM_V4, &SENTINEL_V4].concat();
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    [header, payload.to_vec()].concat()
}

fn ipv6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a probe is short").to_be_bytes();
    // Hop limit 1.
    [&[0x60, 0, 0, 0][..], &length, &[protocol, 1], &FROM_V6, &SENTINEL_V6, payload].concat()
}

/// The checksum of IP and ICMP (RFC 1071).
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("the loop above has folded it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_is_one_of_ours_and_stays_on_its_link() {
        let (to, from) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let frames = all(to, from);
        assert_eq!(frames.len(), 10);
        for frame in frames {
            assert_eq!((&frame[..6], &frame[6..12]), (&to[..], &from[..]));
            assert!(frame.len() >= SHORTEST);
            match u16::from_be_bytes([frame[12], frame[13]]) {
                IPV4 => {
                    assert_eq!((frame[22], checksum(&frame[14..34])), (1, 0), "time to live, checksum");
                    assert_eq!(frame[30..34], SENTINEL_V4);
                }
                IPV6 => assert_eq!((frame[21], &frame[38..54]), (1, &SENTINEL_V6[..]), "hop limit"),
                ARP | EXPERIMENT => {}
                other => unreachable!("{other:#x}"),
            }
        }
    }
}
