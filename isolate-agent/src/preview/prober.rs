//! When kubelet gives a container up, as a window from now. Pure.
//!
//! What kubelet does (pkg/kubelet/prober/worker.go and prober.go, as their sources have it):
//! - One worker a probe has a ticker of `periodSeconds` from the time when the pod was added. A tick that comes during an
//!   attempt is kept, one; so attempts follow each other after the longer of period and timeout.
//! - A tick does nothing while the container is younger than `initialDelaySeconds`; nor, for liveness and readiness,
//!   before the startup probe has succeeded; nor, for startup, after that.
//! - An attempt whose packets are dropped takes the whole `timeoutSeconds` and fails. `failureThreshold` of them in a row
//!   give the container up. They count on over a restart of the container, but not over a success.
//! - A worker that starts within a period of kubelet's own start waits a random part of the period first: its phase is
//!   not known, which it never is.

#[cfg(test)]
pub(super) mod simulator;

use serde::{Deserialize, Serialize};

use crate::spec::Timing;

/// A stretch of time, in seconds from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Not before.
    pub earliest: u64,
    /// Not after; without it there is no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<u64>,
}

impl Window {
    /// From the earliest of both to the latest.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let latest = self.latest.zip(other.latest).map(|(a, b)| a.max(b));
        Self { earliest: self.earliest.min(other.earliest), latest }
    }

    /// Whichever comes first.
    #[must_use]
    pub fn first(self, other: Self) -> Self {
        let latest = [self.latest, other.latest].into_iter().flatten().min();
        Self { earliest: self.earliest.min(other.earliest), latest }
    }

    /// The same with an end that is later by `secs`.
    #[must_use]
    pub fn and_up_to(self, secs: u64) -> Self {
        Self { latest: self.latest.map(|latest| latest.saturating_add(secs)), ..self }
    }
}

/// How old a container is, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// Not younger.
    pub at_least: u64,
    /// Not older; without it there is no bound.
    pub at_most: Option<u64>,
}

impl Age {
    /// Just started.
    pub const NEW: Self = Self { at_least: 0, at_most: Some(0) };
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { at_least: 0, at_most: None };

    /// Known to the second.
    pub const fn about(secs: u64) -> Self {
        Self { at_least: secs, at_most: Some(secs.saturating_add(1)) }
    }
}

/// From the beginning of an attempt that hangs to that of the next.
fn pace(timing: &Timing) -> u64 {
    timing.period_secs.max(timing.timeout_secs)
}

/// From the beginning of the first attempt that hangs to the failure of the last that counts.
fn run(timing: &Timing) -> u64 {
    pace(timing).saturating_mul(timing.failure_threshold.saturating_sub(1)).saturating_add(timing.timeout_secs)
}

/// When a liveness or readiness probe has failed, if its attempts were answered until now and hang from now on.
///
/// The earliest is an attempt that is under way and whose answer is still to come; the latest, one that was answered just
/// now.
pub fn fails(timing: &Timing, age: Age) -> Window {
    let delay = timing.initial_delay_secs;
    let under_way = match age.at_most {
        None => timing.timeout_secs,
        Some(age) => age.saturating_sub(delay).min(timing.timeout_secs),
    };
    let first = delay.saturating_sub(age.at_most.unwrap_or(u64::MAX));
    let last = delay.saturating_sub(age.at_least).saturating_add(timing.period_secs);
    Window {
        earliest: first.saturating_add(run(timing)).saturating_sub(under_way),
        latest: Some(last.saturating_add(run(timing))),
    }
}

/// When a startup probe has failed that has not succeeded so far, if its attempts hang from now on.
///
/// Those until now have failed and count: the earliest is if they failed at once, the latest if they hung as well.
pub fn startup_fails(timing: &Timing, age: Age) -> Window {
    let (period, timeout) = (timing.period_secs.max(1), timing.timeout_secs);
    // When the last attempt begins if those before it took no time.
    let last = period.saturating_mul(timing.failure_threshold.saturating_sub(1));
    let earliest = match age.at_most {
        None => 0,
        Some(age) => match age.checked_sub(timing.initial_delay_secs) {
            None => (timing.initial_delay_secs - age).saturating_add(run(timing)),
            // It is under way.
            Some(since) if since > last => timeout.saturating_sub(since - last),
            Some(since) => {
                let failed = since.div_ceil(period);
                let left = pace(timing).saturating_mul((last / period).saturating_sub(failed));
                (failed.saturating_mul(period) - since).saturating_add(left).saturating_add(timeout)
            }
        },
    };
    Window { earliest, latest: Some(startup_ends(timing, age)) }
}

/// When a startup probe that has not succeeded so far has done so or failed, at the latest.
pub fn startup_ends(timing: &Timing, age: Age) -> u64 {
    let from_start = timing.initial_delay_secs.saturating_add(timing.period_secs).saturating_add(run(timing));
    from_start.saturating_sub(age.at_least)
}

/// When a liveness probe has failed that waits for a startup probe which goes on and will succeed.
pub fn fails_after_startup(liveness: &Timing, startup: &Timing, age: Age) -> Window {
    let delay = |age| liveness.initial_delay_secs.saturating_sub(age);
    let first = delay(age.at_most.unwrap_or(u64::MAX));
    let last = delay(age.at_least).max(startup_ends(startup, age));
    let latest = last.saturating_add(liveness.period_secs).saturating_add(run(liveness));
    Window { earliest: first.saturating_add(run(liveness)), latest: Some(latest) }
}

/// How long kubelet waits before it starts a container again, at most, for each time that it ends, in seconds.
///
/// Twice as long each time from 10 s to 300 s; it begins anew once the container has run for 10 minutes (`backOffPeriod`
/// and `MaxContainerBackOff` in pkg/kubelet/kubelet.go, `hasExpired` in client-go's flowcontrol). kubelet's setting
/// `crashLoopBackOff.maxContainerRestartPeriod` can make the longest shorter. It counts from the end before the last when it
/// ends a container itself, so one that lived longer than the wait is started at once.
pub const BACK_OFF_SECS: [u64; 7] = [0, 10, 20, 40, 80, 160, 300];
