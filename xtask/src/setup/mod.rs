//! Set-up: brings a machine to where the workspace can be built and tested. One module per tool.
//!
//! Looks before it installs, and names what it installs before it does. Mounts nothing and starts nothing.

mod compiler;
mod components;
mod linker;
mod packages;
mod probe;
mod toolchain;

use std::{fs, os::unix::fs::MetadataExt as _};

use anyhow::Result;

pub(crate) use self::{
    packages::{refresh as refresh_packages, unpack as unpack_package},
    toolchain::Toolchain,
};
use crate::workspace::Workspace;

/// What something has to be there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// The BPF object and the agent.
    Build,
    /// The kernel tests.
    Test,
    /// The demo.
    Demo,
    /// Stock kernels in an emulated machine.
    Vm,
    /// Debian's compiler for the BPF target, where no other is to be had.
    BpfCompiler,
    /// Compiling bpf-linker.
    BpfLinker,
}

/// Installs what is missing for `needs`; gives the toolchain for the BPF target.
pub(crate) fn run(workspace: &Workspace, needs: &[Need]) -> Result<Toolchain> {
    if needs.contains(&Need::Test) {
        components::ensure(workspace)?;
    }
    packages::ensure(workspace, needs)?;
    toolchain::ensure(workspace)
}

/// Installs what is missing for `needs` and is no toolchain.
pub(crate) fn ensure_packages(workspace: &Workspace, needs: &[Need]) -> Result<()> {
    packages::ensure(workspace, needs)
}

/// rustfmt and clippy, which rustup's minimal profile lacks.
pub(crate) fn ensure_components(workspace: &Workspace) -> Result<()> {
    components::ensure(workspace)
}

/// Whether this process may install packages and load programs.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
