//! What was measured on: kind of machine, kernel, commit. Nothing that names one machine.

use std::fs;

use isolate_tests::agent::Agent;
use serde::Serialize;

/// What was measured, and on what.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Model of the processor.
    pub(crate) processor: String,
    /// Cores that the benchmark could use.
    pub(crate) cores: usize,
    /// Whether it is a virtual machine, as the processor says.
    pub(crate) virtualised: bool,
    /// Memory in GiB.
    pub(crate) memory_gib: u64,
    /// Version of the kernel.
    pub(crate) kernel: String,
    /// Version and commit of the agent.
    pub(crate) agent: String,
    /// The day of the run.
    pub(crate) date: String,
}

impl Machine {
    /// Looks at this machine and the agent.
    pub(crate) fn look(agent: &Agent) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, value)| value).to_owned()
        };
        let memory = read("/proc/meminfo");
        let kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
        let version = isolate_tests::agent::output(agent.command(&["--version"]).env_clear());
        Self {
            processor: field("model name"),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            virtualised: field("flags").split(' ').any(|flag| flag == "hypervisor"),
            memory_gib: (kib + (1 << 19)) >> 20,
            kernel: release(&read("/proc/sys/kernel/osrelease")),
            agent: version.stdout.trim().trim_start_matches("isolate-agent ").to_owned(),
            date: today(),
        }
    }

    /// In a sentence.
    pub(crate) fn describe(&self) -> String {
        let kind = if self.virtualised { "virtual machine" } else { "machine" };
        format!(
            "a {kind} with {} cores ({}), {} GiB of memory, Linux {}",
            self.cores, self.processor, self.memory_gib, self.kernel
        )
    }
}

/// The version without what a builder has added to it.
fn release(text: &str) -> String {
    text.trim().split('-').next().unwrap_or("unknown").to_owned()
}

/// The day, in UTC, as `date` prints it.
fn today() -> String {
    let output = isolate_tests::launch::succeed(std::process::Command::new("date").args(["--utc", "+%F"]));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
