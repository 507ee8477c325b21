//! Questions for a hardware address (ARP, ND), and the answers that the host end gives to them.
//!
//! An exempted packet needs both sides to know each other's hardware address. No such frame passes: the host end
//! answers the pod for the node and the node for the pod, so there is nothing in it that anybody could say something
//! with.

use crate::{
    Direction,
    packet::{Address, Source},
};

/// A hardware address.
pub type Mac = [u8; 6];

/// Addresses of a pod on one link.
pub const ADDRESSES: usize = 4;

/// Length of an ARP frame without padding.
pub const ARP_FRAME: usize = 42;
/// Length of an ND frame with one option.
pub const ND_FRAME: usize = 86;

/// What the host end knows about both sides of one link. The value of the map of links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct LinkFacts {
    /// The node's hardware address there: that of the bridge, or of the host end itself.
    pub node: Mac,
    /// The pod's hardware address.
    pub pod: Mac,
    /// The pod's addresses; IPv4 as `::ffff:a.b.c.d`, zeroes where there are fewer.
    pub addresses: [Address; ADDRESSES],
    /// Which of them nobody else has: a bit for each place, and [`Self::HARDWARE`]. For what is not marked nobody is
    /// answered, and nothing leaves with it.
    pub sole: u32,
}

const _: () = {
    assert!(size_of::<LinkFacts>() == 80);
    assert!(ADDRESSES < 32);
};

impl LinkFacts {
    /// The hardware address that a question on its way in this direction is answered with.
    pub const fn of(&self, direction: Direction) -> Mac {
        match direction {
            Direction::In => self.pod,
            Direction::Out => self.node,
        }
    }

    /// The bit of [`Self::sole`] for the pod's hardware address. Without it the others mean nothing.
    pub const HARDWARE: u32 = 1 << ADDRESSES;

    /// Whether the pod's hardware address is nobody else's.
    pub const fn has_sole_mac(&self) -> bool {
        self.sole & Self::HARDWARE != 0
    }

    /// Whether the pod has this address, and nobody else does.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
    pub fn has_alone(&self, address: &Address) -> bool {
        let mut index = 0;
        let mut found = 0;
        while index < ADDRESSES {
            if same(&self.addresses[index], address) {
                found |= self.sole & (1 << index);
            }
            index += 1;
        }
        found != 0 && self.has_sole_mac() && !same(address, &[0; 16])
    }

    /// Whether the pod has this address.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
    pub fn has(&self, address: &Address) -> bool {
        let mut index = 0;
        while index < ADDRESSES {
            if same(&self.addresses[index], address) {
                return !same(address, &[0; 16]);
            }
            index += 1;
        }
        false
    }
}

/// Compared by halves: the BPF target has no `memcmp`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
fn same(one: &Address, other: &Address) -> bool {
    u128::from_ne_bytes(*one) == u128::from_ne_bytes(*other)
}

/// An IPv4 address as one of IPv6.
pub const fn mapped(v4: [u8; 4]) -> Address {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// Who asks for whose hardware address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The address of who asks; an IPv4 one mapped, as the other.
    pub asker: Address,
    /// The address that is asked for.
    pub target: Address,
}

/// What an ARP request asks, if the frame is one, to the byte, and asks for another than the asker's address.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
pub fn arp_question(frame: &impl Source) -> Option<Question> {
    // Ethernet and IPv4 addresses, operation "request".
    let [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1] = frame.bytes(12)? else { return None };
    let (asker, target) = (frame.bytes::<4>(28)?, frame.bytes::<4>(38)?);
    // Without an asker, or one who asks for itself: whether somebody else has its address. Nobody has.
    if u32::from_ne_bytes(asker) == 0 || u32::from_ne_bytes(asker) == u32::from_ne_bytes(target) {
        return None;
    }
    Some(Question { asker: mapped(asker), target: mapped(target) })
}

/// Makes a request the answer to itself: the address is at `mac`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
pub fn answer_arp(frame: &mut [u8; ARP_FRAME], mac: Mac) {
    let mut index = 0;
    while index < 6 {
        frame[index] = frame[22 + index];
        frame[6 + index] = mac[index];
        frame[32 + index] = frame[22 + index];
        frame[22 + index] = mac[index];
        index += 1;
    }
    let mut index = 0;
    while index < 4 {
        frame.swap(28 + index, 38 + index);
        index += 1;
    }
    frame[21] = 2;
}

