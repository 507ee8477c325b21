//! What the daemon says of the node: the document of `status` and `list`.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The node at one moment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// When it was taken.
    #[schema(value_type = String, format = DateTime)]
    pub taken_at: Timestamp,
    /// The agent's version.
    pub version: String,
    /// Isolated pods, by UID.
    pub isolations: Vec<Isolation>,
    /// Pods on the node.
    pub pods: usize,
    /// Pods whose host veths carry our programs, isolated or not.
    pub pods_armed: usize,
    /// Pods that cannot be armed, and why.
    pub unarmed: Vec<Unarmed>,
    /// Packets that an error in a program dropped, by kind of error, since the maps were made.
    pub kernel_errors: Vec<KernelErrorCount>,
    /// The container runtime, as the agent sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeStatus>,
    /// What needs a person: records that cannot be read, a limit that is near, a pass that failed.
    pub warnings: Vec<String>,
}

/// The container runtime, as the agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuntimeStatus {
    /// CRI, which tells names, addresses and namespaces.
    pub cri: Connection,
    /// NRI, which tells of new sandboxes before their containers run; none where it is not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nri: Option<Connection>,
}

/// One socket of the container runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Connection {
    /// The socket, where one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// Whether it answers, or has the plugin.
    pub up: bool,
    /// Since when that is so; none before it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Why not, if not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// One isolated pod.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Isolation {
    /// The pod's UID.
    pub uid: String,
    /// Its namespace, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name there, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its labels, as the container runtime told them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its addresses, as the container runtime told them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// Whether the pod is on this node now.
    pub present: bool,
    /// Whether it uses the node's own network namespace.
    pub host_network: bool,
    /// Why, in the responder's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who asked for it.
    pub by: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Whether the pod's own loopback traffic passes.
    pub keep_loopback: bool,
    /// TCP ports that kubelet's probes may still call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probe_ports: Vec<u16>,
    /// Addresses that the pod may still talk to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// When it is released, as far as the clocks can tell; never before. Without, somebody has to release it.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Whether the record is on disk.
    pub record: Record,
    /// How far the pod is covered.
    pub coverage: Coverage,
    /// What stays open, for a pod that is partly covered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<String>,
    /// Every hook and direction.
    pub hooks: Vec<HookStatus>,
    /// What was dropped, by hook and direction, since it was isolated.
    pub drops: Vec<Drops>,
    /// What passed all the same, by exemption, hook and direction; left out for a pod that never had an exemption.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exempted: Vec<Exempted>,
}

impl Isolation {
    /// `namespace/name`, where that is known.
    pub fn pod(&self) -> Option<String> {
        Some(format!("{}/{}", self.namespace.as_ref()?, self.name.as_ref()?))
    }
}

/// Where an isolation is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// On disk.
    Saved,
    /// Enforced, but not on disk: it would not survive a reboot.
    Unsaved,
    /// Its file cannot be read: the pod is cut off entirely until it is added again or removed.
    Unreadable,
}

/// How far an isolated pod is covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Coverage {
    /// Every hook that the pod needs holds.
    Full,
    /// One does not; `open` says what that leaves open.
    Partial,
    /// The pod is not on this node: nothing to hold.
    Absent,
}

/// One hook of one isolated pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HookStatus {
    /// `cgroup`, `veth`, `netdev` or `lsm`.
    #[schema(value_type = String)]
    pub hook: Cow<'static, str>,
    /// `in` (into the pod) or `out`.
    #[schema(value_type = String)]
    pub direction: Cow<'static, str>,
    /// The cgroup directory or the interface.
    pub place: String,
    /// Whether it holds.
    pub state: HookState,
    /// Why it does not, or does not apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub detail: Option<Cow<'static, str>>,
}

/// Whether a hook holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HookState {
    /// Attached, first in its chain, and keyed to the pod.
    Holding,
    /// It guards a way that nothing on the node can take now, and is attached within seconds.
    Pending,
    /// It should hold and does not.
    Missing,
    /// The pod has no place for it.
    NotApplicable,
}

/// What one hook dropped in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drops {
    /// `cgroup`, `veth`, `netdev` or `lsm`.
    #[schema(value_type = String)]
    pub hook: Cow<'static, str>,
    /// `in` or `out`.
    #[schema(value_type = String)]
    pub direction: Cow<'static, str>,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What one exemption let pass at one hook in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Exempted {
    /// `probe` or `allow`.
    #[schema(value_type = String)]
    pub exemption: Cow<'static, str>,
    /// `cgroup`, `veth` or `netdev`: a packet is counted at each that it crosses.
    #[schema(value_type = String)]
    pub hook: Cow<'static, str>,
    /// `in` or `out`.
    #[schema(value_type = String)]
    pub direction: Cow<'static, str>,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A pod that cannot be armed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unarmed {
    /// The pod's UID.
    pub uid: String,
    /// Its `namespace/name`, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Why: a fixed word, also a metric label.
    pub reason: UnarmedReason,
    /// The same for a person.
    pub detail: String,
}

/// Why a pod cannot be armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnarmedReason {
    /// It uses the node's network namespace, whose interfaces are never touched.
    HostNetwork,
    /// No process of it runs, so its namespace is not known.
    NoProcess,
    /// Its interfaces have no host end (macvlan, ipvlan, SR-IOV).
    NoHostEnd,
    /// The kernel refused to attach.
    AttachFailed,
    /// The daemon attaches only what is isolated.
    OnDemand,
    /// Seen, and about to be armed.
    Pending,
}

/// One kind of error in the programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KernelErrorCount {
    /// Its name.
    pub error: String,
    /// How often.
    pub count: u64,
}
