//! Hosts that an isolated pod may still talk to, as the kernel looks them up and judges packets by them.

use crate::{
    Direction,
    packet::{Address, Packet, protocol, tcp},
};

/// Rules that hold for one range of addresses; what is allowed both ways takes two.
pub const RULES: usize = 32;

/// Bits of a key before the address: slot and family, which must be equal.
const EXACT_BITS: u32 = 64;

/// What the map of allowed hosts is asked with: the longest prefix of these bytes wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct AllowKey {
    /// The pod's slot.
    pub slot: u32,
    /// 4 or 6.
    pub family: u32,
    /// The address, from its first bit on (an IPv4 address is the first four bytes).
    pub address: Address,
}

impl AllowKey {
    /// The key of one packet's other side, and its length in bits.
    pub const fn of(slot: u32, packet: &Packet) -> (u32, Self) {
        let p = &packet.peer;
        if packet.v6 {
            (EXACT_BITS + 128, Self { slot, family: 6, address: *p })
        } else {
            let address = [p[12], p[13], p[14], p[15], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            (EXACT_BITS + 32, Self { slot, family: 4, address })
        }
    }

    /// Length in bits of the key of a range with this prefix length.
    pub const fn bits(prefix: u8) -> u32 {
        EXACT_BITS + prefix as u32
    }
}

/// One thing that is allowed. As a number: who began in the highest byte, the protocol below it, the port below that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct AllowRule(pub u32);

impl AllowRule {
    /// Of a packet that fits no rule of a kind: no rule is this.
    const NEVER: u32 = u32::MAX;

    /// Conversations that this side begins, of a protocol ([`protocol::TCP`], [`protocol::UDP`], or 0 for all), with a port of
    /// the side that is called (0 for all).
    pub const fn new(began: Direction, protocol: u8, port: u16) -> Self {
        Self((began as u32 + 1) << 24 | (protocol as u32) << 16 | port as u32)
    }
}

/// Value of the map: everything that is allowed with the addresses of one range, wider ranges' rules too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct AllowRules {
    /// The rules; those in use come first.
    pub rules: [AllowRule; RULES],
}

impl AllowRules {
    /// Whether any rule allows the packet.
    ///
    /// A packet can fit eight rules at most; whether one of them is there is asked without a branch for each, which an old
    /// verifier would have to follow one by one.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
    pub fn allow(&self, packet: &Packet, direction: Direction) -> bool {
        // Questions for hardware addresses and what routers tell: the host end answers the first, the rest is nobody's
        // business.
        if packet.protocol == protocol::ICMP6 && matches!(packet.kind, 133..=137) {
            return false;
        }
        let (forth, called) = (direction, if direction as u32 == 0 { packet.own_port } else { packet.peer_port });
        let (back, calling) = match direction {
            Direction::In => (Direction::Out, packet.peer_port),
            Direction::Out => (Direction::In, packet.own_port),
        };
        // An answer, as far as one packet tells.
        let (answers, answers_port) = match packet.protocol {
            protocol::TCP => {
                let answers = packet.kind & (tcp::SYN | tcp::ACK) != tcp::SYN;
                (answers, answers)
            }
            protocol::UDP => (false, true),
            protocol::ICMP => (packet.kind == 0, false),
            protocol::ICMP6 => (packet.kind == 129, false),
            _ => (false, false),
        };
        self.has(forth, packet.protocol, called, true, true)
            || ((answers || answers_port) && self.has(back, packet.protocol, calling, answers, answers_port))
    }

