//! The proof that a compiler and a linker work together: a small BPF program is built with them.
//!
//! Versions do not tell it. A linker reads most of the bitcode of a newer LLVM and stumbles over one record of it, so
//! the probe uses the same libraries as the real programs; what it compiles of them is used again for those.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::{object, setup::Toolchain, step, workspace::Workspace};

/// The profile is the workspace's, so that the dependencies are compiled once; the lock file is the workspace's too.
const MANIFEST: &str = r#"[package]
name = "bpf-probe"
edition = "2024"

[[bin]]
name = "bpf-probe"
path = "main.rs"

[dependencies]
aya-ebpf = "*"

[profile.release]
codegen-units = 1
lto = "thin"
panic = "abort"
strip = "symbols"

[workspace]
"#;

const PROGRAM: &str = r"#![no_std]
#![no_main]
use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::{classifier, map}, maps::HashMap, programs::TcContext};

#[map]
static PROBE: HashMap<u32, u64> = HashMap::with_max_entries(1, 0);

#[classifier]
fn probe(packet: TcContext) -> i32 {
    if let Some(count) = PROBE.get_ptr_mut(packet.len()) {
        // SAFETY: the map's own value.
        unsafe { *count += 1 };
    }
    TC_ACT_UNSPEC
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
";

/// `e_machine` of a BPF object (`EM_BPF`), at its offset in the ELF header.
const MACHINE: u16 = 247;
const MACHINE_OFFSET: usize = 18;

/// Builds the small program; fails if the pair cannot.
pub(crate) fn run(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    let folder = write(workspace).context("write the probe")?;
    step::run(&format!("try {toolchain}"), &mut object::cargo(workspace, toolchain, &folder))?;
    let built = object::built(workspace, "bpf-probe");
    let bytes = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    let machine = bytes.get(MACHINE_OFFSET..MACHINE_OFFSET + 2).and_then(|field| field.try_into().ok());
    ensure!(machine.map(u16::from_ne_bytes) == Some(MACHINE), "{} is no BPF object", built.display());
    Ok(())
}

fn write(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.tools().join("probe");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("Cargo.toml"), MANIFEST)?;
    fs::write(folder.join("main.rs"), PROGRAM)?;
    fs::copy(workspace.root.join("Cargo.lock"), folder.join("Cargo.lock"))?;
    Ok(folder)
}
