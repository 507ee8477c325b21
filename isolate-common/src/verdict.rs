//! The one decision of the product.

use crate::{Exemption, Policy, PolicyFlags};

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
    /// The same, for a packet of an isolated pod that is exempted.
    Exempt(Exemption),
    /// Dropped without a reply.
    Drop,
}

/// Decides on one packet. `on_loopback` is true only for a packet on the loopback interface of its namespace. `exempt` reads
/// the packet; it is asked for a pod with exemptions only, and not about loopback.
///
/// Fails closed: whatever is not plainly allowed to an isolated pod is dropped.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
pub fn verdict(lookup: Lookup<'_>, on_loopback: bool, exempt: impl FnOnce(&Policy) -> Option<Exemption>) -> Verdict {
    match lookup {
        Lookup::NotIsolated => Verdict::NoOpinion,
        Lookup::Found(policy) if policy.is_in_use() => {
            if on_loopback && policy.flags.contains(PolicyFlags::KEEP_LOOPBACK) {
                return Verdict::NoOpinion;
            }
            if on_loopback || !policy.flags.intersects(PolicyFlags::EXEMPTIONS) {
                return Verdict::Drop;
            }
            match exempt(policy) {
                Some(exemption) => Verdict::Exempt(exemption),
                None => Verdict::Drop,
            }
        }
        Lookup::Found(_) | Lookup::Broken => Verdict::Drop,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The table of the documentation, written out.
    fn oracle(key: bool, readable: bool, policy: Policy, on_loopback: bool, exempt: Option<Exemption>) -> Verdict {
        let known = key && readable && policy.in_use != 0;
        let (keeps_loopback, has_exemptions) = (policy.flags.0 % 2 == 1, !(policy.flags.0 / 4).is_multiple_of(4));
        match (known, on_loopback, exempt) {
            _ if !key => Verdict::NoOpinion,
            (true, true, _) if keeps_loopback => Verdict::NoOpinion,
            (true, false, Some(exemption)) if has_exemptions => Verdict::Exempt(exemption),
            _ => Verdict::Drop,
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
            exempt in prop_oneof![Just(None), Just(Some(Exemption::Probe)), Just(Some(Exemption::Allow))],
        ) {
            let policy = Policy { uid, in_use, flags: PolicyFlags(flags), ..Policy::default() };
            let lookup = match (key, readable) {
                (false, _) => Lookup::NotIsolated,
                (true, false) => Lookup::Broken,
                (true, true) => Lookup::Found(&policy),
            };
            let expected = oracle(key, readable, policy, on_loopback, exempt);
            prop_assert_eq!(verdict(lookup, on_loopback, |_| exempt), expected);
        }

        #[test]
        fn without_exemptions_no_packet_is_read(in_use in any::<u32>(), loopback in any::<bool>(), rest in any::<u32>()) {
            let flags = PolicyFlags(rest & !PolicyFlags::EXEMPTIONS.0);
            let policy = Policy { in_use, flags, ..Policy::default() };
            verdict(Lookup::Found(&policy), loopback, |_| unreachable!("nothing is exempted"));
        }
    }
}