/// Whether a frame is an answer that says so of `mac`, and nothing else.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
pub fn is_arp_answer(frame: &[u8; ARP_FRAME], mac: Mac) -> bool {
    let head = matches!(frame, [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2, ..]);
    let mut differs = 0;
    let mut index = 0;
    while index < 6 {
        differs |= frame[6 + index] ^ mac[index];
        differs |= frame[22 + index] ^ mac[index];
        differs |= frame[index] ^ frame[32 + index];
        index += 1;
    }
    head && differs == 0
}

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_OPTION: u8 = 1;
const TARGET_OPTION: u8 = 2;

/// Whether it is an ND message of this type with one option, to the byte.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
fn is_nd(frame: &[u8; ND_FRAME], kind: u8, option: u8) -> bool {
    let [.., 0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255] = frame.first_chunk::<22>().unwrap_or(&[0; 22]) else {
        return false;
    };
    frame[54] == kind && frame[55] == 0 && frame[78] == option && frame[79] == 1
}

/// What a neighbour solicitation asks, if the frame is one, and has an asker.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
pub fn nd_question(frame: &impl Source) -> Option<Question> {
    // Of 32 bytes, from a neighbour (the hop limit is the highest), with the asker's hardware address and no more.
    let [0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255] = frame.bytes(12)? else { return None };
    let ([SOLICITATION, 0], [SOURCE_OPTION, 1]) = (frame.bytes(54)?, frame.bytes(78)?) else { return None };
    let (asker, target) = (frame.bytes::<16>(22)?, frame.bytes::<16>(62)?);
    (!same(&asker, &[0; 16]) && !same(&asker, &target)).then_some(Question { asker, target })
}

/// Makes a solicitation the advertisement that answers it: the address is at `mac`. `router` says that it forwards.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
pub fn answer_nd(frame: &mut [u8; ND_FRAME], mac: Mac, router: bool) {
    let mut index = 0;
    while index < 6 {
        frame[index] = frame[80 + index];
        frame[6 + index] = mac[index];
        frame[80 + index] = mac[index];
        index += 1;
    }
    let mut index = 0;
    while index < 16 {
        // From the address that was asked for to who asked.
        frame[38 + index] = frame[22 + index];
        frame[22 + index] = frame[62 + index];
        index += 1;
    }
    frame[54] = ADVERTISEMENT;
    // Solicited, and to be believed.
    frame[58] = if router { 0xe0 } else { 0x60 };
    frame[59] = 0;
    frame[60] = 0;
    frame[61] = 0;
    frame[78] = TARGET_OPTION;
    let sum = nd_checksum(frame);
    frame[56] = sum[0];
    frame[57] = sum[1];
}

/// Whether a frame is an advertisement that says so of `mac`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
pub fn is_nd_answer(frame: &[u8; ND_FRAME], mac: Mac) -> bool {
    let mut differs = 0;
    let mut index = 0;
    while index < 6 {
        differs |= frame[6 + index] ^ mac[index];
        differs |= frame[80 + index] ^ mac[index];
        index += 1;
    }
    is_nd(frame, ADVERTISEMENT, TARGET_OPTION) && differs == 0
}

/// The checksum of an ND message of 32 bytes, with the addresses before it (RFC 4443, 2.3). Its own field is left out.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
fn nd_checksum(frame: &[u8; ND_FRAME]) -> [u8; 2] {
    // Length and protocol of the pseudo-header.
    let mut sum: u32 = 32 + 58;
    let mut index = 22;
    while index < ND_FRAME {
        if index != 56 {
            sum += u32::from(frame[index]) << 8 | u32::from(frame[index + 1]);
        }
        index += 2;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    let sum = !sum;
    [(sum >> 8 & 0xff) as u8, (sum & 0xff) as u8]
}

#[cfg(feature = "user")]
// SAFETY: repr(C), integers only, no padding (the const assertion above pins the size).
unsafe impl aya::Pod for LinkFacts {}

#[cfg(test)]
mod tests;
