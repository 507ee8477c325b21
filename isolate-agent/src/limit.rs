//! How long an isolation lasts: a time limit, and when it has ended. Pure but for [`Now::read`].
//!
//! A limit must never end early, and no clock alone is good enough for that: the wall clock can be set ahead, and the
//! clock of a boot starts anew with the next. So both must agree. See `docs/cli.md` for the rule as users are told it.

use std::{fs, io, time::Duration};

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Where the kernel says which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What the clocks say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    /// The wall clock, which anybody may set.
    pub wall: Timestamp,
    /// Which boot this is.
    pub boot: String,
    /// Seconds since it began, suspended ones too (`CLOCK_BOOTTIME`); nobody can set it.
    pub up_secs: u64,
}

impl Now {
    /// Reads the clocks.
    pub fn read() -> io::Result<Self> {
        let boot = fs::read_to_string(BOOT_ID)?.trim().to_owned();
        let up_secs = u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or_default();
        Ok(Self { wall: Timestamp::now(), boot, up_secs })
    }
}

/// A moment that the agent was last seen running at, kept on disk: it tells after a reboot how much had passed before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSeen {
    /// In which boot.
    pub boot: String,
    /// How far into it, in seconds.
    pub up_secs: u64,
}

/// The end of an isolation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeLimit {
    /// Not before the wall clock shows this.
    pub until: Timestamp,
    /// The boot whose clock the next two are of.
    pub boot: String,
    /// When it was noted, in seconds of that clock.
    pub from_secs: u64,
    /// Not before that clock shows this.
    pub to_secs: u64,
}

impl TimeLimit {
    /// The limit that ends at `until`. A part of a second counts as a whole one.
    pub fn at(until: Timestamp, now: &Now) -> Self {
        let left = until.duration_since(now.wall);
        let whole = u64::try_from(left.as_secs()).unwrap_or_default() + u64::from(left.subsec_nanos() > 0);
        // One more, because the clock's own second has begun before.
        let to_secs = now.up_secs.saturating_add(whole).saturating_add(1);
        Self { until, boot: now.boot.clone(), from_secs: now.up_secs, to_secs }
    }

    /// Whether it has ended. While it counts in another boot, it has not.
    pub fn has_ended(&self, now: &Now) -> bool {
        self.boot == now.boot && now.wall >= self.until && now.up_secs >= self.to_secs
    }

    /// When it will end, as far as the clocks of now can tell.
    pub fn ends_at(&self, now: &Now) -> Timestamp {
        let left = if self.boot == now.boot { self.to_secs.saturating_sub(now.up_secs) } else { 0 };
        let by_boot = now.wall.checked_add(Duration::from_secs(left)).unwrap_or(Timestamp::MAX);
        // The two differ by the part of a second that both were rounded by, unless a clock was set or stood still.
        if by_boot.duration_since(self.until) > SignedDuration::from_secs(2) { by_boot } else { self.until }
    }

