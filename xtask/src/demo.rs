//! `cargo xtask demo`: sets up, builds, and becomes the demo, so that ctrl-C and SIGTERM reach it as they are.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result, ensure};

use crate::{
    build::{self, Profile},
    object,
    setup::{self, Need},
    step,
    workspace::Workspace,
};

/// What to show.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What becomes of the evidence: containers that kubelet probes, cut off plainly and with --preserve
    #[arg(long)]
    scene: bool,
}

/// Shows what the product does; returns only if it cannot. The agent is the one that the tests run: an optimised one takes
/// minutes to build, and would show the same.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    ensure!(
        setup::is_root(),
        "the demo needs root: it makes network namespaces and cgroups and loads BPF programs. Start it again as root, for \
         instance `sudo env PATH=\"$PATH\" cargo xtask demo`"
    );
    let toolchain = setup::run(workspace, &[Need::Build, Need::Demo])?;
    object::build(workspace, &toolchain)?;
    let agent = build::agent(workspace, Profile::Debug)?;
    step::run("build the demo", workspace.cargo().args(["build", "--package", "isolate-tests", "--bins"]))?;
    let demo = workspace.target.join("debug/demo");
    let scene = args.scene.then_some("scene");
    let error = workspace.command(&demo).args(scene).env("ISOLATE_AGENT_BIN", agent).exec();
    Err(error).with_context(|| format!("start {}", demo.display()))
}
