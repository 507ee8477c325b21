//! What metrics say of the node: numbers and fixed words. A thousand isolated pods are one allocation, so that a scrape keeps
//! the loop only shortly from its work.

use isolate_common::{DIRECTIONS, HOOKS, KernelError, SlotCounters};
use jiff::Timestamp;

use super::{Hooks, coverage, record_state};
use crate::{
    control::protocol::{Coverage, Record, UnarmedReason},
    desired::Entry,
    pod::PodUid,
};

/// The node at one moment.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Isolated pods, by UID.
    pub isolations: Vec<PodFigures>,
    /// Pods on the node.
    pub pods: usize,
    /// Pods whose host veths carry our programs, isolated or not.
    pub pods_armed: usize,
    /// Why pods are not armed: one reason for each that is not.
    pub unarmed: Vec<UnarmedReason>,
    /// Packets that an error in a program dropped, since the maps were made.
    pub kernel_errors: Vec<(KernelError, u64)>,
    /// How many warnings a status shows.
    pub warnings: usize,
}

/// One isolated pod.
#[derive(Clone, Debug)]
pub struct PodFigures {
    /// Its UID.
    pub uid: PodUid,
    /// Since when it is isolated.
    pub since: Timestamp,
    /// Whether the record is on disk.
    pub record: Record,
    /// How far it is covered.
    pub coverage: Coverage,
    /// As [`Hooks::hold`] has it.
    pub hold: [[Option<bool>; DIRECTIONS.len()]; HOOKS.len()],
    /// What was dropped of it, and what passed all the same.
    pub counters: SlotCounters,
}

impl PodFigures {
    /// One isolated pod with these hooks; without hooks it is not there.
    pub fn of(uid: PodUid, entry: &Entry, hooks: Option<&Hooks<'_>>, counters: SlotCounters) -> Self {
        Self {
            uid,
            since: entry.since(),
            record: record_state(entry),
            coverage: coverage(hooks),
            hold: hooks.map(Hooks::hold).unwrap_or_default(),
            counters,
        }
    }
}
