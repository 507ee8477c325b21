//! `cargo xtask build`: isolate-agent with the BPF programs in it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    object,
    setup::{self, Need, Toolchain},
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
    ensure!(!has_faults(&binary)?, "{} has faults that can be asked for: it is not for nodes", binary.display());
    let bytes = fs::metadata(&binary).with_context(|| format!("look at {}", binary.display()))?.len();
    println!("{} ({} KiB)", binary.display(), bytes.div_ceil(1024));
    Ok(())
}

/// Whether the binary can be told by its environment to crash, as the one of the tests can.
fn has_faults(binary: &Path) -> Result<bool> {
    const ASKED_BY: &[u8] = b"ISOLATE_FAULT";
    let bytes = fs::read(binary).with_context(|| format!("read {}", binary.display()))?;
    Ok(bytes.windows(ASKED_BY.len()).any(|window| window == ASKED_BY))
}

/// Builds the agent that the tests of upgrades and crashes need beside the usual one: of the next layout, and with faults
/// that can be asked for. Before the usual one, since cargo gives both the same name.
pub(crate) fn next_agent(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    let next_object = object::build_next(workspace, toolchain)?;
    let mut cargo = agent_cargo(workspace);
    cargo.env("ISOLATE_EBPF_OBJECT", next_object).args(["--features", "fault-injection,layout-next"]).args(STATIC);
    step::run("build isolate-agent (next layout, with faults)", &mut cargo)?;
    let built = workspace.target.join("debug/isolate-agent");
    ensure!(
        has_faults(&built)?,
        "the faults of {} are not found: a release that has them would not be",
        built.display()
    );
    let debug = workspace.target.join("debug");
    let next = debug.join("isolate-agent-next");
    if object::install(&debug.join("isolate-agent"), &next)? {
        fs::set_permissions(&next, fs::Permissions::from_mode(0o755)).context("make it executable")?;
    }
    Ok(())
}

/// Links the C library into the binary: a command starts in two thirds of the time, and needs nothing of the node or the image.
const STATIC: [&str; 3] = ["--", "-C", "target-feature=+crt-static"];

/// Builds the agent's binary, once [`STATIC`] ends its arguments.
fn agent_cargo(workspace: &Workspace) -> Command {
    let mut cargo = workspace.cargo();
    cargo.args(["rustc", "--package", "isolate-agent", "--bin", "isolate-agent"]);
    cargo
}

/// Builds the agent around the BPF object that is there; gives the binary.
pub(crate) fn agent(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    let mut cargo = agent_cargo(workspace);
    let folder = match profile {
        Profile::Release => {
            cargo.arg("--release");
            "release"
        }
        Profile::Debug => "debug",
    };
    step::run(&format!("build isolate-agent ({folder})"), cargo.args(STATIC))?;
    Ok(workspace.target.join(folder).join("isolate-agent"))
}
