//! `cargo xtask test`: format, lints, unit and property tests, kernel tests, the same under stock kernels, in this order.
//!
//! A stage that fails does not keep the next from running: one run shows everything that is wrong.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

use crate::{
    build::{self, Profile},
    chaos, object,
    setup::{self, Need},
    step, vm,
    workspace::Workspace,
};

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only the tests whose name contains one of these, and neither format check nor lints
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Run only these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    only: Vec<Stage>,
}

/// A part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Format
    Fmt,
    /// Lints, warnings denied
    Clippy,
    /// Unit and property tests; no root needed
    Unit,
    /// Tests with real packets; root needed
    Kernel,
    /// Random things that happen to fifty pods and the agent, for a minute; root needed
    Chaos,
    /// The most telling of those under stock kernels, in an emulated machine; root needed
    Vm,
}

/// How a stage went.
struct Outcome {
    stage: &'static str,
    took: Duration,
    result: Result<()>,
}

impl Args {
    fn stages(&self) -> Vec<Stage> {
        let all = Stage::value_variants().iter().copied();
        all.filter(|stage| match stage {
            _ if !self.only.is_empty() => self.only.contains(stage),
            // With names: `cargo xtask vm NAME`.
            Stage::Fmt | Stage::Clippy | Stage::Chaos | Stage::Vm => self.names.is_empty(),
            Stage::Unit | Stage::Kernel => true,
        })
        .collect()
    }
}

/// Runs the stages; fails if one of them did.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let stages = args.stages();
    if with_packets(&stages) && !setup::is_root() {
        bail!("the kernel tests need root; `cargo xtask test --only fmt,clippy,unit` runs the others");
    }
    let mut outcomes = Vec::new();
    outcomes.push(timed("set-up", || prepare(workspace, &stages)));
    if outcomes.iter().all(|outcome| outcome.result.is_ok()) {
        for stage in stages {
            outcomes.push(match stage {
                Stage::Fmt => timed("fmt", || fmt(workspace)),
                Stage::Clippy => timed("clippy", || clippy(workspace)),
                Stage::Unit => timed("unit", || unit(workspace, &args.names)),
                Stage::Kernel => timed("kernel", || kernel(workspace, &args.names)),
                Stage::Chaos => timed("chaos", || chaos::run_in_ci(workspace)),
                Stage::Vm => timed("vm", || vm::run_in_ci(workspace)),
            });
        }
    }
    summarise(&outcomes);
    let failed: Vec<&str> =
        outcomes.iter().filter(|outcome| outcome.result.is_err()).map(|outcome| outcome.stage).collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Whether a stage makes pods, which takes root and the agent.
fn with_packets(stages: &[Stage]) -> bool {
    stages.iter().any(|stage| matches!(stage, Stage::Kernel | Stage::Chaos | Stage::Vm))
}

/// Installs what the stages need; the BPF object first, since the agent is compiled around it.
fn prepare(workspace: &Workspace, stages: &[Stage]) -> Result<()> {
    if with_packets(stages) {
        let toolchain = setup::run(workspace, &[Need::Build, Need::Test])?;
        if stages.iter().any(|stage| matches!(stage, Stage::Kernel | Stage::Vm)) {
            build::next_agent(workspace, &toolchain)?;
        }
        return object::build(workspace, &toolchain);
    }
    if stages.iter().any(|stage| matches!(stage, Stage::Fmt | Stage::Clippy)) {
        return setup::ensure_components(workspace);
    }
    Ok(())
}

fn fmt(workspace: &Workspace) -> Result<()> {
    step::run("check the format", workspace.cargo().args(["fmt", "--all", "--check"]))
}

/// The programs are linted as a binary of the host, which they only become without tests.
fn clippy(workspace: &Workspace) -> Result<()> {
    let mut programs = workspace.cargo();
    programs.args(["clippy", "--package", "isolate-ebpf", "--bins", "--lib", "--", "--deny", "warnings"]);
    let mut others = workspace.cargo();
    others.args(["clippy", "--workspace", "--exclude", "isolate-ebpf", "--all-targets", "--", "--deny", "warnings"]);
    let programs = step::run("lint the BPF programs", &mut programs);
    step::run("lint everything else", &mut others).and(programs)
}

fn unit(workspace: &Workspace, names: &[String]) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--no-fail-fast", "--workspace", "--exclude", "isolate-ebpf", "--exclude", "isolate-tests"]);
    step::run("run the unit and property tests", cargo.arg("--").args(names))
}

fn kernel(workspace: &Workspace, names: &[String]) -> Result<()> {
    let agent = build::agent(workspace, Profile::Debug)?;
    let mut cargo: Command = workspace.cargo();
    cargo
        .env("ISOLATE_AGENT_BIN", agent)
        // What passing tests print is shown too: it says why one was skipped.
        .args([
            "test",
            "--package",
            "isolate-tests",
            "--tests",
            "--no-fail-fast",
            "--",
            "--color",
            "never",
            "--show-output",
        ])
        .arg(format!("--test-threads={}", threads()))
        .args(names);
    step::run("run the kernel tests", &mut cargo)
}

/// The tests mostly wait for packets that must not come, so there are more than processors; and few enough for their
/// time limits to hold.
fn threads() -> usize {
    thread::available_parallelism().map_or(2, |processors| processors.get() * 2).clamp(2, 8)
}

fn timed(stage: &'static str, run: impl FnOnce() -> Result<()>) -> Outcome {
    let start = Instant::now();
    let result = run();
    Outcome { stage, took: start.elapsed(), result }
}

/// On stderr, so that the test runner's closing lines stay the last on stdout.
fn summarise(outcomes: &[Outcome]) {
    eprintln!();
    for Outcome { stage, took, result } in outcomes {
        let (verdict, cause) = match result {
            Ok(()) => ("ok", String::new()),
            Err(error) => ("FAILED", format!("  {error:#}")),
        };
        eprintln!("{stage:<8}{:>9}  {verdict}{cause}", step::seconds(*took));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages(names: &[&str], only: &[Stage]) -> Vec<Stage> {
        Args { names: names.iter().map(ToString::to_string).collect(), only: only.to_vec() }.stages()
    }

    #[test]
    fn everything_runs_unless_told_otherwise() {
        let all = [Stage::Fmt, Stage::Clippy, Stage::Unit, Stage::Kernel, Stage::Chaos, Stage::Vm];
        assert_eq!(stages(&[], &[]), all);
    }

    #[test]
    fn a_name_leaves_the_stages_that_have_names() {
        assert_eq!(stages(&["verdict"], &[]), [Stage::Unit, Stage::Kernel]);
    }

    #[test]
    fn the_chosen_stages_run_in_their_own_order() {
        assert_eq!(stages(&[], &[Stage::Unit, Stage::Fmt]), [Stage::Fmt, Stage::Unit]);
        assert_eq!(stages(&["verdict"], &[Stage::Clippy]), [Stage::Clippy]);
    }
}
