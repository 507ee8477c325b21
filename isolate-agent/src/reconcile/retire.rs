//! Records of pods that have left the node: deleted after agents have watched for long enough that they are away.
//!
//! No clock that can be set is asked. What counts is the time between passes that saw other pods and not this one, so
//! neither a leap of the wall clock nor a node that was off for a month lets a record expire. Seen again, a pod starts
//! anew. The daemon only: a command deletes no record that it was not asked to.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{Engine, PassError};
use crate::{control::protocol::Code, events::Kind, pod::PodUid};

/// A pause between passes counts as this at most: the loop makes one every ten seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// At most that much is forgotten when the agent is killed.
const SAVE_EVERY: Duration = Duration::from_mins(1);

/// For how long each isolated pod was seen to be away, in milliseconds.
pub(super) type Absences = BTreeMap<PodUid, u64>;

/// What is known of pods that are away.
#[derive(Debug, Default)]
pub(super) struct Away {
    absences: Absences,
    last_look: Option<Instant>,
    last_save: Option<Instant>,
}

impl Away {
    pub(super) fn new(absences: Absences) -> Self {
        Self { absences, ..Self::default() }
    }

    /// Takes in that these pods are away now; whether others are than before.
    fn see(&mut self, away: &BTreeSet<PodUid>, now: Instant) -> bool {
        let pause = self.last_look.map_or(Duration::ZERO, |last| now.duration_since(last).min(LONGEST_PAUSE));
        self.last_look = Some(now);
        let before = self.absences.len();
        self.absences.retain(|uid, _| away.contains(uid));
        let mut changed = self.absences.len() != before;
        for uid in away {
            if let Some(absence) = self.absences.get_mut(uid) {
                *absence += u64::try_from(pause.as_millis()).unwrap_or_default();
            } else {
                self.absences.insert(*uid, 0);
                changed = true;
            }
        }
        changed
    }

    fn longer_than(&self, retention: Duration) -> Vec<PodUid> {
        let over = |absence: &u64| Duration::from_millis(*absence) >= retention;
        self.absences.iter().filter(|(_, absence)| over(absence)).map(|(uid, _)| *uid).collect()
    }
}

impl Engine {
    /// Deletes the records of pods that have been away for as long as records are kept. After a pass that saw the node.
    pub fn retire(&mut self) -> Result<(), PassError> {
        // An agent that sees no pod at all looks in the wrong place, or has nobody to keep apart.
        if self.inventory.pods.is_empty() {
            self.away.last_look = None;
            return Ok(());
        }
        let now = Instant::now();
        let away: BTreeSet<PodUid> = self.desired.keys().filter(|uid| self.is_away(uid)).copied().collect();
        let changed = self.away.see(&away, now);
        let mut retired = false;
        for uid in self.away.longer_than(self.settings.retention) {
            let outcome = self.forget(&uid.to_string(), uid, Kind::RecordExpired, None).unwrap_or_else(|failed| failed);
            if outcome.code == Code::Done {
                tracing::info!(%uid, "the pod has been away from this node for too long: its record is deleted");
                self.away.absences.remove(&uid);
                retired = true;
            } else {
                self.warnings
                    .push(format!("the record of a pod that left this node cannot be deleted: {}", outcome.message));
            }
        }
        let due = self.away.last_save.is_none_or(|last| now.duration_since(last) >= SAVE_EVERY);
        if changed || retired || (due && !self.away.absences.is_empty()) {
            self.away.last_save = Some(now);
            if let Err(error) = self.store.save_absences(&self.away.absences) {
                self.warnings.push(error.to_string());
            }
        }
        if retired { self.enforce_releases() } else { Ok(()) }
    }

    /// Whether neither the node nor the kernel's keys show anything of the pod.
    fn is_away(&self, uid: &PodUid) -> bool {
        let keys = || self.observed.cgroup_keys.values().chain(self.observed.veth_keys.values());
        let slot = self.observed.slots().get(uid).copied();
        !self.inventory.pods.contains_key(uid) && slot.is_none_or(|slot| keys().all(|key| *key != slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETENTION: Duration = Duration::from_mins(1);

    fn uid(pod: u8) -> PodUid {
        PodUid::new([pod; 16], false)
    }

    #[test]
    fn only_time_that_was_watched_counts() {
        let (mut away, start) = (Away::default(), Instant::now());
        let gone = BTreeSet::from([uid(1)]);
        assert!(away.see(&gone, start));
        for step in 1..6 {
            assert!(!away.see(&gone, start + step * Duration::from_secs(10)));
        }
        assert!(away.longer_than(RETENTION).is_empty(), "50 s");
        away.see(&gone, start + Duration::from_mins(1));
        assert_eq!(away.longer_than(RETENTION), [uid(1)]);
    }

    #[test]
    fn a_pause_counts_as_a_short_one() {
        let (mut away, start) = (Away::default(), Instant::now());
        let gone = BTreeSet::from([uid(1)]);
        away.see(&gone, start);
        away.see(&gone, start + Duration::from_hours(1000));
        assert!(away.longer_than(RETENTION).is_empty());
    }

    #[test]
    fn who_comes_back_starts_anew() {
        let (mut away, start) = (Away::default(), Instant::now());
        let gone = BTreeSet::from([uid(1)]);
        away.see(&gone, start);
        away.see(&gone, start + Duration::from_secs(29));
        assert!(away.see(&BTreeSet::new(), start + Duration::from_secs(40)));
        away.see(&gone, start + Duration::from_secs(50));
        away.see(&gone, start + Duration::from_secs(79));
        assert_eq!(away.absences[&uid(1)], 29_000);
    }

    #[test]
    fn what_was_seen_before_a_restart_counts() {
        let mut away = Away::new(BTreeMap::from([(uid(1), 59_000)]));
        away.see(&BTreeSet::from([uid(1)]), Instant::now());
        assert!(away.longer_than(RETENTION).is_empty(), "time in which no agent ran does not");
        let now = away.last_look.expect("just now");
        away.see(&BTreeSet::from([uid(1)]), now + Duration::from_secs(1));
        assert_eq!(away.longer_than(RETENTION), [uid(1)]);
    }
}
