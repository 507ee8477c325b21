//! `cargo xtask`: sets up a machine for this workspace, builds it, tests it and shows it.
//!
//! One file per verb. What a verb is about goes to stdout; progress and complaints go to stderr.
#![expect(clippy::print_stdout, reason = "a command-line tool speaks on stdout")]

mod bench;
mod build;
mod chaos;
mod containment;
mod demo;
mod object;
mod setup;
mod step;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::{setup::Need, workspace::Workspace};

/// Sets up a machine for isolate, builds it, tests it and shows it
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Verb {
    /// Install what building, testing and the demo need, where it is missing
    Setup,
    /// Build isolate-agent with the BPF programs in it
    Build(build::Args),
    /// Check format and lints, then run the unit, property and kernel tests
    Test(test::Args),
    /// Show on a node of kernel objects what the product does: a pod is cut off and released (root needed)
    Demo(demo::Args),
    /// Try every channel out of a pod under every way to cut it off, and write docs/containment.md
    Containment(containment::Args),
    /// Measure the product beside what people would use instead, and write docs/performance.md (root needed)
    Bench(bench::Args),
    /// Let random things happen to fifty pods and the agent, and count what passes and what is lost (root needed)
    Chaos(chaos::Args),
    /// Run the kernel tests under stock kernels, in an emulated machine (root needed)
    Vm(vm::Args),
}

fn main() -> ExitCode {
    match run(&Verb::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            step::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(verb: &Verb) -> Result<()> {
    let workspace = Workspace::locate()?;
    match verb {
        Verb::Setup => {
            let toolchain = setup::run(&workspace, &[Need::Build, Need::Test, Need::Demo])?;
            println!("ready: {toolchain}");
            Ok(())
        }
        Verb::Build(args) => build::run(&workspace, args),
        Verb::Test(args) => test::run(&workspace, args),
        Verb::Demo(args) => demo::run(&workspace, args),
        Verb::Containment(args) => containment::run(&workspace, args),
        Verb::Bench(args) => bench::run(&workspace, args),
        Verb::Chaos(args) => chaos::run(&workspace, args),
        Verb::Vm(args) => vm::run(&workspace, args),
    }
}
