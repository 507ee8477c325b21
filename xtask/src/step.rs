//! Steps: announced by name before they run, with their output as it comes and their time when they were long.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

/// Shorter steps do not tell their time.
const WORTH_TELLING: Duration = Duration::from_secs(2);

/// Runs a command, announced as `what`, and fails if it does.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<()> {
    say(what);
    let start = Instant::now();
    let status = command.status().with_context(|| format!("{what}: start {}", command.get_program().display()))?;
    ensure!(status.success(), "{what}: {} ended with {status}", command.get_program().display());
    if start.elapsed() >= WORTH_TELLING {
        say(&format!("{what}: done in {}", seconds(start.elapsed())));
    }
    Ok(())
}

/// Runs a command quietly and gives what it printed on stdout.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("start {program}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} ended with {}: {}", output.status, complaint.trim());
    String::from_utf8(output.stdout).with_context(|| format!("{program} printed something other than text"))
}

/// Prints a line of progress.
pub(crate) fn say(text: &str) {
    eprintln!("xtask: {text}");
}

/// A duration for a reader.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
