//! `cargo xtask bench`: sets up, builds, and becomes the benchmark, so that ctrl-C and SIGTERM reach it as they are.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result, ensure};

use crate::{
    build::{self, Profile},
    object,
    setup::{self, Need},
    step,
    workspace::Workspace,
};

/// How to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only see that everything works, on an agent that is built quickly; the times mean nothing, and docs/ is left alone
    #[arg(long)]
    quick: bool,
    /// What else to tell the benchmark; `cargo xtask bench -- --help` lists it
    #[arg(last = true, value_name = "OPTION")]
    rest: Vec<OsString>,
}

/// Measures; returns only if it cannot.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    ensure!(setup::is_root(), "the benchmark needs root: it makes pods out of kernel objects");
    let toolchain = setup::run(workspace, &[Need::Build, Need::Test])?;
    object::build(workspace, &toolchain)?;
    let (profile, folder) = if args.quick { (Profile::Debug, "debug") } else { (Profile::Release, "release") };
    let agent = build::agent(workspace, profile)?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--package", "isolate-tests", "--bins"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    step::run(&format!("build the benchmark ({folder})"), &mut cargo)?;
    let program = workspace.target.join(folder).join("bench");
    let mut bench = workspace.command(&program);
    bench.env("ISOLATE_AGENT_BIN", agent);
    if args.quick {
        bench.arg("--quick").arg("--out").arg(workspace.target.join("bench"));
    } else {
        bench.arg("--out").arg(workspace.root.join("docs"));
    }
    let error = bench.args(&args.rest).exec();
    Err(error).with_context(|| format!("start {}", program.display()))
}
