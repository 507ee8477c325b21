//! What isolation needs to know of a pod's specification and of its state as kubelet reports it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::probe::{Action, Port, Probe, ProbeKind};
use crate::pod::PodUid;

/// A pod as a manifest or kubelet describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSpec {
    /// Its UID as the node knows it; a template has none.
    pub uid: Option<PodUid>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its name; of a template, the name of what makes pods from it.
    pub name: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The node that it runs on.
    pub node: Option<String>,
    /// What made it.
    pub owner: Option<Owner>,
    /// Init containers first, then the others, in the order of the manifest.
    pub containers: Vec<Container>,
    /// What becomes of a container that ends.
    pub restart_policy: RestartPolicy,
    /// How long its containers may take to end, in seconds.
    pub grace_secs: u64,
    /// When kubelet ends the pod, in seconds from its start.
    pub deadline_secs: Option<u64>,
    /// Whether it uses the node's network namespace.
    pub host_network: bool,
    /// Whether it sees the node's processes.
    pub host_pid: bool,
    /// Its volumes.
    pub volumes: Vec<Volume>,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// Whether it is ready now.
    pub ready: Option<bool>,
}

/// What made a pod, and will replace it or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `ReplicaSet`, `StatefulSet`, …; `Node` for the mirror of a static pod.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// How many pods it is to have, where the manifest says so.
    pub replicas: Option<u64>,
    /// How many of them are ready, where the manifest says so.
    pub ready: Option<u64>,
}

/// What becomes of a container that ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// It is started again.
    #[default]
    Always,
    /// It is started again if it failed.
    OnFailure,
    /// It is not.
    Never,
}

impl RestartPolicy {
    /// As the API spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::OnFailure => "OnFailure",
            Self::Never => "Never",
        }
    }
}

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Ends before the others start.
    Init,
    /// An init container that goes on (`restartPolicy: Always`).
    Sidecar,
    /// One of the pod's own.
    Main,
    /// Added by `kubectl debug`.
    Ephemeral,
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// The ports that it names.
    pub ports: Vec<Port>,
    /// Its probes: startup, liveness, readiness.
    pub probes: Vec<Probe>,
    /// Whether something runs before it is ended, in its grace period.
    pub has_pre_stop: bool,
    /// Whether nothing keeps it from the node.
    pub privileged: bool,
    /// Capabilities that it asks for, without `CAP_`.
    pub capabilities: Vec<String>,
    /// The volumes that it mounts: name and path.
    pub mounts: Vec<(String, String)>,
    /// Its state, where it is known.
    pub state: Option<ContainerState>,
}

/// The state of a container as kubelet reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerState {
    /// Since when it runs.
    pub running_since: Option<Timestamp>,
    /// Whether its startup probe succeeded, or it has none.
    pub started: Option<bool>,
    /// Whether it is ready.
    pub ready: Option<bool>,
    /// How often it was started again.
    pub restarts: u64,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: VolumeKind,
}

/// What a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeKind {
    /// A folder that lives as long as the pod, on disk or in memory.
    EmptyDir {
        /// In memory.
        memory: bool,
    },
    /// A folder, file or socket of the node.
    HostPath(String),
    /// Something that outlives the pod.
    Persistent,
    /// Made from the API (config maps, secrets), or a kind that is not known.
    Other(String),
}

impl PodSpec {
    /// The TCP ports of the pod that kubelet's probes connect to.
    pub fn probe_ports(&self) -> BTreeSet<u16> {
        let probes = self.containers.iter().flat_map(|container| &container.probes);
        let own = probes.filter_map(|probe| match &probe.action {
            Action::Network(network) if network.host.is_none() => network.port,
            Action::Network(_) | Action::Exec | Action::Unknown(_) => None,
        });
        own.collect()
    }

    /// Whether any probe runs a command in a container.
    pub fn has_exec_probe(&self) -> bool {
        self.containers.iter().flat_map(|container| &container.probes).any(|probe| probe.action == Action::Exec)
    }
}

impl Container {
    /// Its probe of this kind.
    pub fn probe(&self, kind: ProbeKind) -> Option<&Probe> {
        self.probes.iter().find(|probe| probe.kind == kind)
    }
}
