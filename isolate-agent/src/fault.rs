//! Faults for tests: with the feature `fault-injection`, `ISOLATE_FAULT=<step>` ends the process at that step as a crash does,
//! and `ISOLATE_FAULT=<step>=<errno>` fails the call there. Without the feature nothing of it is in the binary.
//!
//! What a crash after a step leaves, and the next start makes of it, is in `ARCHITECTURE.md`.

use std::io;

/// The steps, but for those that [`crate::plan::Action`] names.
#[cfg(feature = "fault-injection")]
const STEPS: [&str; 17] = [
    "draft made",
    "state copied",
    "draft named",
    "pin",
    "program pinned",
    "object noted",
    "link updated",
    "link moved",
    "old layout removed",
    "link attached",
    "next link pinned",
    "link replaced",
    "link detached",
    "write record",
    "record written",
    "record named",
    "record deleted",
];

/// A step of which there is nothing to fail: it has been done.
#[cfg(feature = "fault-injection")]
pub(crate) fn after(step: &str) {
    drop(at(step));
}

/// A step that can fail.
#[cfg(feature = "fault-injection")]
pub(crate) fn at(step: &str) -> io::Result<()> {
    assert!(steps().any(|known| known == step), "{step} is not in the list of steps");
    let Ok(fault) = std::env::var("ISOLATE_FAULT") else { return Ok(()) };
    match fault.split_once('=') {
        None if fault == step => std::process::abort(),
        Some((failing, errno)) if failing == step => {
            Err(io::Error::from_raw_os_error(errno.parse().expect("the test gives a number")))
        }
        _ => Ok(()),
    }
}

/// All steps.
#[cfg(feature = "fault-injection")]
pub fn steps() -> impl Iterator<Item = &'static str> {
    STEPS.into_iter().chain(crate::plan::Action::STEPS)
}

/// Nothing.
#[cfg(not(feature = "fault-injection"))]
pub(crate) const fn after(_step: &str) {}

/// Nothing.
#[cfg(not(feature = "fault-injection"))]
#[expect(clippy::unnecessary_wraps, reason = "with the feature it fails")]
pub(crate) const fn at(_step: &str) -> io::Result<()> {
    Ok(())
}
