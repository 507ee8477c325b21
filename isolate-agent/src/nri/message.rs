//! The messages of ttrpc and of NRI's `v1alpha1` that are used, with the fields that are. Declared by hand, as CRI's are.

/// ttrpc's `Request`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Request {
    #[prost(string, tag = "1")]
    pub(super) service: String,
    #[prost(string, tag = "2")]
    pub(super) method: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) payload: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub(super) timeout_nano: i64,
}

/// ttrpc's `Response`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Response {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) payload: Vec<u8>,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

/// `UNIMPLEMENTED` of `google.rpc.Code`: the runtime then does without.
pub(super) const UNIMPLEMENTED: i32 = 12;
/// `INVALID_ARGUMENT`.
pub(super) const INVALID_ARGUMENT: i32 = 3;

/// `RegisterPluginRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct RegisterPluginRequest {
    #[prost(string, tag = "1")]
    pub(super) plugin_name: String,
    /// Two digits: plugins are called in ascending order.
    #[prost(string, tag = "2")]
    pub(super) plugin_idx: String,
}

/// `ConfigureRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct ConfigureRequest {
    #[prost(string, tag = "2")]
    pub(super) runtime_name: String,
    #[prost(string, tag = "3")]
    pub(super) runtime_version: String,
}

/// `ConfigureResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct ConfigureResponse {
    /// Bit `n - 1` for the event with number `n`.
    #[prost(int32, tag = "2")]
    pub(super) events: i32,
}

/// `SynchronizeRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct SynchronizeRequest {
    #[prost(bool, tag = "3")]
    pub(super) more: bool,
}

/// `SynchronizeResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct SynchronizeResponse {
    /// Whether what was announced as coming may come.
    #[prost(bool, tag = "2")]
    pub(super) more: bool,
}

/// `RunPodSandboxRequest`, and those of the other events of sandboxes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct SandboxRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) pod: Option<PodSandbox>,
}

/// `StateChangeEvent`, by which older runtimes tell the same.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct StateChangeEvent {
    #[prost(int32, tag = "1")]
    pub(super) event: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) pod: Option<PodSandbox>,
}

/// Numbers of `Event`.
pub(super) const RUN_POD_SANDBOX: i32 = 1;
pub(super) const STOP_POD_SANDBOX: i32 = 2;
pub(super) const REMOVE_POD_SANDBOX: i32 = 3;

/// `PodSandbox`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct PodSandbox {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "3")]
    pub(super) uid: String,
    #[prost(message, optional, tag = "8")]
    pub(super) linux: Option<LinuxPodSandbox>,
}

/// `LinuxPodSandbox`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct LinuxPodSandbox {
    #[prost(message, repeated, tag = "5")]
    pub(super) namespaces: Vec<LinuxNamespace>,
}

/// `LinuxNamespace`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct LinuxNamespace {
    #[prost(string, tag = "1")]
    pub(super) r#type: String,
    #[prost(string, tag = "2")]
    pub(super) path: String,
}
