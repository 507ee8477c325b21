//! `cargo xtask chaos`: sets up, builds, and runs the chaos of `tests/src/bin/chaos`.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{
    build::{self, Profile},
    object,
    setup::{self, Need},
    step,
    workspace::Workspace,
};

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What gives the sequence of steps: the same seed, the same sequence
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// For how long
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    lasting: Duration,
    /// How many pods
    #[arg(long, default_value_t = 50)]
    pods: u8,
}

/// `60s`, `10m` or `2h`.
fn parse_time(text: &str) -> Result<Duration, String> {
    let units = [('s', 1), ('m', 60), ('h', 3600)];
    let seconds = units
        .into_iter()
        .find_map(|(unit, seconds)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| "a number with s, m or h behind it".to_owned())
}

/// Sets up, builds and runs.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    ensure!(setup::is_root(), "chaos needs root: it makes pods out of kernel objects");
    let toolchain = setup::run(workspace, &[Need::Build, Need::Test])?;
    object::build(workspace, &toolchain)?;
    start(workspace, args)
}

/// What belongs to CI. Set-up and the BPF object are the caller's.
pub(crate) fn run_in_ci(workspace: &Workspace) -> Result<()> {
    start(workspace, &Args { seed: 1, lasting: Duration::from_mins(1), pods: 50 })
}

fn start(workspace: &Workspace, args: &Args) -> Result<()> {
    let agent = build::agent(workspace, Profile::Debug)?;
    let mut cargo = workspace.cargo();
    step::run("build the chaos", cargo.args(["build", "--package", "isolate-tests", "--bins"]))?;
    let mut chaos = workspace.command(workspace.target.join("debug/chaos"));
    chaos.env("ISOLATE_AGENT_BIN", agent);
    chaos.args(["--seed", &args.seed.to_string(), "--secs", &args.lasting.as_secs().to_string()]);
    step::run("run the chaos", chaos.args(["--pods", &args.pods.to_string()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(parse_time("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(parse_time("60s"), Ok(Duration::from_mins(1)));
        for wrong in ["", "10", "m", "-1s", "1.5m", "99999999999999999999h"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
