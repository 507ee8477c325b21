//! Which isolated pods are looked at without waiting for a burst of events to be over, and how much of that each may have.
//!
//! A pod that makes and removes interfaces without end uses up what it has, and waits for the passes like everybody else; what
//! others have stays theirs. Pure: it is given the time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::pod::PodUid;

/// What the looks at one pod, and the changes after them, may take in a row…
const MOST: Duration = Duration::from_millis(500);
/// …and of how much time they may take a unit in the long run.
const SHARE: u32 = 8;
/// A process joins its pod's namespace some time after its cgroup, and joining makes no event: so a look is repeated…
const PAUSE: Duration = Duration::from_millis(2);
/// …after pauses that double, this often: over half a second in all.
const REPEATS: u32 = 8;

/// The pods that wait for a look.
#[derive(Debug, Default)]
pub(super) struct Urgent(BTreeMap<PodUid, Turn>);

#[derive(Debug)]
struct Turn {
    /// When the next look is due.
    due: Option<Instant>,
    /// How long after it the one after it is.
    pause: Duration,
    repeats: u32,
    /// What its looks have taken, less what has been forgiven up to `at`.
    spent: Duration,
    at: Instant,
}

impl Urgent {
    /// Asks for a look at a pod, `repeatedly` if what it has to find may come some time later. Refused in silence if the pod has
    /// had its share.
    pub(super) fn ask(&mut self, uid: PodUid, repeatedly: bool, now: Instant) {
        let turn =
            self.0.entry(uid).or_insert(Turn { due: None, pause: PAUSE, repeats: 0, spent: Duration::ZERO, at: now });
        if turn.spent(now) >= MOST {
            return;
        }
        turn.due = Some(turn.due.map_or(now, |due| due.min(now)));
        if repeatedly {
            (turn.pause, turn.repeats) = (PAUSE, REPEATS);
        }
    }

    /// When the next look is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.values().filter_map(|turn| turn.due).min()
    }

    /// The pod whose look has been due for longest.
    pub(super) fn take(&mut self, now: Instant) -> Option<PodUid> {
        let due = self.0.iter_mut().filter_map(|(uid, turn)| Some((turn.due?, uid, turn)));
        let (_, uid, turn) = due.filter(|(due, ..)| *due <= now).min_by_key(|(due, ..)| *due)?;
        turn.due = None;
        if turn.repeats > 0 {
            turn.due = Some(now + turn.pause);
            turn.repeats -= 1;
            turn.pause *= 2;
        }
        Some(*uid)
    }

    /// Notes what a look at a pod and the changes after it have taken.
    pub(super) fn took(&mut self, uid: PodUid, time: Duration, now: Instant) {
        let Some(turn) = self.0.get_mut(&uid) else { return };
        turn.spent = turn.spent(now) + time;
        turn.at = now;
        if turn.spent >= MOST {
            turn.due = None;
            turn.repeats = 0;
        }
    }

    /// Forgets the pods that are not `kept`.
    pub(super) fn keep(&mut self, kept: impl Fn(&PodUid) -> bool) {
        self.0.retain(|uid, _| kept(uid));
    }
}

impl Turn {
    fn spent(&self, now: Instant) -> Duration {
        self.spent.saturating_sub(now.saturating_duration_since(self.at) / SHARE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_millis(20);

    fn pod(number: u8) -> PodUid {
        PodUid::new([number; 16], false)
    }

    /// Carries out every look that is due until `end`, each of which takes some time; how often each of two pods was looked at.
    fn run(
        urgent: &mut Urgent,
        now: &mut Instant,
        end: Instant,
        mut meanwhile: impl FnMut(&mut Urgent, Instant),
    ) -> [u32; 2] {
        let mut looks = [0, 0];
        while *now < end {
            meanwhile(urgent, *now);
            match urgent.take(*now) {
                Some(uid) => {
                    *now += LOOK;
                    urgent.took(uid, LOOK, *now);
                    looks[usize::from(uid != pod(0))] += 1;
                }
                None => *now += Duration::from_millis(1),
            }
        }
        looks
    }

    #[test]
    fn a_flood_has_its_share_and_takes_none_from_others() {
        let (mut urgent, mut now) = (Urgent::default(), Instant::now());
        let length = Duration::from_secs(40);
        let end = now + length;
        let mut asked = false;
        let looks = run(&mut urgent, &mut now, end, |urgent, now| {
            (0..100).for_each(|_| urgent.ask(pod(0), true, now));
            if !asked && now + length / 2 > end {
                asked = true;
                urgent.ask(pod(1), false, now);
            }
        });
        let [flood, other] = looks;
        assert!(LOOK * flood <= MOST + length / SHARE + 2 * LOOK, "{flood} looks");
        assert!(flood > 100, "its share is not nothing: {flood}");
        assert_eq!(other, 1);
        assert_eq!(urgent.0.len(), 2, "one entry for each pod");
        urgent.keep(|uid| *uid == pod(1));
        assert_eq!(urgent.0.len(), 1);
    }

    #[test]
    fn who_asked_first_comes_first() {
        let (mut urgent, now) = (Urgent::default(), Instant::now());
        urgent.ask(pod(2), false, now);
        urgent.ask(pod(1), false, now + LOOK);
        urgent.ask(pod(2), false, now + LOOK);
        let later = now + 2 * LOOK;
        assert_eq!([urgent.take(later), urgent.take(later), urgent.take(later)], [Some(pod(2)), Some(pod(1)), None]);
    }

    #[test]
    fn what_may_come_later_is_looked_for_again() {
        let (mut urgent, mut now) = (Urgent::default(), Instant::now());
        let start = now;
        urgent.ask(pod(0), true, now);
        let mut last = now;
        while let Some(due) = urgent.due() {
            now = due;
            assert_eq!(urgent.take(now), Some(pod(0)));
            last = now;
        }
        assert!(last - start > Duration::from_millis(500), "{:?}", last - start);
    }
}
