//! Clears up after a story (a demo, a benchmark), however it ends: by itself, by a panic, by ctrl-C or SIGTERM to this
//! process.
//!
//! The story is this program again, as a child. It is killed rather than asked: what it made carries its process id, and is
//! found by that. So there is one way of clearing up, and it needs nothing of the story.

use std::{
    env, io,
    process::{Command, ExitCode, Stdio},
};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, wait};
use signal_hook::{
    consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level::signal_name,
};

use crate::sweep;

/// The argument by which the guard starts the story.
pub const STORY: &str = "story";

/// Added to a signal's number for the exit code, as shells do.
const BY_SIGNAL: u8 = 128;

/// Whether this process is the story, which a guard watches.
pub fn is_story() -> bool {
    env::args_os().nth(1).is_some_and(|argument| argument == STORY)
}

/// Removes what an earlier run has left, runs the story with this program's arguments, and removes what it leaves. `name` is
/// what messages call it.
pub fn watch(name: &str) -> ExitCode {
    run(name).unwrap_or_else(|error| {
        eprintln!("{name}: {error}");
        ExitCode::FAILURE
    })
}

fn run(name: &str) -> io::Result<ExitCode> {
    sweep::dead_runs();
    // What the story started becomes this process's child when the story ends, and can be waited for.
    set_child_subreaper(Some(getpid()))?;
    let mut signals = Signals::new([SIGCHLD, SIGHUP, SIGINT, SIGTERM])?;
    let story =
        Command::new(env::current_exe()?).arg(STORY).args(env::args_os().skip(1)).stdin(Stdio::null()).spawn()?;
    let (status, stop) = await_end(Pid::from_child(&story), &mut signals);
    // Killed by the kernel when the story ended, or about to end: an `ip` that still works would undo the sweep.
    while wait(WaitOptions::empty()).is_ok() {}
    let left = sweep::left_by(story.id());
    let finished = status.is_some_and(|status| status.exit_status() == Some(0));
    Ok(match stop {
        _ if finished => ExitCode::SUCCESS,
        Some(signal) => {
            let by = signal_name(signal).unwrap_or("a signal");
            eprintln!("\n{name}: stopped by {by}; {} objects removed, nothing is left", left.len());
            ExitCode::from(u8::try_from(signal).map_or(BY_SIGNAL, |signal| BY_SIGNAL + signal))
        }
        None => {
            if !left.is_empty() {
                eprintln!("{name}: could not go on, for the reason above; {} objects removed", left.len());
                eprintln!("{name}: `isolate-agent doctor` tells what this machine offers");
            }
            ExitCode::FAILURE
        }
    })
}

/// Waits for the story; the first signal that means "stop" ends it.
fn await_end(story: Pid, signals: &mut Signals) -> (Option<WaitStatus>, Option<i32>) {
    let mut stop = None;
    for signal in signals.forever() {
        if signal != SIGCHLD {
            stop = stop.or(Some(signal));
            // It is not reaped yet, so the id is still its own; it may have ended just now, which is as good.
            kill_process(story, Signal::KILL).ok();
        }
        while let Ok(Some((ended, status))) = wait(WaitOptions::NOHANG) {
            if ended == story {
                return (Some(status), stop);
            }
        }
    }
    (None, stop)
}
