//! The BPF object: built for the BPF target by the compiler that set-up found, stripped, and put where the agent's
//! build script looks for it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{setup::Toolchain, step, workspace::Workspace};

/// The BPF target of this machine's byte order.
pub(crate) const TARGET: &str = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// Builds the object; leaves the file alone if nothing changed, so that the agent is not rebuilt.
pub(crate) fn build(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    let mut cargo = cargo(workspace, toolchain, &workspace.root);
    step::run("build the BPF object", cargo.args(["--package", "isolate-ebpf"]))?;
    let built = built(workspace, "isolate-ebpf");
    let stripped = strip(workspace, &built)?;
    let changed = install(&stripped, &workspace.object)?;
    if changed {
        let bytes = fs::metadata(&workspace.object).context("look at the BPF object")?.len();
        step::say(&format!("the BPF object has changed: {} ({bytes} bytes)", workspace.object.display()));
    }
    Ok(())
}

/// Builds the object of the next layout, which the tests of an upgrade need; gives the file.
pub(crate) fn build_next(workspace: &Workspace, toolchain: &Toolchain) -> Result<PathBuf> {
    let mut cargo = cargo(workspace, toolchain, &workspace.root);
    cargo.args(["--package", "isolate-ebpf", "--features", "layout-next"]);
    step::run("build the BPF object of the next layout", &mut cargo)?;
    let stripped = strip(workspace, &built(workspace, "isolate-ebpf"))?;
    let object = workspace.object.with_file_name("isolate-ebpf-next");
    install(&stripped, &object)?;
    Ok(object)
}

/// `cargo build` for the BPF target, to be given a package.
pub(crate) fn cargo(workspace: &Workspace, toolchain: &Toolchain, folder: &Path) -> Command {
    let mut command = workspace.command(&toolchain.compiler.cargo);
    // The kernel's types differ by architecture; the linker makes BTF out of the debug information.
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        "-Cdebuginfo=2".to_owned(),
        format!("-Clinker={}", toolchain.linker.display()),
        "-Clink-arg=--btf".to_owned(),
    ];
    command
        .current_dir(folder)
        // `-Z build-std` and the BPF target are unstable; this compiler's version is probed instead.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", &toolchain.compiler.rustc)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // Set for the compiler that built this program.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("CARGO_TARGET_DIR")
        .args(["build", "--release", "-Zbuild-std=core", "--target", TARGET, "--target-dir"])
        .arg(target_dir(workspace));
    command
}

/// Where [`cargo`] leaves a binary.
pub(crate) fn built(workspace: &Workspace, binary: &str) -> PathBuf {
    target_dir(workspace).join(TARGET).join("release").join(binary)
}

fn target_dir(workspace: &Workspace) -> PathBuf {
    workspace.target.join("bpf-build")
}

/// Drops the debug information, 84 % of the file; BTF and symbols stay. Without a tool for it the object is only larger.
fn strip(workspace: &Workspace, object: &Path) -> Result<PathBuf> {
    let Some(mut objcopy) = objcopy(workspace)? else {
        step::say("no llvm-objcopy found: the BPF object keeps its debug information");
        return Ok(object.to_owned());
    };
    let stripped = object.with_extension("stripped");
    step::output(objcopy.arg("--strip-debug").arg(object).arg(&stripped)).context("strip the BPF object")?;
    Ok(stripped)
}

/// The objcopy of rustc's own LLVM, which every toolchain of rustup has, or the system's.
fn objcopy(workspace: &Workspace) -> Result<Option<Command>> {
    let sysroot = PathBuf::from(step::output(workspace.command("rustc").args(["--print", "sysroot"]))?.trim());
    let hosts = fs::read_dir(sysroot.join("lib/rustlib")).into_iter().flatten().flatten();
    if let Some(own) = hosts.map(|host| host.path().join("bin/rust-objcopy")).find(|file| file.is_file()) {
        let mut command = workspace.command(own);
        command.env("LD_LIBRARY_PATH", sysroot.join("lib"));
        return Ok(Some(command));
    }
    let versions = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let versioned = versions.map(|folder| folder.path().join("bin/llvm-objcopy")).filter(|file| file.is_file()).max();
    Ok(versioned.or_else(|| workspace.which("llvm-objcopy")).map(|file| workspace.command(file)))
}

/// Puts a file in place at once, unless the same is there; says whether it did.
pub(crate) fn install(from: &Path, to: &Path) -> Result<bool> {
    let new = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    match fs::read(to) {
        Ok(old) if old == new => return Ok(false),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("read {}", to.display()));
        }
        Ok(_) | Err(_) => {}
    }
    let folder = to.parent().context("the BPF object has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let temporary = to.with_extension(std::process::id().to_string());
    fs::write(&temporary, new).with_context(|| format!("write {}", temporary.display()))?;
    fs::rename(&temporary, to).with_context(|| format!("put {} in place", to.display()))?;
    Ok(true)
}
