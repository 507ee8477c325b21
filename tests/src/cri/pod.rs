//! A pod as kubelet would ask for it, and its containers.

use std::{
    collections::HashMap,
    fs,
    net::Ipv6Addr,
    path::{Path, PathBuf},
};

use isolate_agent::inventory::cri::message::{PodSandboxMetadata, PodSandboxStatusRequest, PodSandboxStatusResponse};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{
    image,
    message::{
        CONTAINER, ContainerConfig, ContainerId, ContainerMetadata, ContainerStatusRequest, ContainerStatusResponse,
        CreateContainerRequest, Empty, ImageSpec, LinuxContainerConfig, LinuxContainerSecurityContext,
        LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NODE, NamespaceOption, POD, PodSandboxConfig, PodSandboxId,
        RunPodSandboxRequest, StopContainerRequest,
    },
    node::CriNode,
};
use crate::{
    cgroup,
    channel::End,
    name, netdev,
    netns::Netns,
    pod::{Driver, Qos, Spec},
    process::Process,
};

/// Whose network a pod uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Its own, with an interface on the bridge.
    Pod,
    /// The node's.
    Node,
}

/// What a pod is to be like.
#[derive(Clone, Debug)]
pub struct CriSpec {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID; a new one if not set.
    pub uid: Option<String>,
    /// How its cgroups are spelled.
    pub driver: Driver,
    /// Its network.
    pub network: Network,
    /// How many containers.
    pub containers: usize,
    /// Its annotations.
    pub annotations: Vec<(String, String)>,
}

impl Default for CriSpec {
    fn default() -> Self {
        Self {
            namespace: "default".to_owned(),
            name: format!("web-{}", name::number()),
            uid: None,
            driver: Driver::Cgroupfs,
            network: Network::Pod,
            containers: 1,
            annotations: Vec::new(),
        }
    }
}

/// A running container.
#[derive(Clone, Debug)]
pub struct Container {
    id: String,
    pid: u32,
}

/// A pod of the runtime. Dropping it leaves it to the node.
#[derive(Debug)]
pub struct Cri {
    process: Option<Process>,
    netns: Option<Netns>,
    containers: Vec<Container>,
    id: String,
    uid: String,
    config: PodSandboxConfig,
    spec: CriSpec,
    node: CriNode,
}

impl Cri {
    pub(super) fn run(node: &CriNode, spec: CriSpec) -> Self {
        let uid = spec.uid.clone().unwrap_or_else(crate::pod::fresh_uid);
        let place = Spec { driver: spec.driver, qos: Qos::Burstable, ..Spec::default() };
        let own = NamespaceOption {
            network: if spec.network == Network::Node { NODE } else { POD },
            pid: CONTAINER,
            ipc: POD,
        };
        let security_context = Some(LinuxSandboxSecurityContext { namespace_options: Some(own) });
        let cgroup_parent = format!("/{}", crate::pod::cgroup_path(&place, &uid).display());
        let metadata = PodSandboxMetadata {
            name: spec.name.clone(),
            uid: uid.clone(),
            namespace: spec.namespace.clone(),
            attempt: 0,
        };
        let config = PodSandboxConfig {
            metadata: Some(metadata),
            hostname: if spec.network == Network::Node { String::new() } else { spec.name.clone() },
            log_directory: format!("/var/log/pods/{uid}"),
            labels: HashMap::from([("app".to_owned(), "web".to_owned())]),
            annotations: spec.annotations.iter().cloned().collect(),
            linux: Some(LinuxPodSandboxConfig { cgroup_parent, security_context }),
        };
        let (id, containers) = (String::new(), Vec::new());
        let mut pod = Self { process: None, netns: None, containers, id, uid, config, spec, node: node.clone() };
        pod.run_sandbox();
        pod.start_containers();
        pod
    }

    fn run_sandbox(&mut self) {
        let request = RunPodSandboxRequest { config: Some(self.config.clone()) };
        let answer: PodSandboxId = self.node.runtime().call("RunPodSandbox", request);
        self.id = answer.pod_sandbox_id;
        self.netns = None;
        if self.spec.network == Network::Pod {
            self.netns = Some(Netns::of_process(self.pause()));
        }
    }

    fn start_containers(&mut self) {
        for _ in 0..self.spec.containers {
            self.start_container();
        }
    }

