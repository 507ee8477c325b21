//! What the programs count, per CPU.

use crate::{DIRECTIONS, Direction, HOOKS, Hook};

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

/// Value of the counter map: what one slot's programs dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SlotCounters {
    /// By [`Hook`], then [`Direction`].
    pub dropped: [[Counter; DIRECTIONS.len()]; HOOKS.len()],
}

impl SlotCounters {
    /// The counter of one hook and direction.
    pub const fn of(&self, hook: Hook, direction: Direction) -> Counter {
        self.dropped[hook as usize][direction as usize]
    }

    /// Adds another CPU's counts.
    pub fn add(&mut self, other: &Self) {
        for (sums, counts) in self.dropped.iter_mut().zip(&other.dropped) {
            for (sum, count) in sums.iter_mut().zip(counts) {
                sum.packets += count.packets;
                sum.bytes += count.bytes;
            }
        }
    }
}

const _: () = assert!(size_of::<SlotCounters>() == 128);

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
