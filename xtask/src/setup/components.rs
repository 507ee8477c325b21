//! rustfmt and clippy for the toolchain that runs this program.

use anyhow::{Context as _, Result};

use crate::{step, workspace::Workspace};

/// What rustup calls them, and the cargo command that shows that they work.
const COMPONENTS: [(&str, &str); 2] = [("rustfmt", "fmt"), ("clippy", "clippy")];

/// Adds what is missing.
pub(crate) fn ensure(workspace: &Workspace) -> Result<()> {
    for (component, command) in COMPONENTS {
        if step::output(workspace.cargo().args([command, "--version"])).is_ok() {
            continue;
        }
        let mut rustup = workspace.command("rustup");
        rustup.args(["component", "add", component]);
        step::run(&format!("install {component} (rustup component add {component})"), &mut rustup)
            .with_context(|| format!("`cargo {command}` does not work here and rustup could not add {component}"))?;
    }
    Ok(())
}
