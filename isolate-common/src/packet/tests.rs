//! The reader against one that is slow and obvious, on packets that are nearly right and on any bytes.

use proptest::prelude::*;

use super::*;

/// A packet that says when it is read beyond its end.
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Source for Bytes {
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }

    fn length(&self) -> u32 {
        u32::try_from(self.0.len()).expect("short")
    }
}

fn address(bytes: &[u8]) -> Address {
    let mut address = [0; 16];
    address[16 - bytes.len()..].copy_from_slice(bytes);
    address
}

/// From the RFCs (791, 8200, 9293, 768), in the order in which they are written.
fn oracle(packet: &[u8], direction: Direction) -> Option<Packet> {
    let (v6, header, length, next, from, to) = match packet.first()? >> 4 {
        4 => {
            let header = packet.get(..20)?;
            let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
            if header[0] & 15 != 5 || fragment != 0 {
                return None;
            }
            let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
            (false, 20, length, header[9], address(&header[12..16]), address(&header[16..20]))
        }
        6 => {
            let header = packet.get(..40)?;
            let length = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
            (true, 40, length, header[6], address(&header[8..24]), address(&header[24..40]))
        }
        _ => return None,
    };
    let extensions = [0, 43, 44, 51, 60, 135, 139, 140];
    if length != packet.len() || length < header || (v6 && extensions.contains(&next)) {
        return None;
    }
    let body = &packet[header..];
    let word = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    let (ports, kind, payload) = match next {
        6 => {
            let (offset, flags) = (*body.get(12)?, *body.get(13)?);
            let options = usize::from(offset >> 4) * 4;
            if offset & 15 != 0 || options < 20 || options > body.len() {
                return None;
            }
            ((word(0)?, word(2)?), flags, body.len() - options)
        }
        17 if body.len() >= 8 => ((word(0)?, word(2)?), 0, body.len() - 8),
        17 => return None,
        1 | 58 => ((0, 0), *body.first()?, body.len()),
        _ => ((0, 0), 0, body.len()),
    };
    let payload = u32::try_from(payload).expect("short");
    let (peer, own, (peer_port, own_port)) = match direction {
        Direction::In => (from, to, ports),
        Direction::Out => (to, from, (ports.1, ports.0)),
    };
    Some(Packet { v6, peer, own, protocol: next, peer_port, own_port, kind, payload })
}

/// Nearly right: a header that fits, or not quite.
pub(crate) fn packets() -> impl Strategy<Value = Vec<u8>> {
    let next =
        prop_oneof![3 => Just(6_u8), 2 => Just(17_u8), 1 => Just(1), 1 => Just(58), 1 => Just(43), 1 => any::<u8>()];
    let body = prop::collection::vec(any::<u8>(), 0..60);
    let off = prop_oneof![6 => Just(0_i32), 1 => -3..3_i32];
    (any::<bool>(), next, body, off, prop_oneof![6 => Just(0x50_u8), 1 => any::<u8>()], any::<[u8; 32]>(), 0..8_u8)
        .prop_map(|(v6, next, mut body, off, offset, addresses, odd)| {
            if next == 6 && body.len() > 12 {
                body[12] = offset;
            }
            let length = |header: i32| {
                let length = header + i32::try_from(body.len()).expect("short") + off;
                u16::try_from(length.max(0)).expect("short").to_be_bytes()
            };
            let mut packet = if v6 {
                let head = [&[0x60, 0, 0, 0][..], &length(0), &[next, 64]].concat();
                [&head[..], &addresses].concat()
            } else {
                let head = [&[if odd == 1 { 0x46 } else { 0x45 }, 0][..], &length(20), &[0, 0]].concat();
                let fragment = match odd {
                    2 => [0x20, 0],
                    3 => [0, 1],
                    4 => [0x40, 0],
                    5 => [0x80, 0],
                    _ => [0, 0],
                };
                [&head[..], &fragment, &[64, next, 0, 0], &addresses[..8]].concat()
            };
            packet.extend(body);
            packet
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn agrees_with_the_obvious_reader(packet in packets(), before in 0..20_usize, out in any::<bool>()) {
        let direction = if out { Direction::Out } else { Direction::In };
        let framed = Bytes([vec![0xee; before], packet.clone()].concat());
        prop_assert_eq!(Packet::read(&framed, before, direction), oracle(&packet, direction));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..90), start in 0..100_usize) {
        let expected = bytes.get(start..).and_then(|packet| oracle(packet, Direction::In));
        let read = Packet::read(&Bytes(bytes.clone()), start, Direction::In);
        prop_assert_eq!(read, expected);
        // Never more than was there.
        prop_assert!(read.is_none_or(|read| usize::try_from(read.payload).expect("short") <= bytes.len()));
    }
}
