//! Embeds the BPF object and the revision. Builds nothing: without an object from `cargo xtask build` it writes an
//! empty one, so that `cargo check` never needs the BPF toolchain.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    embed_object();
    println!("cargo::rustc-env=ISOLATE_GIT_REVISION={}", revision());
}

/// Leaves the object in `OUT_DIR`.
fn embed_object() {
    println!("cargo::rerun-if-env-changed=ISOLATE_EBPF_OBJECT");
    let embedded = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("isolate-ebpf");
    let object = env::var_os("ISOLATE_EBPF_OBJECT").map(PathBuf::from);
    if let Some(object) = object.as_deref().filter(|object| object.is_file()) {
        println!("cargo::rerun-if-changed={}", object.display());
        fs::copy(object, embedded).expect("an object that is there can be copied");
        return;
    }
    // Cargo takes a missing file for a changed one, always: watch the folder that will hold it.
    if let Some(folder) = object.as_deref().and_then(Path::parent)
        && fs::create_dir_all(folder).is_ok()
    {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    fs::write(embedded, []).expect("cargo's output folder is writable");
}

/// The builder's word for it, or the commit of the checkout.
fn revision() -> String {
    println!("cargo::rerun-if-env-changed=ISOLATE_GIT_REVISION");
    if let Ok(revision) = env::var("ISOLATE_GIT_REVISION") {
        return revision;
    }
    // Every commit and checkout is logged there.
    if let Some(log) = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"])
        && Path::new(&log).is_file()
    {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    let line = String::from_utf8(output.stdout).ok()?;
    Some(line.trim().to_owned()).filter(|line| !line.is_empty())
}
