//! What the programs count, per CPU.

use crate::{DIRECTIONS, Direction, EXEMPTIONS, Exemption, HOOKS, Hook};

/// Packets and bytes (as `skb->len` has them: from the Ethernet header on the veth, from the IP header on the cgroup). Of
/// [`Hook::Lsm`]: refused calls, which have no length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// Packets; a GSO packet counts once, as with iptables.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Value of the counter map: what one slot's programs dropped, and what they let pass by an exemption.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SlotCounters {
    /// By [`Hook`], then [`Direction`].
    pub dropped: [[Counter; DIRECTIONS.len()]; HOOKS.len()],
    /// By [`Exemption`], then [`Hook`], then [`Direction`].
    pub exempted: [[[Counter; DIRECTIONS.len()]; HOOKS.len()]; EXEMPTIONS.len()],
}

impl SlotCounters {
    /// The counter of one hook and direction.
    pub const fn of(&self, hook: Hook, direction: Direction) -> Counter {
        self.dropped[hook as usize][direction as usize]
    }

    /// The counter of what passed by one exemption, at one hook in one direction.
    pub const fn exempted(&self, exemption: Exemption, hook: Hook, direction: Direction) -> Counter {
        self.exempted[exemption as usize][hook as usize][direction as usize]
    }

    /// Adds another CPU's counts.
    pub fn add(&mut self, other: &Self) {
        let sums = self.dropped.iter_mut().chain(self.exempted.iter_mut().flatten()).flatten();
        let counts = other.dropped.iter().chain(other.exempted.iter().flatten()).flatten();
        for (sum, count) in sums.zip(counts) {
            sum.packets += count.packets;
            sum.bytes += count.bytes;
        }
    }
}

const _: () = assert!(size_of::<SlotCounters>() == 384);

/// What can go wrong in a program. Each drops the packet of the pod concerned, and is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum KernelError {
    /// The cgroup program runs on a cgroup that no key leads to a slot from.
    CgroupWithoutKey = 0,
    /// A key leads to a slot that is vacant or outside the policy map.
    KeyWithoutPolicy = 1,
    /// A dropped packet could not be counted: its slot is outside the counter map.
    SlotWithoutCounter = 2,
    /// The gate could not be read.
    NoGate = 3,
}

impl KernelError {
    /// All errors, in the order of their counters.
    pub const ALL: [Self; 4] = [Self::CgroupWithoutKey, Self::KeyWithoutPolicy, Self::SlotWithoutCounter, Self::NoGate];

    /// The name that metrics show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CgroupWithoutKey => "cgroup_without_key",
            Self::KeyWithoutPolicy => "key_without_policy",
            Self::SlotWithoutCounter => "slot_without_counter",
            Self::NoGate => "no_gate",
        }
    }
}

#[cfg(feature = "user")]
// SAFETY: repr(C), integers only, no padding.
unsafe impl aya::Pod for SlotCounters {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_added() {
        let one = Counter { packets: 1, bytes: 10 };
        let ones = SlotCounters { dropped: [[one; 2]; HOOKS.len()], exempted: [[[one; 2]; HOOKS.len()]; 2] };
        let mut sum = ones;
        sum.add(&ones);
        let two = Counter { packets: 2, bytes: 20 };
        assert_eq!(sum, SlotCounters { dropped: [[two; 2]; HOOKS.len()], exempted: [[[two; 2]; HOOKS.len()]; 2] });
    }
}
