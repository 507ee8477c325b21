//! What is lost when containers end, and what stays. Pure.

use super::report::{ContainerOutlook, Evidence, Options, Outcome};
use crate::spec::{Action, PodSpec, VolumeKind};

/// What the containers' ends do to the evidence.
pub(super) fn outlook(pod: &PodSpec, containers: &[ContainerOutlook], options: &Options) -> Evidence {
    let ends = |one: &&ContainerOutlook| one.ended_secs.is_some();
    let mut evidence = Evidence::default();
    for one in containers.iter().filter(ends) {
        let name = &one.name;
        let if_so = if one.outcome == Outcome::Ends { "" } else { ", if it ends" };
        evidence.lost.push(format!("{name}: memory, processes and open files{if_so}"));
        evidence.lost.push(if one.restarted == Some(true) {
            // kubelet's container GC keeps one dead container of each (`--maximum-dead-containers-per-container`).
            format!(
                "{name}: what it wrote outside volumes{if_so}; the runtime keeps the ended container's layer until it ends \
                 once more (kubelet keeps one)"
            )
        } else {
            format!("{name}: what it wrote outside volumes{if_so}, once the pod is deleted")
        });
    }
    for one in containers.iter().filter(|one| !ends(one)) {
        evidence.kept.push(format!("{}: everything, memory included", one.name));
    }
    for volume in &pod.volumes {
        let name = &volume.name;
        evidence.kept.extend(match &volume.kind {
            VolumeKind::EmptyDir { memory: false } => Some(format!("emptyDir {name}: until the pod is deleted")),
            VolumeKind::EmptyDir { memory: true } => {
                Some(format!("emptyDir {name} (in memory): until the pod is deleted or the node restarts"))
            }
            VolumeKind::HostPath(path) => Some(format!("hostPath {name}: {path} on the node")),
            VolumeKind::Persistent => Some(format!("volume {name}: outlives the pod")),
            VolumeKind::Other(_) => None,
        });
    }
    evidence.advice = advice(pod, containers, options);
    evidence
}

/// Without a specification.
pub(super) fn unknown() -> Evidence {
    Evidence {
        lost: vec![
            "the memory and the written files of every container whose liveness or startup probe goes over the network: \
             which have one is not known. With the defaults of Kubernetes such a container ends 20 to 61 s after the cut"
                .to_owned(),
        ],
        kept: vec!["volumes, emptyDir included, until the pod is deleted".to_owned()],
        advice: Vec::new(),
    }
}

fn advice(pod: &PodSpec, containers: &[ContainerOutlook], options: &Options) -> Vec<String> {
    if containers.iter().all(|one| one.ended_secs.is_none()) {
        return Vec::new();
    }
    let mut advice = Vec::new();
    if !options.keep_probes && !pod.probe_ports().is_empty() {
        advice.push(if pod.has_exec_probe() {
            "--preserve lets kubelet's probes and the pod's loopback pass, and nothing else: then no container is ended"
                .to_owned()
        } else {
            "--keep-probes lets kubelet's probes pass, and nothing else: then no container is ended".to_owned()
        });
    } else if !options.keep_loopback
        && pod.containers.iter().flat_map(|one| &one.probes).any(|p| p.action == Action::Exec)
    {
        advice.push("--keep-loopback lets commands of probes reach 127.0.0.1".to_owned());
    }
    advice
}
