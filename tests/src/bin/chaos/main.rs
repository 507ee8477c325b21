//! What `cargo xtask chaos` runs: fifty pods, a random and bounded sequence of everything that can happen to them and to the
//! agent, and streams from and to every pod that must not pass while it is isolated, nor lose anything while it is not.
//!
//! The seed gives the sequence: what is done does not depend on how long anything takes. A failure ends the run and prints
//! the seed, the step, the steps before it, the journal and the daemon's log; the guard clears up.

mod dice;
mod member;
mod run;
mod stranger;

use std::{
    panic,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser as _;
use isolate_tests::guard;

use crate::run::Run;

/// What to run.
#[derive(clap::Parser)]
struct Options {
    /// What gives the sequence of steps
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// For how many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    secs: u64,
    /// How many pods, at most 200
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(2..=200))]
    pods: u8,
}

fn main() -> ExitCode {
    if guard::is_story() { story() } else { guard::watch("chaos") }
}

fn story() -> ExitCode {
    // The first argument is the guard's.
    let Options { seed, secs, pods } = Options::parse_from(std::env::args_os().skip(1));
    eprintln!("chaos: seed {seed}, {pods} pods, {secs} s");
    // Programs of this workspace end with a panic at once: what tells of it is printed before.
    panic::set_hook(Box::new(move |failure| {
        eprintln!("chaos: FAILED: {failure}\n{}", run::evidence());
        eprintln!("chaos: again: cargo xtask chaos --seed {seed} --pods {pods}");
    }));
    let mut run = Run::new(seed, pods);
    let end = Instant::now() + Duration::from_secs(secs);
    while Instant::now() < end {
        run.step();
    }
    run.finish();
    eprintln!("chaos: {}", run.summary());
    run.end();
    ExitCode::SUCCESS
}
