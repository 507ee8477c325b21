//! Bounded waits: a condition is polled until a generous deadline, and no test asserts how long it took.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Longest wait for what must happen. Far beyond what it takes, for a machine that is busy, or emulated by one that is.
pub const DEADLINE: Duration = Duration::from_mins(2);

const PAUSE: Duration = Duration::from_millis(10);

/// Whether `condition` came true before `deadline` passed.
pub fn happens_within(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() > deadline {
            return false;
        }
        thread::sleep(PAUSE);
    }
}

/// Waits until `condition` is true; panics with `what` when it does not become so.
pub fn until(what: &str, condition: impl FnMut() -> bool) {
    assert!(happens_within(DEADLINE, condition), "did not happen within {DEADLINE:?}: {what}");
}
