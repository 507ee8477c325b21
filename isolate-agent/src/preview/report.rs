//! What a preview says: the document of `preview -o json`, described in docs/preview.md. Additions only.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::prober::Window;
use crate::{allow::Allow, control::protocol::HookStatus};

/// What isolating a pod will do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Preview {
    /// The pod's UID.
    pub uid: String,
    /// When it was looked at; every `_secs` counts from then, as if the pod were isolated then.
    pub taken_at: Timestamp,
    /// Which pod, and where that was learnt.
    pub pod: PodFacts,
    /// With which options it would be isolated.
    pub options: Options,
    /// What becomes of each container; empty without a specification.
    pub containers: Vec<ContainerOutlook>,
    /// What is lost and what stays.
    pub evidence: Evidence,
    /// What it does to what the pod serves.
    pub service: ServiceOutlook,
    /// The hooks that will hold, or why not.
    pub hooks: Vec<HookStatus>,
    /// What stays open at the network.
    pub open: Vec<String>,
    /// Ways that do not lead over the network, so that no isolation of it closes them.
    pub beyond: Vec<String>,
    /// The pod's sockets.
    pub flows: Flows,
    /// What is wrong in the specification.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// What could not be known, and how to have it known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

/// Which pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodFacts {
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it is on this node now.
    pub present: bool,
    /// Whether it is isolated already.
    pub isolated: bool,
    /// Whether it uses the node's own network namespace.
    pub host_network: bool,
    /// Processes in it.
    pub processes: usize,
    /// Where its specification was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub specification: Option<String>,
}

/// With which options it would be isolated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Its own loopback traffic passes.
    pub keep_loopback: bool,
    /// kubelet's probes pass.
    pub keep_probes: bool,
    /// To these ports.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub probe_ports: BTreeSet<u16>,
    /// These addresses may still talk to it, or it to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Allow>,
}

/// What becomes of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerOutlook {
    /// Its name.
    pub name: String,
    /// What becomes of it.
    pub outcome: Outcome,
    /// Why.
    pub why: String,
    /// When kubelet gives it up and tells it to end (SIGTERM, after a preStop hook if it has one).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up_secs: Option<Window>,
    /// When it has ended, its grace period included: then its memory is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_secs: Option<Window>,
    /// Whether another one is started in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarted: Option<bool>,
    /// How long each that is started then lives until it is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_life_secs: Option<Window>,
    /// How long kubelet waits at most before it starts the next one, end by end; the last goes on for ever.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub back_off_secs: Vec<u64>,
    /// Its probes.
    pub probes: Vec<ProbeOutlook>,
}

/// What becomes of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing that isolation does ends it.
    KeepsRunning,
    /// A probe fails and kubelet ends it.
    Ends,
    /// It depends on what cannot be known from outside; `why` says on what.
    MayEnd,
    /// A probe cannot be understood.
    Unknown,
}

/// What isolation does to a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeOutlook {
    /// `startup`, `liveness` or `readiness`.
    pub probe: String,
    /// `http`, `https`, `tcp`, `grpc`, `exec`, or what the manifest says.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its port, with names resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What isolation does to it.
    pub effect: Effect,
    /// Why.
    pub why: String,
    /// When it has failed often enough, if it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fails_secs: Option<Window>,
}

/// What isolation does to a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Its packets are dropped: it times out.
    Cut,
    /// It passes, by `--keep-probes`.
    Kept,
    /// It does not go over the pod's network.
    Unaffected,
    /// A command in the container: it fails if it needs the network.
    RunsOn,
    /// It is over: the container has started.
    Over,
    /// It cannot be understood.
    Unknown,
}

/// What is lost and what stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What is lost when the containers end that do.
    pub lost: Vec<String>,
    /// What stays.
    pub kept: Vec<String>,
    /// What would lose less.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<String>,
}

/// What isolation does to what the pod serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOutlook {
    /// Whether the pod is ready now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_now: Option<bool>,
    /// When it no longer is, and its services send it nothing any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_ready_secs: Option<Window>,
    /// What its services do, and why.
    pub traffic: String,
    /// What made it, kind and name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Whether another pod is started in its place; absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<bool>,
    /// Why.
    pub replacement_why: String,
    /// How many pods there are beside it, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<String>,
    /// What else ends the pod or removes it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dangers: Vec<String>,
    /// Commands that tell what is not known here, and what can be done.
    pub commands: Vec<String>,
}

/// The pod's sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// Flows that will be cut.
    pub cut: Vec<Flow>,
    /// Flows that go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Flow>,
    /// Sockets that wait for somebody.
    pub listening: Vec<Flow>,
    /// Sockets that are not shown, because they are too many.
    pub left_off: usize,
}

/// One socket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Flow {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Who began it, as far as that can be told: `in` or `out`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// The pod's address and port.
    pub local: String,
    /// The peer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// State of the connection, as `ss` names it.
    pub state: String,
    /// Whose it is, name and process id; absent for one that no process holds any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
}
