//! bpf-linker: found, or compiled into the target folder.
//!
//! It goes into the target folder and not into the user's `~/.cargo/bin`, because its LLVM has to fit this checkout's
//! compiler: another project on the machine may need another.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    setup::{Need, compiler::Compiler, packages},
    step,
    workspace::Workspace,
};

const VERSION: &str = "0.13.0";

/// The LLVM releases that this bpf-linker can be built with.
const FEATURES: [u32; 3] = [21, 22, 23];

/// Those that are there: the checkout's own, those on the search path, cargo's.
pub(crate) fn installed(workspace: &Workspace) -> Vec<PathBuf> {
    let home = || env::home_dir().unwrap_or_default().join(".cargo");
    let cargo = env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from).join("bin");
    let folders = workspace.search_path().into_iter().chain([cargo]);
    let mut found = Vec::new();
    for file in folders.map(|folder| folder.join("bpf-linker")).filter(|file| file.is_file()) {
        if !found.contains(&file) {
            found.push(file);
        }
    }
    found
}

/// Whether [`build`] has what it takes for this compiler.
pub(crate) fn can_build(workspace: &Workspace, compiler: &Compiler) -> bool {
    compiler.llvm_major().is_some_and(|major| {
        let there = Path::new(&llvm_prefix(major)).join("bin/llvm-config").is_file();
        let to_be_had = major == packages::LLVM_MAJOR && packages::within_reach(workspace, &[Need::BpfLinker]);
        FEATURES.contains(&major) && (there || to_be_had)
    })
}

/// Compiles a bpf-linker that reads what this compiler writes.
pub(crate) fn build(workspace: &Workspace, compiler: &Compiler) -> Result<PathBuf> {
    let major = compiler.llvm_major().context("the compiler does not say which LLVM is in it")?;
    if !can_build(workspace, compiler) {
        bail!(
            "{} has LLVM {major}; bpf-linker {VERSION} needs that LLVM's library in {} (it knows LLVM {FEATURES:?})",
            compiler.name(),
            llvm_prefix(major)
        );
    }
    if major == packages::LLVM_MAJOR {
        packages::ensure(workspace, &[Need::BpfLinker])?;
    }
    let prefix = llvm_prefix(major);
    let mut cargo = workspace.cargo();
    cargo
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--no-default-features"])
        .args(["--features", &format!("llvm-{major}"), "--root"])
        .arg(workspace.tools())
        .env("LLVM_PREFIX", &prefix)
        .env("RUSTFLAGS", format!("-L {prefix}/lib"))
        .env_remove("CARGO_TARGET_DIR");
    let place = workspace.tools().join("bin/bpf-linker");
    step::run(&format!("compile bpf-linker {VERSION} for LLVM {major} into {}", place.display()), &mut cargo)?;
    Ok(place)
}

fn llvm_prefix(major: u32) -> String {
    format!("/usr/lib/llvm-{major}")
}
