//! The messages of CRI v1 that kubelet would send for a pod. Numbers are those of `runtime.v1` in `k8s.io/cri-api`.

use std::collections::HashMap;

use isolate_agent::inventory::cri::message::PodSandboxMetadata;

macro_rules! messages {
    ($($name:ident { $($(#[$meta:meta])* $field:ident: $type:ty),* $(,)? })*) => {
        $(
            #[doc = concat!("`", stringify!($name), "`.")]
            #[derive(Clone, PartialEq, prost::Message)]
            pub(super) struct $name { $($(#[$meta])* pub(super) $field: $type),* }
        )*
    };
}

messages! {
    NamespaceOption {
        #[prost(int32, tag = "1")] network: i32,
        #[prost(int32, tag = "2")] pid: i32,
        #[prost(int32, tag = "3")] ipc: i32,
    }
    LinuxSandboxSecurityContext {
        #[prost(message, optional, tag = "1")] namespace_options: Option<NamespaceOption>,
    }
    LinuxPodSandboxConfig {
        #[prost(string, tag = "1")] cgroup_parent: String,
        #[prost(message, optional, tag = "2")] security_context: Option<LinuxSandboxSecurityContext>,
    }
    PodSandboxConfig {
        #[prost(message, optional, tag = "1")] metadata: Option<PodSandboxMetadata>,
        #[prost(string, tag = "2")] hostname: String,
        #[prost(string, tag = "3")] log_directory: String,
        #[prost(map = "string, string", tag = "6")] labels: HashMap<String, String>,
        #[prost(map = "string, string", tag = "7")] annotations: HashMap<String, String>,
        #[prost(message, optional, tag = "8")] linux: Option<LinuxPodSandboxConfig>,
    }
    RunPodSandboxRequest {
        #[prost(message, optional, tag = "1")] config: Option<PodSandboxConfig>,
    }
    PodSandboxId {
        #[prost(string, tag = "1")] pod_sandbox_id: String,
    }
    ContainerMetadata {
        #[prost(string, tag = "1")] name: String,
        #[prost(uint32, tag = "2")] attempt: u32,
    }
    ImageSpec {
        #[prost(string, tag = "1")] image: String,
        #[prost(string, tag = "18")] user_specified_image: String,
    }
    LinuxContainerSecurityContext {
        #[prost(message, optional, tag = "3")] namespace_options: Option<NamespaceOption>,
    }
    LinuxContainerConfig {
        #[prost(message, optional, tag = "2")] security_context: Option<LinuxContainerSecurityContext>,
    }
    ContainerConfig {
        #[prost(message, optional, tag = "1")] metadata: Option<ContainerMetadata>,
        #[prost(message, optional, tag = "2")] image: Option<ImageSpec>,
        #[prost(string, repeated, tag = "3")] command: Vec<String>,
        #[prost(string, tag = "11")] log_path: String,
        #[prost(message, optional, tag = "15")] linux: Option<LinuxContainerConfig>,
    }
    CreateContainerRequest {
        #[prost(string, tag = "1")] pod_sandbox_id: String,
        #[prost(message, optional, tag = "2")] config: Option<ContainerConfig>,
        #[prost(message, optional, tag = "3")] sandbox_config: Option<PodSandboxConfig>,
    }
    ContainerId {
        #[prost(string, tag = "1")] container_id: String,
    }
    StopContainerRequest {
        #[prost(string, tag = "1")] container_id: String,
        #[prost(int64, tag = "2")] timeout: i64,
    }
    ContainerStatusRequest {
        #[prost(string, tag = "1")] container_id: String,
        #[prost(bool, tag = "2")] verbose: bool,
    }
    ContainerStatusResponse {
        #[prost(map = "string, string", tag = "2")] info: HashMap<String, String>,
    }
    Empty {}
}

/// `NamespaceMode`: shared in the pod, each container's own, the node's.
pub(super) const POD: i32 = 0;
pub(super) const CONTAINER: i32 = 1;
pub(super) const NODE: i32 = 2;
