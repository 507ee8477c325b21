//! Starts programs at their place: a network namespace and a cgroup, both entered before the program runs.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::Write as _,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::Path,
    process::{Command, Output},
};

use rustix::{
    process::{Signal, set_parent_process_death_signal},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::netns::Netns;

/// A command that will be born in `netns` and `cgroup`, and is killed when the thread that starts it ends.
pub fn command(program: impl AsRef<OsStr>, netns: &Netns, cgroup: &Path) -> Command {
    let netns = netns.file().try_clone().expect("a descriptor can be copied");
    let procs = cgroup.join("cgroup.procs");
    let procs = OpenOptions::new().write(true).open(&procs).unwrap_or_else(|e| panic!("{}: {e}", procs.display()));
    let mut command = Command::new(program);
    // SAFETY: between fork and exec the closure makes three system calls on descriptors that it owns, and allocates nothing.
    unsafe { command.pre_exec(move || settle(&netns, &procs)) };
    command
}

fn settle(netns: &File, mut procs: &File) -> std::io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    procs.write_all(b"0")?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// Runs a command to its end; panics with what it printed when it fails.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs a command of a clean-up, which goes on when it fails.
pub(crate) fn try_to(command: &mut Command) {
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            eprintln!("clean-up: {command:?}: {}: {}", output.status, text.trim());
        }
        Err(error) => eprintln!("clean-up: cannot start {command:?}: {error}"),
    }
}
