//! The demo of `cargo xtask demo`: whatever ends it in the middle, nothing of it stays.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::PoisonError,
};

use isolate_tests::residue;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{harness::SWEEPING, suite::trials};

trials![ctrl_c_leaves_nothing, sigterm_leaves_nothing, a_crash_leaves_nothing];

/// As a terminal does, which signals every process of the demo at once.
fn ctrl_c_leaves_nothing() {
    interrupt(|guard, _story| kill_process_group(Pid::from_child(guard), Signal::INT).expect("it runs"), 128 + 2);
}

/// As a service manager does, which signals the first process alone.
fn sigterm_leaves_nothing() {
    interrupt(|guard, _story| kill_process(Pid::from_child(guard), Signal::TERM).expect("it runs"), 128 + 15);
}

fn a_crash_leaves_nothing() {
    interrupt(|_guard, story| kill_process(story, Signal::KILL).expect("it runs"), 1);
}

/// Ends a demo while the pod is cut off.
fn interrupt(end: impl FnOnce(&Child, Pid), code: i32) {
    // The demo begins with a sweep.
    let _alone = SWEEPING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut guard = Command::new(env!("CARGO_BIN_EXE_demo"))
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the demo can be started");
    let mut output = BufReader::new(guard.stdout.take().expect("stdout is piped")).lines();
    let cut = output.by_ref().flatten().any(|line| line.contains("$ isolate-agent add"));
    assert!(cut, "the demo ended before it cut the pod off: {:?}", guard.wait());
    let story = story_of(&guard);
    let prefix = format!("isolate-test-{}-", story.as_raw_pid());
    assert!(residue::any_named(&prefix), "the demo made nothing");
    end(&guard, story);
    let status = guard.wait().expect("a child can be waited for");
    assert_eq!(status.code(), Some(code));
    assert!(!residue::any_named(&prefix), "something of the demo is left");
}

fn story_of(guard: &Child) -> Pid {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", guard.id())).expect("the guard runs");
    let child = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
    child.and_then(Pid::from_raw).expect("the guard has a child")
}
