//! The compiler and linker for the BPF target: chosen by trying, and remembered until one of them changes.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    setup::{
        compiler::{self, Compiler},
        linker, probe,
    },
    step,
    workspace::Workspace,
};

/// A pair that works.
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { compiler, linker } = self;
        write!(f, "{} ({}) with {}", compiler.name(), compiler.rustc.display(), linker.display())
    }
}

/// Finds a pair that works; installs one if there is none.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Toolchain> {
    let compilers = compiler::installed(workspace);
    let linkers = linker::installed(workspace);
    let pairs = || {
        let all = compilers.iter().flat_map(|compiler| linkers.iter().map(move |linker| (compiler, linker)));
        all.map(|(compiler, linker)| Toolchain { compiler: compiler.clone(), linker: linker.clone() })
    };
    let remembered = fs::read_to_string(stamp_file(workspace)).unwrap_or_default();
    if let Some(known) = pairs().find(|pair| stamp(pair).is_ok_and(|stamp| stamp == remembered)) {
        return Ok(known);
    }
    let mut refusals = Vec::new();
    for pair in pairs() {
        match accept(workspace, pair) {
            Ok(works) => return Ok(works),
            Err(error) => refuse(&mut refusals, &error),
        }
    }
    for compiler in compilers.iter().filter(|compiler| linker::can_build(workspace, compiler)) {
        match with_new_linker(workspace, compiler) {
            Ok(works) => return Ok(works),
            Err(error) => refuse(&mut refusals, &error),
        }
    }
    for install in [compiler::from_rustup, compiler::from_debian] {
        match install(workspace).and_then(|compiler| with_any_linker(workspace, &compiler, &linkers)) {
            Ok(works) => return Ok(works),
            Err(error) => refuse(&mut refusals, &error),
        }
    }
    bail!(
        "no compiler and linker for the BPF target work here, and none could be installed:\n  {}\n\
         Install by hand a Rust of 1.95 or newer with its source (rustup component add rust-src) and a bpf-linker of \
         the same LLVM (rustc -vV tells which; cargo install bpf-linker) on the search path; then start this again.",
        refusals.join("\n  ")
    )
}

fn with_any_linker(workspace: &Workspace, compiler: &Compiler, linkers: &[PathBuf]) -> Result<Toolchain> {
    let mut pairs = linkers.iter().map(|linker| Toolchain { compiler: compiler.clone(), linker: linker.clone() });
    match pairs.find_map(|pair| accept(workspace, pair).ok()) {
        Some(works) => Ok(works),
        None => with_new_linker(workspace, compiler),
    }
}

fn with_new_linker(workspace: &Workspace, compiler: &Compiler) -> Result<Toolchain> {
    let linker = linker::build(workspace, compiler)?;
    accept(workspace, Toolchain { compiler: compiler.clone(), linker })
}

/// Tries a pair and remembers it.
fn accept(workspace: &Workspace, pair: Toolchain) -> Result<Toolchain> {
    probe::run(workspace, &pair)?;
    let file = stamp_file(workspace);
    fs::write(&file, stamp(&pair)?).with_context(|| format!("write {}", file.display()))?;
    Ok(pair)
}

fn refuse(refusals: &mut Vec<String>, error: &anyhow::Error) {
    let text = format!("{error:#}");
    step::say(&format!("not this way: {text}"));
    refusals.push(text);
}

/// Changes with either of the two.
fn stamp(pair: &Toolchain) -> Result<String> {
    let modified = |file: &Path| -> Result<u128> {
        let time = fs::metadata(file)?.modified()?;
        Ok(time.duration_since(UNIX_EPOCH)?.as_nanos())
    };
    let Toolchain { compiler: Compiler { rustc, cargo, version }, linker } = pair;
    let (rustc_time, linker_time) = (modified(rustc)?, modified(linker)?);
    let (rustc, cargo, linker) = (rustc.display(), cargo.display(), linker.display());
    Ok(format!("{rustc} {rustc_time}\n{cargo}\n{linker} {linker_time}\n{version}"))
}

fn stamp_file(workspace: &Workspace) -> PathBuf {
    workspace.tools().join("toolchain")
}
