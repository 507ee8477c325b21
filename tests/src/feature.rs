//! What a test needs of the machine beyond root: probed, never assumed from a version.

use std::{env, fs, process::Command};

use aya::programs::{SchedClassifier, TcAttachType};

use crate::agent;

/// Something that a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Debian's bpftool.
    Bpftool,
    /// The iptables program, and a kernel that takes its rules.
    Iptables,
    /// containerd, runc, the CNI plugins and a static busybox: real pods.
    Containerd,
    /// The agent of the next layout, with faults that can be asked for: `cargo xtask test` builds it.
    NextAgent,
    /// Debian's Prometheus.
    Prometheus,
    /// A kernel with tcx: what has no like among filters.
    Tcx,
    /// Cgroups with the cpu controller: before they have it the agent takes no real-time priority.
    CpuController,
    /// A processor on which the agent can do within its deadlines what it is to do: not an emulated one.
    Pace,
}

/// Set by who knows that the processor is emulated.
const EMULATED: &str = "ISOLATE_EMULATED";

impl Feature {
    /// Why it is missing; none if it is there.
    pub fn missing(self) -> Option<String> {
        let (probe, package): (&[&str], _) = match self {
            Self::Bpftool => (&["bpftool", "version"], "bpftool"),
            // In a network namespace that ends with the probe.
            Self::Iptables => (&["unshare", "--net", "iptables", "-w", "-A", "INPUT", "-j", "DROP"], "iptables"),
            Self::Containerd => (
                &["sh", "-c", "containerd --version && runc --version && busybox true && test -x /usr/lib/cni/bridge"],
                "runc containernetworking-plugins; `cargo xtask setup` unpacks containerd and busybox-static",
            ),
            Self::NextAgent => return agent::next_program().err(),
            Self::Prometheus => (&["prometheus", "--version"], "prometheus"),
            Self::Tcx => {
                let query = SchedClassifier::query_tcx("lo", TcAttachType::Ingress);
                return query.err().map(|error| format!("ask for tcx programs (Linux 6.6, e420bed02507): {error}"));
            }
            Self::CpuController => {
                let has = |path, separators: &[char]| {
                    fs::read_to_string(path).is_ok_and(|text| text.split(separators).any(|name| name == "cpu"))
                };
                let given = has("/sys/fs/cgroup/cgroup.subtree_control", &[' ', '\n'])
                    || has("/proc/self/cgroup", &[':', ',', '\n']);
                return (!given)
                    .then(|| "no cgroup has the cpu controller: systemd and kubelet give it out".to_owned());
            }
            Self::Pace => {
                return env::var_os(EMULATED).map(|_| "an emulated processor does not keep its deadlines".to_owned());
            }
        };
        let (program, arguments) = probe.split_first().expect("a probe is a command");
        let why = match Command::new(program).args(arguments).output() {
            Ok(output) if output.status.success() => return None,
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        Some(format!("{}: {why} (Debian: apt-get install {package})", probe.join(" ")))
    }
}

/// Whether the kernel has tcx (6.6), asked of the loopback interface.
pub fn has_tcx() -> bool {
    Feature::Tcx.missing().is_none()
}

/// Whether a skip is a failure: on CI every test runs.
pub fn must_not_skip() -> bool {
    env::var_os("CI").is_some()
}
