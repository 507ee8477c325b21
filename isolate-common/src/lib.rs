//! What the BPF programs and the agent share: names, map layouts and the verdict.
//!
//! Everything here is `no_std` and free of I/O, so the function that the host-side tests check is the function that
//! the kernel runs.
#![cfg_attr(not(test), no_std)]

mod ask;
mod counters;
mod layout;
pub mod names;
mod policy;
mod verdict;

pub use ask::Ask;
pub use counters::{Counter, KernelError, SlotCounters};
pub use layout::{DIRECTIONS, Direction, GATE_SHUT, HOOKS, Hook, LAYOUT_VERSION, MAX_CGROUP_LEVEL, gate_for};
pub use policy::{Policy, PolicyFlags};
pub use verdict::{Lookup, Verdict, verdict};