    /// Whether a rule is there for what this side has begun: with any port, with this one, or both.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
    fn has(&self, began: Direction, protocol: u8, port: u16, any_port: bool, this_port: bool) -> bool {
        let any = |protocol| if any_port { AllowRule::new(began, protocol, 0).0 } else { AllowRule::NEVER };
        let this =
            |protocol| if this_port && port != 0 { AllowRule::new(began, protocol, port).0 } else { AllowRule::NEVER };
        let wanted = [any(0), any(protocol), this(0), this(protocol)];
        let mut found = 0;
        let mut index = 0;
        while index < RULES {
            let pair = u64::from(self.rules[index].0) | u64::from(self.rules[index + 1].0) << 32;
            found |= has_lane(pair, wanted[0])
                | has_lane(pair, wanted[1])
                | has_lane(pair, wanted[2])
                | has_lane(pair, wanted[3]);
            index += 2;
        }
        found != 0
    }
}

/// Not 0 if one half of `pair` is `value`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
const fn has_lane(pair: u64, value: u32) -> u64 {
    let differs = pair ^ (value as u64 | (value as u64) << 32);
    // Only a half that is 0 borrows from its own highest bit.
    differs.wrapping_sub(0x0000_0001_0000_0001) & !differs & 0x8000_0000_8000_0000
}

const _: () = {
    assert!(size_of::<AllowKey>() == 24);
    assert!(size_of::<AllowRules>() == 4 * RULES && RULES.is_multiple_of(2));
};

#[cfg(feature = "user")]
// SAFETY: repr(C), integers only, no padding (the const block above pins the sizes).
unsafe impl aya::Pod for AllowKey {}
#[cfg(feature = "user")]
// SAFETY: as above.
unsafe impl aya::Pod for AllowRules {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The table of the documentation, rule by rule.
    fn oracle(rules: &[(Direction, u8, u16)], packet: &Packet, direction: Direction) -> bool {
        let of_routers = packet.protocol == 58 && (133..=137).contains(&packet.kind);
        let has_ports = packet.protocol == 6 || packet.protocol == 17;
        !of_routers
            && rules.iter().any(|&(began, protocol, port)| {
                let called = if began == Direction::In { packet.own_port } else { packet.peer_port };
                let is_answer = match packet.protocol {
                    6 => packet.kind & 0x12 != 0x02,
                    17 => port != 0,
                    1 => packet.kind == 0,
                    58 => packet.kind == 129,
                    _ => false,
                };
                (protocol == 0 || protocol == packet.protocol)
                    && (port == 0 || (has_ports && port == called))
                    && (began == direction || is_answer)
            })
    }

    fn directions() -> impl Strategy<Value = Direction> {
        prop_oneof![Just(Direction::In), Just(Direction::Out)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn agrees_with_the_table(
            rules in prop::collection::vec((directions(), prop_oneof![Just(0_u8), Just(6), Just(17)], 0..4_u16), 0..8),
            protocol in prop_oneof![3 => Just(6_u8), 2 => Just(17), 1 => Just(1), 1 => Just(58), 1 => any::<u8>()],
            kind in prop_oneof![Just(0x02_u8), Just(0x12), Just(0x10), 128..140_u8, any::<u8>()],
            peer_port in 0..4_u16,
            own_port in 0..4_u16,
            direction in directions(),
        ) {
            let ports = protocol == 6 || protocol == 17;
            let (peer_port, own_port) = if ports { (peer_port, own_port) } else { (0, 0) };
            let packet = Packet { protocol, peer_port, own_port, kind, ..Packet::default() };
            let mut value = AllowRules::default();
            for (place, (began, protocol, port)) in value.rules.iter_mut().zip(&rules) {
                *place = AllowRule::new(*began, *protocol, *port);
            }
            prop_assert_eq!(value.allow(&packet, direction), oracle(&rules, &packet, direction), "{:?}", packet);
        }

        #[test]
        fn lanes_are_told_apart(pair in any::<u64>(), value in any::<u32>(), near in any::<bool>()) {
            let value = if near { (pair >> 32) as u32 } else { value };
            let has = pair >> 32 == u64::from(value) || pair & u64::from(u32::MAX) == u64::from(value);
            prop_assert_eq!(has_lane(pair, value) != 0, has);
        }
    }
}
