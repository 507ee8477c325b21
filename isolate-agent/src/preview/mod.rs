//! What isolating a pod will do to it, said before. Reads the node and what is given; changes nothing.
//!
//! `prober` tells when kubelet gives a container up, `container`, `evidence`, `service` and `hooks` what follows from that;
//! all pure. `processes` and `sockets` read procfs. The rest puts it together.

mod container;
mod evidence;
mod hooks;
pub mod prober;
mod processes;
pub mod report;
mod service;
mod sockets;
#[cfg(test)]
mod tests;

use jiff::Timestamp;

pub use self::report::{Options, Preview};
use self::{
    container::Scene,
    processes::PodProcesses,
    report::{Flows, PodFacts},
};
use crate::{
    inventory::Pod,
    pod::PodUid,
    spec::{PodSpec, Search, VolumeKind},
    status::Unattachable,
};

/// Capabilities that reach beyond the pod.
const FAR_REACHING: [&str; 7] = ["ALL", "BPF", "NET_ADMIN", "SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE", "SYS_RAWIO"];

/// What a preview is made from.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The pod that is meant.
    pub uid: PodUid,
    /// The pod as the node shows it, looked at closely; none if it is not on the node.
    pub pod: Option<&'a Pod>,
    /// Whether it is isolated already.
    pub isolated: bool,
    /// What is known of its specification.
    pub search: &'a Search,
    /// With which options it would be isolated.
    pub options: &'a Options,
    /// What stands in the way of the hooks on this node, as far as it is known.
    pub obstacles: &'a [String],
    /// Whether this node's kernel takes the LSM hook.
    pub has_lsm: bool,
}

/// Says what isolating the pod will do. Reads procfs: may take some milliseconds, for a pod of many sockets some 100.
pub fn look(subject: &Subject<'_>, now: Timestamp) -> Preview {
    let Subject { uid, pod, isolated, search, options, obstacles, has_lsm } = subject;
    let processes = pod.map(PodProcesses::of);
    let (hooks, mut open) = pod.map(|pod| hooks::foresee(pod, *has_lsm, &Unattachable::new())).unwrap_or_default();
    open.extend(obstacles.iter().cloned());
    let spec = search.found.as_ref().map(|found| &found.spec);
    let age_at_least = processes.as_ref().map_or(0, PodProcesses::age_secs);
    let scene = spec.map(|pod| Scene { pod, options, now, age_at_least });
    let containers = scene.map(|scene| scene.containers()).unwrap_or_default();
    let evidence = spec.map_or_else(evidence::unknown, |spec| evidence::outlook(spec, &containers, options));
    let service = scene
        .map_or_else(|| service::unknown(search.name.as_ref()), |scene| service::outlook(&scene, &containers, search));
    let (namespace, name) = search.name.clone().unzip();
    Preview {
        uid: uid.to_string(),
        taken_at: now,
        pod: PodFacts {
            namespace,
            name,
            present: pod.is_some(),
            isolated: *isolated,
            host_network: pod.map_or_else(|| spec.is_some_and(|spec| spec.host_network), |pod| pod.host_network),
            processes: pod.map_or(0, |pod| pod.processes),
            specification: search.found.as_ref().map(|found| found.source.clone()),
        },
        options: (*options).clone(),
        containers,
        evidence,
        service,
        hooks,
        open,
        beyond: beyond(spec, processes.as_ref(), *pod),
        flows: processes.as_ref().map_or_else(Flows::default, |processes| sockets::flows(processes, options)),
        problems: search.found.iter().flat_map(|found| &found.problems).map(ToString::to_string).collect(),
        unknown: unknown(*pod, search),
    }
}

/// Ways that do not lead over the pod's network.
fn beyond(spec: Option<&PodSpec>, processes: Option<&PodProcesses>, pod: Option<&Pod>) -> Vec<String> {
    let mut ways = Vec::new();
    for container in spec.iter().flat_map(|spec| &spec.containers) {
        let name = &container.name;
        if container.privileged {
            ways.push(format!("container {name} is privileged: it can act as root on the node"));
        }
        let far = container.capabilities.iter().filter(|capability| FAR_REACHING.contains(&capability.as_str()));
        ways.extend(far.map(|capability| format!("container {name} has the capability {capability}")));
    }
    if spec.is_some_and(|spec| spec.host_pid) {
        ways.push("hostPID: it sees the node's processes".to_owned());
    }
    for volume in spec.iter().flat_map(|spec| &spec.volumes) {
        let name = &volume.name;
        match &volume.kind {
            VolumeKind::HostPath(path) => ways.push(format!(
                "hostPath {name}: {path} of the node{}",
                if processes::is_socket(path) {
                    ", a socket: whoever listens there goes on to serve the pod"
                } else {
                    ""
                }
            )),
            VolumeKind::Persistent => ways.push(format!(
                "volume {name}: the node goes on to read and write it for the pod; another pod may share it"
            )),
            VolumeKind::EmptyDir { .. } | VolumeKind::Other(_) => {}
        }
    }
    for place in processes.map(PodProcesses::mounted_sockets).unwrap_or_default() {
        ways.push(format!("{place} is a socket of the node: whoever listens there goes on to serve the pod"));
    }
    if pod.is_some_and(|pod| pod.host_network) {
        ways.push("hostNetwork: the node's abstract Unix sockets are in its reach".to_owned());
    }
    ways
}

fn unknown(pod: Option<&Pod>, search: &Search) -> Vec<String> {
    let mut unknown: Vec<String> = search.failed.clone();
    if search.found.is_none() {
        let name = search.name.as_ref();
        let get = name.map_or_else(
            || "kubectl get pod -n NAMESPACE NAME -o yaml > pod.yaml".to_owned(),
            |(namespace, name)| format!("kubectl get pod -n {namespace} {name} -o yaml > pod.yaml"),
        );
        unknown.push(format!(
            "the pod's specification: its probes, restartPolicy, volumes and owner. Give it with --pod-manifest pod.yaml \
             (`{get}`), or let kubelet tell: --kubelet-url https://127.0.0.1:10250 --kubelet-token-file FILE"
        ));
    } else if search.found.as_ref().is_some_and(|found| found.spec.containers.iter().all(|one| one.state.is_none())) {
        unknown.push(
            "the state of the containers (since when they run, whether they have started): a manifest with `status`, as \
             kubectl get pod -o yaml gives it, or kubelet, makes the times narrower"
                .to_owned(),
        );
    }
    if pod.is_none() {
        unknown.push(
            "the pod is not on this node: its hooks and flows; kubectl get pod -A -o wide says where it runs"
                .to_owned(),
        );
    }
    if search.found.is_some() {
        unknown.push(
            "whether probes were answered until now: the times take for granted that they were; one that had begun to fail \
             fails earlier"
                .to_owned(),
        );
    }
    unknown
}
