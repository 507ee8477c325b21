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
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};

use self::kernel::{Image, Kernel};
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
    build::next_agent(workspace, &toolchain)?;
    object::build(workspace, &toolchain)?;
    let chosen = |kernel: &&Kernel| args.kernel.iter().any(|name| name == kernel::ALL || name == kernel.name);
    let guests = guests(workspace, kernel::KERNELS.iter().filter(chosen), |tests, _| match &args.command {
        Some(command) => command.clone(),
        None => job(tests, &args.names),
    })?;
    let ended: Vec<_> = guests.iter().map(|guest| (guest.kernel, guest.boot(workspace, ""))).collect();
    all_succeeded(ended)
}

/// Runs what belongs to CI under each kernel that does, at the same time: each guest has one processor. Set-up, the agent
/// of the next layout and the BPF object are the caller's.
pub(crate) fn run_in_ci(workspace: &Workspace) -> Result<()> {
    let kernels = kernel::KERNELS.iter().filter(|kernel| !kernel.ci.is_empty());
    let guests = guests(workspace, kernels, |tests, kernel| {
        job(tests, &kernel.ci.iter().map(ToString::to_string).collect::<Vec<_>>())
    })?;
    let ended = thread::scope(|scope| {
        let boot = |guest| scope.spawn(move || Guest::boot(guest, workspace, &format!("[{}] ", guest.kernel.name)));
        let booted: Vec<_> = guests.iter().map(|guest| (guest.kernel, boot(guest))).collect();
        let end = |booted: thread::ScopedJoinHandle<'_, Result<()>>| {
            booted.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        booted.into_iter().map(|(kernel, booted)| (kernel, end(booted))).collect()
    });
    all_succeeded(ended)
}

/// A kernel, and what is to be run under it.
struct Guest<'a> {
    kernel: &'a Kernel,
    image: Result<Image>,
    job: String,
}

impl Guest<'_> {
    /// What it says begins with `prefix`, line by line.
    fn boot(&self, workspace: &Workspace, prefix: &str) -> Result<()> {
        let image = self.image.as_ref().map_err(|error| anyhow!("{error:#}"))?;
        machine::run(workspace, self.kernel, image, &self.job, prefix)
    }
}

fn all_succeeded(ended: Vec<(&Kernel, Result<()>)>) -> Result<()> {
    let mut failed = Vec::new();
    for (kernel, result) in ended {
        if let Err(error) = result {
            step::say(&format!("{}: {error:#}", kernel.name));
            failed.push(kernel.name);
        }
    }
    ensure!(failed.is_empty(), "failed under Linux {}", failed.join(", "));
    Ok(())
}

/// Builds what runs in the guests, and gets their kernels.
fn guests<'a>(
    workspace: &Workspace,
    kernels: impl Iterator<Item = &'a Kernel>,
    job: impl Fn(&Path, &Kernel) -> String,
) -> Result<Vec<Guest<'a>>> {
    ensure!(setup::is_root(), "a guest that shares this machine's files needs root");
    setup::ensure_packages(workspace, &[Need::Vm])?;
    let agent = build::agent(workspace, Profile::Debug)?;
    let tests = tests(workspace)?;
    let agent = quoted(&agent.to_string_lossy());
    // Where cargo would start the tests.
    let place = quoted(&workspace.root.join("tests").to_string_lossy());
    let tools = quoted(&workspace.tools().join("bin").to_string_lossy());
    let guest = |kernel: &'a Kernel| {
        let netkit = if kernel.netkit { "export ISOLATE_NETKIT=1\n" } else { "" };
        let environment = format!("{}{netkit}", environment());
        let job = job(&tests, kernel);
        let job = format!(
            "{environment}export PATH={tools}:$PATH ISOLATE_AGENT_BIN={agent} ISOLATE_EMULATED=1\ncd {place}\n{job}\n"
        );
        Guest { kernel, image: kernel::ensure(workspace, kernel), job }
    };
    Ok(kernels.map(guest).collect())
}

/// The shell's line that runs the tests in the guest.
fn job(tests: &Path, names: &[String]) -> String {
    let mut line = format!("exec {} --color never --show-output --test-threads=2", quoted(&tests.to_string_lossy()));
    for name in names {
        let (option, name) = name.strip_prefix('!').map_or(("", name.as_str()), |skipped| ("--skip ", skipped));
        line.push(' ');
        line.push_str(option);
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
        let names = ["isolate::", "!clsact::"].map(str::to_owned);
        assert!(job(Path::new("/a b/kernel"), &names).ends_with(" 'isolate::' --skip 'clsact::'"));
    }

    #[test]
    fn cargo_says_where_a_binary_is() {
        let message = r#"{"target":{"name":"kernel"},"executable":"/target/debug/deps/kernel-1","fresh":true}"#;
        assert_eq!(executable(message), Some(PathBuf::from("/target/debug/deps/kernel-1")));
        assert_eq!(executable(r#"{"target":{"name":"kernel"},"executable":null}"#), None);
    }
}
