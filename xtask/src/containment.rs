//! `cargo xtask containment`: the escape suite alone, and the matrix that it gives.

use anyhow::{Result, ensure};

use crate::{
    build::{self, Profile},
    object,
    setup::{self, Need},
    step,
    workspace::Workspace,
};

/// Where the matrix goes, in the checkout.
const DOCUMENT: &str = "docs/containment.md";

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only check that isolate-agent leaves open what is known and nothing else; write nothing
    #[arg(long)]
    check: bool,
}

/// Runs the suite; unless told otherwise, under every cut.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    ensure!(setup::is_root(), "the escape suite needs root: it makes pods out of kernel objects");
    let toolchain = setup::run(workspace, &[Need::Build, Need::Test])?;
    object::build(workspace, &toolchain)?;
    let agent = build::agent(workspace, Profile::Debug)?;
    let document = workspace.root.join(DOCUMENT);
    let mut cargo = workspace.cargo();
    cargo.env("ISOLATE_AGENT_BIN", agent);
    cargo.args(["test", "--package", "isolate-tests", "--test", "kernel", "--", "--color", "never", "escape::"]);
    if args.check {
        return step::run("run the escape suite", &mut cargo);
    }
    cargo.env("ISOLATE_MATRIX", &document);
    step::run("run the escape suite under every cut (some two minutes)", &mut cargo)?;
    println!("{}", document.display());
    Ok(())
}
