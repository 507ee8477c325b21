//! `cargo xtask vm`: the kernel tests under stock kernels, in a virtual machine that needs no virtualisation (qemu's TCG).
//!
//! The guest's root is the host's, read-only and with a layer in memory on top, so that what set-up installed and what cargo
//! built is there under the same paths; nothing that a guest does reaches the host's files.

mod kernel;
mod machine;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};

use self::kernel::Kernel;
use crate::{
    build::{self, Profile},
    object,
    setup::{self, Need},
    step,
    workspace::Workspace,
};

/// What the guest gets of the caller's environment, beside the tests' own variables (`ISOLATE_*`).
const PASSED: [&str; 2] = ["CI", "RUST_BACKTRACE"];

/// What to run, and where.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only the tests whose name contains one of these
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Boot only these kernels
    #[arg(long, value_name = "KERNEL", value_delimiter = ',', value_parser = kernel::names(), default_value = kernel::ALL)]
    kernel: Vec<String>,
    /// Run this command of the guest's shell instead of the tests
    #[arg(long, value_name = "COMMAND", conflicts_with = "names")]
    command: Option<String>,
}

/// Runs the tests under each kernel; one that fails does not keep the next from running.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let toolchain = setup::run(workspace, &[Need::Build, Need::Test])?;
    object::build(workspace, &toolchain)?;
    let chosen = |kernel: &&Kernel| args.kernel.iter().any(|name| name == kernel::ALL || name == kernel.name);
    let names = |_: &Kernel| args.names.clone();
    boot_each(workspace, kernel::KERNELS.iter().filter(chosen), names, args.command.as_deref())
}

/// Runs what belongs to CI under each kernel that does. Set-up and the BPF object are the caller's.
pub(crate) fn run_in_ci(workspace: &Workspace) -> Result<()> {
    let names = |kernel: &Kernel| kernel.ci.iter().map(ToString::to_string).collect();
    boot_each(workspace, kernel::KERNELS.iter().filter(|kernel| !kernel.ci.is_empty()), names, None)
}

fn boot_each<'a>(
    workspace: &Workspace,
    kernels: impl Iterator<Item = &'a Kernel>,
    names: impl Fn(&Kernel) -> Vec<String>,
    command: Option<&str>,
) -> Result<()> {
    ensure!(setup::is_root(), "a guest that shares this machine's files needs root");
    setup::ensure_packages(workspace, &[Need::Vm])?;
    let agent = build::agent(workspace, Profile::Debug)?;
    let tests = tests(workspace)?;
    let mut failed = Vec::new();
    for kernel in kernels {
        let job = match command {
            Some(command) => command.to_owned(),
            None => job(&tests, &names(kernel)),
        };
        let agent = quoted(&agent.to_string_lossy());
        // Where cargo would start the tests.
        let place = quoted(&workspace.root.join("tests").to_string_lossy());
        let tools = quoted(&workspace.tools().join("bin").to_string_lossy());
        let job = format!("{}export PATH={tools}:$PATH ISOLATE_AGENT_BIN={agent}\ncd {place}\n{job}\n", environment());
        let booted = kernel::ensure(workspace, kernel).and_then(|image| machine::run(workspace, kernel, &image, &job));
        if let Err(error) = booted {
            step::say(&format!("{}: {error:#}", kernel.name));
            failed.push(kernel.name);
        }
    }
    ensure!(failed.is_empty(), "failed under Linux {}", failed.join(", "));
    Ok(())
}

/// The shell's line that runs the tests in the guest.
fn job(tests: &Path, names: &[String]) -> String {
    let mut line = format!("exec {} --color never --show-output --test-threads=2", quoted(&tests.to_string_lossy()));
    for name in names {
        line.push(' ');
        line.push_str(&quoted(name));
    }
    line
}

fn environment() -> String {
    let passed = env::vars().filter(|(name, _)| name.starts_with("ISOLATE_") || PASSED.contains(&name.as_str()));
    let lines = passed.map(|(name, value)| format!("export {name}={}\n", quoted(&value)));
    lines.collect()
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Builds the tests; gives their binary.
fn tests(workspace: &Workspace) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo.args([
        "test",
        "--package",
        "isolate-tests",
        "--bins",
        "--test",
        "kernel",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    step::say("build the kernel tests");
    let messages = step::output(cargo.stderr(Stdio::inherit()))?;
    let binary = messages.lines().filter(|line| line.contains(r#""name":"kernel""#)).find_map(executable);
    let binary = binary.context("cargo built the kernel tests and did not say where they are")?;
    fs::metadata(&binary).with_context(|| format!("look at {}", binary.display()))?;
    Ok(binary)
}

/// What one of cargo's messages says that it built.
fn executable(message: &str) -> Option<PathBuf> {
    let (_, rest) = message.split_once(r#""executable":""#)?;
    rest.split_once('"').map(|(path, _)| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_gets_words_as_they_are() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert!(job(Path::new("/a b/kernel"), &["isolate::".to_owned()]).ends_with("'isolate::'"));
    }

    #[test]
    fn cargo_says_where_a_binary_is() {
        let message = r#"{"target":{"name":"kernel"},"executable":"/target/debug/deps/kernel-1","fresh":true}"#;
        assert_eq!(executable(message), Some(PathBuf::from("/target/debug/deps/kernel-1")));
        assert_eq!(executable(r#"{"target":{"name":"kernel"},"executable":null}"#), None);
    }
}