    /// The same limit on the clock of this boot, or `None` if it counts in it already.
    ///
    /// What had not passed when the agent was last seen has to pass in this boot, from its beginning: the wall clock
    /// alone would have to be believed about the time in between, and a clock that wakes up in the future would release.
    #[must_use]
    pub fn rebased(&self, now: &Now, last_seen: Option<&LastSeen>) -> Option<Self> {
        if self.boot == now.boot {
            return None;
        }
        let seen = last_seen.filter(|seen| seen.boot == self.boot).map_or(0, |seen| seen.up_secs);
        let to_secs = self.to_secs.saturating_sub(seen.max(self.from_secs));
        Some(Self { until: self.until, boot: now.boot.clone(), from_secs: 0, to_secs })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now(wall_secs: i64, boot: &str, up_secs: u64) -> Now {
        Now { wall: Timestamp::from_second(wall_secs).expect("a time"), boot: boot.to_owned(), up_secs }
    }

    fn two_hours() -> TimeLimit {
        let began = now(1_000_000, "one", 500);
        TimeLimit::at(began.wall + Duration::from_hours(2), &began)
    }

    #[test]
    fn it_ends_when_both_clocks_say_so() {
        let limit = two_hours();
        for (wall, up, ended) in [
            (1_000_000, 500, false),
            (1_007_199, 7_701, false),
            (1_007_200, 7_701, true),
            // Set ahead, set back.
            (9_000_000, 7_000, false),
            (9_000_000, 7_701, true),
            (10, 99_999, false),
        ] {
            assert_eq!(limit.has_ended(&now(wall, "one", up)), ended, "{wall} {up}");
        }
        assert!(!limit.has_ended(&now(9_000_000, "two", 99_999)), "a boot whose clock it does not count in");
    }

    #[test]
    fn a_reboot_leaves_what_was_left() {
        let limit = two_hours();
        let after = now(9_000_000, "two", 30);
        let seen = |boot: &str, up_secs| LastSeen { boot: boot.to_owned(), up_secs };
        for (last_seen, left) in [
            (Some(seen("one", 500 + 7000)), 201),
            (Some(seen("one", 99_999)), 0),
            // Not told by this boot, or before the limit was set: all of it.
            (Some(seen("zero", 7500)), 7201),
            (Some(seen("one", 3)), 7201),
            (None, 7201),
        ] {
            let rebased = limit.rebased(&after, last_seen.as_ref()).expect("another boot");
            assert_eq!((rebased.to_secs, rebased.boot.as_str(), rebased.until), (left, "two", limit.until));
            assert_eq!(rebased.has_ended(&after), left == 0, "{last_seen:?}: only where it had ended before");
            assert_eq!(rebased.rebased(&now(9_000_000, "two", 40), last_seen.as_ref()), None);
        }
    }

    #[test]
    fn the_end_that_is_shown_is_the_later_one() {
        let limit = two_hours();
        assert_eq!(limit.ends_at(&now(1_000_000, "one", 500)), limit.until);
        assert_eq!(limit.ends_at(&now(1_003_600, "one", 4_100)), limit.until);
        let set_ahead = now(2_000_000, "one", 4_100);
        assert_eq!(limit.ends_at(&set_ahead).as_second(), 2_003_601);
        assert_eq!(limit.ends_at(&now(2_000_000, "one", 99_999)).as_second(), 2_000_000, "ended, not yet released");
    }

    /// Seconds that truly pass, with what else happens in between.
    #[derive(Clone, Debug)]
    enum Event {
        Pass { secs: u64, noted: bool },
        SetClock(i64),
        Reboot { off: u64 },
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            6 => (0..4000_u64, any::<bool>()).prop_map(|(secs, noted)| Event::Pass { secs, noted }),
            2 => (0..4_000_000_i64).prop_map(Event::SetClock),
            2 => (0..9000_u64).prop_map(|off| Event::Reboot { off }),
        ];
        proptest::collection::vec(event, 0..30)
    }

    proptest! {
        /// Whatever is done to the clocks: an isolation for two hours lasts two hours at least.
        #[test]
        fn it_never_ends_early(events in events()) {
            let mut limit = two_hours();
            let (mut clock, mut passed, mut boots, mut seen) = (now(1_000_000, "one", 500), 0_u64, 0, None);
            for event in events {
                match event {
                    Event::Pass { secs, .. } => {
                        passed += secs;
                        clock.up_secs += secs;
                        clock.wall += Duration::from_secs(secs);
                    }
                    Event::SetClock(secs) => clock.wall = Timestamp::from_second(secs).expect("a time"),
                    Event::Reboot { off } => {
                        passed += off;
                        boots += 1;
                        clock = Now { boot: format!("boot {boots}"), up_secs: 0, ..clock };
                    }
                }
                limit = limit.rebased(&clock, seen.as_ref()).unwrap_or(limit);
                if !matches!(event, Event::Pass { noted: false, .. }) {
                    seen = Some(LastSeen { boot: clock.boot.clone(), up_secs: clock.up_secs });
                }
                prop_assert!(!limit.has_ended(&clock) || passed >= 7200, "after {passed} s");
            }
        }
    }
}
