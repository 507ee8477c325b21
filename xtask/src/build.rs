//! `cargo xtask build`: isolate-agent with the BPF programs in it.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{
    object,
    setup::{self, Need},
    step,
    workspace::Workspace,
};

/// How to build.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build without optimisation, which is quicker
    #[arg(long)]
    debug: bool,
}

/// Optimised for speed, or built quickly.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// What is installed on nodes.
    Release,
    /// What the tests run.
    Debug,
}

/// Builds the agent and prints where it is.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let toolchain = setup::run(workspace, &[Need::Build])?;
    object::build(workspace, &toolchain)?;
    let binary = agent(workspace, if args.debug { Profile::Debug } else { Profile::Release })?;
    let bytes = fs::metadata(&binary).with_context(|| format!("look at {}", binary.display()))?.len();
    println!("{} ({} KiB)", binary.display(), bytes.div_ceil(1024));
    Ok(())
}

/// Builds the agent around the BPF object that is there; gives the binary.
pub(crate) fn agent(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--package", "isolate-agent", "--bin", "isolate-agent"]);
    let folder = match profile {
        Profile::Release => {
            cargo.arg("--release");
            "release"
        }
        Profile::Debug => "debug",
    };
    step::run(&format!("build isolate-agent ({folder})"), &mut cargo)?;
    Ok(workspace.target.join(folder).join("isolate-agent"))
}
