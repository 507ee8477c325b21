//! What this node offers to isolate pods with. Probes only: attaches, mounts and writes nothing on the node.
//!
//! Features are probed, never inferred from a kernel version: distributions backport.

mod bpf;
mod cgroup;
mod folders;
mod interfaces;
mod kernel;
mod mounts;
mod node;
mod privilege;
mod programs;
mod runtime;

use serde::Serialize;
use utoipa::ToSchema;

use crate::settings::Settings;

/// What was found on this node.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Report {
    /// The version that looked.
    pub version: &'static str,
    /// The worst state of all findings.
    pub state: State,
    /// Every finding, in the order in which they build on each other.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Finding {
    /// What was looked at: a fixed word.
    pub name: &'static str,
    /// Whether it stands in the way.
    pub state: State,
    /// What is there.
    pub value: String,
    /// What that means for isolating pods.
    pub meaning: String,
    /// What to do about it; none where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// Whether a finding stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// Some pods are covered only partly, or something works less well.
    Warn,
    /// Pods cannot be isolated on this node.
    Fail,
}

impl Finding {
    fn ok(name: &'static str, value: impl Into<String>, meaning: impl Into<String>) -> Self {
        Self { name, state: State::Ok, value: value.into(), meaning: meaning.into(), fix: None }
    }

    fn warn(name: &'static str, value: impl Into<String>, meaning: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state: State::Warn, value: value.into(), meaning: meaning.into(), fix: Some(fix.into()) }
    }

    fn fail(name: &'static str, value: impl Into<String>, meaning: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { state: State::Fail, ..Self::warn(name, value, meaning, fix) }
    }
}

/// Looks at everything. Needs no daemon, and answers also without any privilege: then it says which are missing.
pub async fn examine(settings: &Settings) -> Report {
    let mounts = mounts::read();
    let mut findings = privilege::examine();
    findings.extend(kernel::examine(settings));
    findings.extend(cgroup::examine(settings, &mounts));
    findings.extend(folders::examine(settings));
    findings.extend(interfaces::examine().await);
    findings.extend(node::examine(settings));
    findings.extend(runtime::examine(settings).await);
    let state = findings.iter().map(|finding| finding.state).max().unwrap_or(State::Ok);
    Report { version: env!("CARGO_PKG_VERSION"), state, findings }
}

#[cfg(test)]
mod tests;
