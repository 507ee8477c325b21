//! The one decision of the product.

use crate::{Policy, PolicyFlags};

/// What the maps said about a packet.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<'a> {
    /// No key: the packet belongs to no isolated pod.
    NotIsolated,
    /// It belongs to an isolated pod whose policy cannot be read.
    Broken,
    /// It belongs to the pod with this policy.
    Found(&'a Policy),
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours to decide: whoever comes next in the chain does.
    NoOpinion,
    /// Dropped without a reply.
    Drop,
}

/// Decides on one packet. `on_loopback` is true only for a packet on the loopback interface of its namespace.
///
/// Fails closed: whatever is not plainly allowed to an isolated pod is dropped.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
pub fn verdict(lookup: Lookup<'_>, on_loopback: bool) -> Verdict {
    match lookup {
        Lookup::NotIsolated => Verdict::NoOpinion,
        Lookup::Found(policy)
            if on_loopback && policy.is_in_use() && policy.flags.contains(PolicyFlags::KEEP_LOOPBACK) =>
        {
            Verdict::NoOpinion
        }
        Lookup::Found(_) | Lookup::Broken => Verdict::Drop,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The table of the documentation, written out.
    fn oracle(key: bool, readable: bool, policy: Policy, on_loopback: bool) -> Verdict {
        let kept = policy.in_use != 0 && policy.flags.0 % 2 == 1;
        match (key, readable) {
            (false, _) => Verdict::NoOpinion,
            (true, true) if kept && on_loopback => Verdict::NoOpinion,
            (true, _) => Verdict::Drop,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_table(
            key in any::<bool>(),
            readable in any::<bool>(),
            uid in any::<[u8; 16]>(),
            in_use in prop_oneof![Just(0), Just(1), any::<u32>()],
            flags in any::<u32>(),
            on_loopback in any::<bool>(),
        ) {
            let policy = Policy { uid, in_use, flags: PolicyFlags(flags) };
            let lookup = match (key, readable) {
                (false, _) => Lookup::NotIsolated,
                (true, false) => Lookup::Broken,
                (true, true) => Lookup::Found(&policy),
            };
            let expected = oracle(key, readable, policy, on_loopback);
            prop_assert_eq!(verdict(lookup, on_loopback), expected);
        }

        #[test]
        fn nothing_but_loopback_is_ever_let_through(flags in any::<u32>(), in_use in any::<u32>()) {
            let policy = Policy { uid: [0; 16], in_use, flags: PolicyFlags(flags) };
            prop_assert_eq!(verdict(Lookup::Found(&policy), false), Verdict::Drop);
        }
    }
}