    /// Starts a container of the pod, which runs a web server; the first one at port 8080, the next at the port after it.
    pub fn start_container(&mut self) -> Container {
        let port = (8080 + self.containers.len()).to_string();
        let command = ["httpd", "-f", "-p", &port, "-h", "/www"];
        let number = self.containers.len();
        let options = NamespaceOption { network: self.network(), pid: CONTAINER, ipc: POD };
        let security_context = Some(LinuxContainerSecurityContext { namespace_options: Some(options) });
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: format!("app-{number}"), attempt: name::number() }),
            image: Some(ImageSpec { image: image::APP.to_owned(), user_specified_image: image::APP.to_owned() }),
            command: command.iter().map(ToString::to_string).collect(),
            log_path: format!("app-{number}.log"),
            linux: Some(LinuxContainerConfig { security_context }),
        };
        // Kubelet's part.
        let logs = self.node.path(&self.config.log_directory);
        fs::create_dir_all(&logs).unwrap_or_else(|error| panic!("{}: {error}", logs.display()));
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let made: ContainerId = self.node.runtime().call("CreateContainer", request);
        let Empty {} = self.node.runtime().call("StartContainer", made.clone());
        let status = ContainerStatusRequest { container_id: made.container_id.clone(), verbose: true };
        let status: ContainerStatusResponse = self.node.runtime().call("ContainerStatus", status);
        let container = Container { id: made.container_id, pid: pid(&status.info) };
        self.containers.push(container.clone());
        self.process.get_or_insert_with(|| {
            let netns = self.netns.as_ref().unwrap_or_else(|| self.node.netns());
            Process::in_container(netns, &leaf(container.pid), &[])
        });
        container
    }

    /// Stops a container and starts another in its place, as kubelet does after a failed probe.
    pub fn restart_container(&mut self, number: usize) -> Container {
        let old = self.containers.remove(number);
        // What stood in for its process goes with it.
        self.process = None;
        let request = StopContainerRequest { container_id: old.id, timeout: 0 };
        let Empty {} = self.node.runtime().call("StopContainer", request);
        self.start_container()
    }

    /// Stops the sandbox and makes another one for the same pod: a new namespace, a new interface, the same UID.
    pub fn recreate(&mut self) {
        self.stop();
        self.run_again();
    }

    /// Makes the next sandbox of the pod and starts its containers.
    pub fn run_again(&mut self) {
        if let Some(metadata) = &mut self.config.metadata {
            metadata.attempt += 1;
        }
        self.run_sandbox();
        self.start_containers();
    }

    /// Stops the sandbox; the pod and its cgroup stay.
    pub fn stop(&mut self) {
        (self.process, self.netns) = (None, None);
        self.containers.clear();
        let sandbox = PodSandboxId { pod_sandbox_id: self.id.clone() };
        let Empty {} = self.node.runtime().call("StopPodSandbox", sandbox);
    }

    /// Deletes the pod, and its cgroup as kubelet does.
    pub fn delete(mut self) {
        self.stop();
        let sandbox = PodSandboxId { pod_sandbox_id: self.id.clone() };
        let Empty {} = self.node.runtime().call("RemovePodSandbox", sandbox);
        cgroup::remove(&self.cgroup());
    }

    /// Kills what keeps the sandbox; the containers run on.
    pub fn kill_pause(&self) {
        let pid = Pid::from_raw(self.pause().cast_signed()).expect("a process id is not 0");
        kill_process(pid, Signal::KILL).expect("the sandbox runs");
    }

    /// Whether the runtime calls its sandbox ready.
    pub fn is_ready(&self) -> bool {
        let sandboxes: isolate_agent::inventory::cri::message::ListPodSandboxResponse = self
            .node
            .runtime()
            .call("ListPodSandbox", isolate_agent::inventory::cri::message::ListPodSandboxRequest {});
        sandboxes.items.iter().any(|sandbox| sandbox.id == self.id && sandbox.state == 0)
    }

    /// The process that keeps the sandbox.
    pub fn pause(&self) -> u32 {
        pid(&self.status().info)
    }

    /// Its UID.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// `namespace/name`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.spec.namespace, self.spec.name)
    }

    /// Its address; none on the node's network.
    pub fn ip(&self) -> String {
        self.status().status.and_then(|status| status.network).map(|network| network.ip).unwrap_or_default()
    }

    /// Its pod-level cgroup, as the machine sees it.
    pub fn cgroup(&self) -> PathBuf {
        let parent = self.config.linux.as_ref().expect("it has one").cgroup_parent.clone();
        self.node.cgroup().join(parent.trim_start_matches('/'))
    }

    /// Its interface, used by a process in its first container's cgroup.
    pub fn end(&self) -> End<'_> {
        let process = self.process.as_ref().expect("it has a container");
        let Some(netns) = &self.netns else { return self.node.end(process) };
        let v4 = self.ip().parse().expect("the CNI gave it an address");
        End { process, device: "eth0", mac: netdev::mac(netns, "eth0"), v4, v6: Ipv6Addr::UNSPECIFIED }
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        self.netns.as_ref().unwrap_or_else(|| self.node.netns())
    }

    /// A process of another container of it.
    pub fn process_in(&self, number: usize) -> Process {
        Process::in_container(self.netns(), &leaf(self.containers[number].pid), &[])
    }

    /// Its container with this number.
    pub fn container(&self, number: usize) -> &Container {
        &self.containers[number]
    }

    fn network(&self) -> i32 {
        if self.spec.network == Network::Node { NODE } else { POD }
    }

    fn status(&self) -> PodSandboxStatusResponse {
        let request = PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: true };
        self.node.runtime().call("PodSandboxStatus", request)
    }
}

impl Container {
    /// Its first process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        Path::new("/proc").join(self.pid.to_string()).exists()
    }
}

fn pid(info: &HashMap<String, String>) -> u32 {
    let info: Value = info.get("info").and_then(|text| serde_json::from_str(text).ok()).expect("it is verbose");
    info["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("it has a process")
}

/// The cgroup of a process.
fn leaf(pid: u32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process runs");
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).expect("it is in the unified hierarchy");
    cgroup::mount().join(own)
}
