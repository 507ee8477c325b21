//! What the BPF programs and the agent share: names, map layouts and the verdict.
//!
//! Everything here is `no_std` and free of I/O, so the function that the host-side tests check is the function that
//! the kernel runs.
#![cfg_attr(not(test), no_std)]

mod allow;
mod ask;
mod counters;
mod flow;
mod layout;
pub mod names;
mod near;
mod neighbour;
pub mod packet;
mod policy;
mod verdict;

pub use allow::{AllowKey, AllowRule, AllowRules, RULES};
pub use ask::Ask;
pub use counters::{Counter, KernelError, SlotCounters};
pub use flow::{
    FLOW_BYTES_IN, FLOW_BYTES_OUT, FLOW_LIFETIME_SECS, FLOW_PACKETS, Flow, FlowKey, Passed, WINDOW_BYTES,
    WINDOW_PACKETS, WINDOW_SECS, Window, calls, state, window_at,
};
pub use layout::{
    DIRECTIONS, Direction, EXEMPTIONS, Exemption, GATE_SHUT, HOOKS, Hook, LAYOUT_VERSION, MAX_CGROUP_LEVEL, gate_for,
};
pub use near::{Near, Nearby, PLACES};
pub use neighbour::{
    ADDRESSES, ARP_FRAME, LinkFacts, Mac, ND_FRAME, Question, answer_arp, answer_nd, arp_question, is_arp_answer,
    is_nd_answer, mapped, nd_question,
};
pub use policy::{NodeFacts, PROBE_PORTS, Policy, PolicyFlags};
pub use verdict::{Lookup, Verdict, verdict};
