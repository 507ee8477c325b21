//! The compiler for the BPF target: any that has the source of `core` with it. None is chosen here without a probe.
//!
//! It needs no nightly: `RUSTC_BOOTSTRAP` opens the same doors in a stable one, whose version stays what it is.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    setup::{Need, linker, packages},
    step,
    workspace::Workspace,
};

/// The release that rustup is asked for: the newest with the LLVM that Debian 12 has, for bpf-linker reads no bitcode
/// newer than its own LLVM.
const PINNED: &str = "1.95.0";

/// A rustc and its cargo, with the source of `core`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    pub(crate) rustc: PathBuf,
    pub(crate) cargo: PathBuf,
    /// What `rustc -vV` says.
    pub(crate) version: String,
}

impl Compiler {
    /// The compiler below a folder, if it is whole.
    fn below(workspace: &Workspace, sysroot: &Path) -> Option<Self> {
        let (rustc, cargo) = (sysroot.join("bin/rustc"), sysroot.join("bin/cargo"));
        if !sysroot.join("lib/rustlib/src/rust/library/Cargo.lock").is_file() || !cargo.is_file() {
            return None;
        }
        let mut ask = workspace.command(&rustc);
        let version = step::output(ask.env_remove("LD_LIBRARY_PATH").arg("-vV")).ok()?;
        Some(Self { rustc, cargo, version })
    }

    /// The first line of its version.
    pub(crate) fn name(&self) -> &str {
        self.version.lines().next().unwrap_or("rustc")
    }

    /// The release line of the LLVM in it.
    pub(crate) fn llvm_major(&self) -> Option<u32> {
        llvm_major(&self.version)
    }
}

fn llvm_major(version: &str) -> Option<u32> {
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

/// Those that are there: the one that runs this program first, then rustup's others, then the system's.
pub(crate) fn installed(workspace: &Workspace) -> Vec<Compiler> {
    let folder = rustup_toolchains();
    let active = env::var_os("RUSTUP_TOOLCHAIN").map(|name| folder.join(name));
    let mut others: Vec<PathBuf> =
        fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    others.sort();
    others.retain(|sysroot| Some(sysroot) != active.as_ref());
    let system = PathBuf::from("/usr");
    let sysroots = active.into_iter().chain(others).chain([system]);
    sysroots.filter_map(|sysroot| Compiler::below(workspace, &sysroot)).collect()
}

/// Has rustup install the pinned release with its source.
pub(crate) fn from_rustup(workspace: &Workspace) -> Result<Compiler> {
    ensure!(
        packages::within_reach(workspace, &[Need::BpfLinker]) || !linker::installed(workspace).is_empty(),
        "a Rust of rustup's would be without a bpf-linker: none is there, and llvm-{}-dev to compile one is out of reach",
        packages::LLVM_MAJOR
    );
    let mut rustup = workspace.command("rustup");
    rustup
        .args(["toolchain", "install", PINNED, "--profile", "minimal", "--component", "rust-src", "--no-self-update"])
        .env_remove("RUSTUP_TOOLCHAIN");
    step::run(&format!("install Rust {PINNED} with rust-src through rustup"), &mut rustup)?;
    let name = format!("{PINNED}-");
    let found = fs::read_dir(rustup_toolchains()).into_iter().flatten().flatten();
    found
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&name))
        .find_map(|entry| Compiler::below(workspace, &entry.path()))
        .with_context(|| {
            format!("rustup has installed {PINNED}, but it is not whole in {}", rustup_toolchains().display())
        })
}

/// Has Debian install its compiler with its source.
pub(crate) fn from_debian(workspace: &Workspace) -> Result<Compiler> {
    packages::ensure(workspace, &[Need::BpfCompiler])?;
    Compiler::below(workspace, Path::new("/usr")).context("the compiler below /usr has no source of core with it")
}

fn rustup_toolchains() -> PathBuf {
    let home = || env::home_dir().unwrap_or_default().join(".rustup");
    env::var_os("RUSTUP_HOME").map_or_else(home, PathBuf::from).join("toolchains")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_release_is_read_from_the_version() {
        let version = "rustc 1.95.0 (59807616e 2026-04-14)\nrelease: 1.95.0\nLLVM version: 22.1.2\n";
        assert_eq!(llvm_major(version), Some(22));
        assert_eq!(llvm_major("rustc 1.95.0\n"), None, "a compiler with another backend");
    }
}
