//! What a test needs of the machine beyond root: probed, never assumed from a version.

use std::{
    env,
    process::{Command, Stdio},
};

/// Something that a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// The iptables and ip6tables programs, and a kernel that takes their rules.
    Iptables,
    /// Debian's Prometheus.
    Prometheus,
}

impl Feature {
    /// Why it is missing; none if it is there.
    pub fn missing(self) -> Option<String> {
        let (program, argument, package) = match self {
            Self::Iptables => ("iptables", "--version", "iptables"),
            Self::Prometheus => ("prometheus", "--version", "prometheus"),
        };
        let found = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.err().map(|error| format!("{program}: {error} (Debian: apt-get install {package})"))
    }
}

/// Whether a skip is a failure: on CI every test runs.
pub fn must_not_skip() -> bool {
    env::var_os("CI").is_some()
}
