//! From what became of the probes to what is said of a hook. Pure.

use crate::control::protocol::{Finding, HookState, HookStatus};

/// What became of the probes that were sent to one hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    /// How many were sent.
    pub(super) sent: u64,
    /// How many are known to have come to the hook.
    pub(super) came: u64,
    /// How many were seen behind it.
    pub(super) passed: u64,
    /// How many more the pod's rules let pass: they say nothing.
    pub(super) allowed: u64,
    /// What they were, and what else was seen.
    pub(super) how: String,
}

/// What is said of a hook that was `before` and is `after`, and whose counter rose by `counted` meanwhile.
///
/// A counter alone proves nothing, since the pod may be sending; but it must have counted the probes as well.
pub(super) fn judge(
    before: &HookStatus,
    after: Option<&HookStatus>,
    evidence: Result<&Evidence, &str>,
    counted: u64,
) -> (Finding, String) {
    let not_covered = |why: String| (Finding::NotCovered, why);
    if let Ok(Evidence { sent, passed: passed @ 1.., how, .. }) = evidence {
        return (Finding::Leak, format!("{passed} of {sent} probes got through ({how})"));
    }
    for status in [Some(before), after] {
        match status {
            None => return not_covered("it went away while it was verified".to_owned()),
            Some(status) if status.state != HookState::Holding => {
                return not_covered(status.detail.as_deref().unwrap_or("it does not hold").to_owned());
            }
            Some(_) => {}
        }
    }
    let evidence = match evidence {
        Ok(evidence) => evidence,
        Err(why) => return not_covered(format!("it holds, but that cannot be shown: {why}")),
    };
    let Evidence { sent, came, how, allowed, .. } = evidence;
    let also = match allowed {
        0 => String::new(),
        more => format!("; {more} more are allowed, and say nothing"),
    };
    if *sent == 0 && *allowed > 0 {
        (
            Finding::Allowed,
            format!("it holds, and lets each of the {allowed} probes pass: all of them are allowed ({how})"),
        )
    } else if *sent == 0 {
        not_covered(format!("it holds, but nothing could be sent to it: {how}"))
    } else if came < sent {
        not_covered(format!("it holds, but only {came} of {sent} probes are known to have come to it ({how})"))
    } else if counted < *came {
        not_covered(format!("it holds, but its counter rose by {counted} while {came} probes came to it ({how})"))
    } else {
        (
            Finding::ProvedCut,
            format!("{came} probes came, none got through; its counter rose by {counted} ({how}{also})"),
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn status(state: HookState) -> HookStatus {
        HookStatus { hook: "veth".into(), direction: "in".into(), place: "veth1".into(), state, detail: None }
    }

    fn evidence(sent: u64, came: u64, passed: u64) -> Evidence {
        Evidence { sent, came, passed, allowed: 0, how: "probes".to_owned() }
    }

    fn finding(evidence: Result<&Evidence, &str>, counted: u64) -> Finding {
        let holding = status(HookState::Holding);
        judge(&holding, Some(&holding), evidence, counted).0
    }

    #[test]
    fn only_what_came_and_was_counted_is_proved() {
        assert_eq!(finding(Ok(&evidence(30, 30, 0)), 30), Finding::ProvedCut);
        assert_eq!(finding(Ok(&evidence(30, 30, 0)), 1000), Finding::ProvedCut, "the pod sends as well");
        assert_eq!(finding(Ok(&evidence(30, 30, 0)), 29), Finding::NotCovered, "something else took one of them");
        assert_eq!(finding(Ok(&evidence(30, 29, 0)), 1000), Finding::NotCovered, "one was lost on the way");
        assert_eq!(finding(Ok(&evidence(0, 0, 0)), 1000), Finding::NotCovered, "nothing was tried");
        assert_eq!(finding(Err("no guard"), 1000), Finding::NotCovered);
        assert_eq!(finding(Ok(&evidence(30, 30, 1)), 30), Finding::Leak);
    }

    #[test]
    fn what_is_allowed_is_no_leak_and_no_proof() {
        let allowed = |sent| Evidence { allowed: 6, ..evidence(sent, sent, 0) };
        assert_eq!(finding(Ok(&allowed(0)), 0), Finding::Allowed);
        assert_eq!(finding(Ok(&allowed(24)), 24), Finding::ProvedCut);
        assert_eq!(finding(Ok(&Evidence { passed: 1, ..allowed(24) }), 24), Finding::Leak);
    }

    #[test]
    fn a_hook_that_does_not_hold_all_the_time_proves_nothing() {
        let (holding, missing) = (status(HookState::Holding), status(HookState::Missing));
        let whole = evidence(30, 30, 0);
        for (before, after) in [(&missing, Some(&holding)), (&holding, Some(&missing)), (&holding, None)] {
            assert_eq!(judge(before, after, Ok(&whole), 30).0, Finding::NotCovered);
        }
        assert_eq!(judge(&missing, Some(&missing), Ok(&evidence(30, 30, 30)), 0).0, Finding::Leak);
    }

    proptest! {
        #[test]
        fn proof_needs_every_probe(sent in 0_u64..9, came in 0_u64..9, passed in 0_u64..9, counted in 0_u64..9) {
            let proved = finding(Ok(&evidence(sent, came, passed)), counted) == Finding::ProvedCut;
            prop_assert_eq!(proved, passed == 0 && sent > 0 && came >= sent && counted >= came);
        }
    }
}
