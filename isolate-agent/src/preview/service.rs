//! What isolation does to what the pod serves, and whether another pod comes. Pure.

use super::{
    container::Scene,
    prober::Window,
    report::{ContainerOutlook, Outcome, ServiceOutlook},
};
use crate::spec::{Owner, PodSpec, RestartPolicy, Role, Search, Siblings};

/// What is known of a pod's place in the cluster.
pub(super) fn outlook(scene: &Scene<'_>, containers: &[ContainerOutlook], search: &Search) -> ServiceOutlook {
    let pod = scene.pod;
    let not_ready = not_ready(scene, containers);
    let owner = pod.owner.as_ref().map(top_owner(pod));
    let ends = ends_for_good(pod, containers);
    let (replacement, replacement_why) = replacement(owner.as_ref(), ends);
    ServiceOutlook {
        ready_now: pod.ready,
        not_ready_secs: not_ready.filter(|_| pod.ready != Some(false)),
        traffic: traffic(pod, not_ready),
        owner: owner.as_ref().map(|owner| format!("{} {}", owner.kind, owner.name)),
        replacement,
        replacement_why,
        replicas: replicas(owner.as_ref(), search.siblings),
        dangers: dangers(pod, owner.as_ref(), containers),
        commands: commands(pod, owner.as_ref(), search.name.as_ref()),
    }
}

/// Without a specification.
pub(super) fn unknown(name: Option<&(String, String)>) -> ServiceOutlook {
    ServiceOutlook {
        traffic: "whether a readiness probe takes the pod out of its services is not known; until one does, their \
                  connections to it hang"
            .to_owned(),
        replacement_why: "isolation does not end the pod, so what made it still counts it and starts no other one, \
                          unless it ends by itself"
            .to_owned(),
        commands: commands(&PodSpec::default(), None, name),
        ..ServiceOutlook::default()
    }
}

/// When the first container is not ready, if one ever is not.
fn not_ready(scene: &Scene<'_>, outlooks: &[ContainerOutlook]) -> Option<Window> {
    let probed = scene.pod.containers.iter().filter_map(|container| scene.readiness(container));
    let ended = outlooks.iter().filter(|one| one.outcome == Outcome::Ends).filter_map(|one| one.given_up_secs);
    probed.chain(ended).reduce(Window::first)
}

fn traffic(pod: &PodSpec, not_ready: Option<Window>) -> String {
    let text = match (pod.ready, not_ready) {
        (Some(false), _) => "the pod is not ready: its services send it nothing already",
        (_, Some(_)) => {
            "its services send it connections, which hang, until it is not ready; one that has no readiness probe and is \
             started again counts as ready again for as long as it lives"
        }
        (_, None) => {
            "no probe that is cut makes the pod unready: its services go on to send it their share of connections, which \
             hang, until its label is taken away"
        }
    };
    text.to_owned()
}

/// What a person knows: the Deployment, not the set of replicas that it made.
fn top_owner(pod: &PodSpec) -> impl Fn(&Owner) -> Owner {
    let hash = pod.labels.get("pod-template-hash").cloned();
    move |owner| {
        let deployment = hash.as_ref().and_then(|hash| owner.name.strip_suffix(&format!("-{hash}")));
        match deployment.filter(|_| owner.kind == "ReplicaSet") {
            Some(name) => Owner { kind: "Deployment".to_owned(), name: name.to_owned(), ..owner.clone() },
            None => owner.clone(),
        }
    }
}

/// Whether the pod ends because all of its containers do and none is started again.
fn ends_for_good(pod: &PodSpec, outlooks: &[ContainerOutlook]) -> bool {
    let main = || pod.containers.iter().filter(|container| container.role == Role::Main);
    let ends = |name: &str| outlooks.iter().any(|one| one.name == name && one.outcome == Outcome::Ends);
    pod.restart_policy == RestartPolicy::Never && main().next().is_some() && main().all(|one| ends(&one.name))
}

fn replacement(owner: Option<&Owner>, ends: bool) -> (Option<bool>, String) {
    let counts = "the pod goes on to exist and counts, ready or not";
    let (comes, why) = match owner.map(|owner| owner.kind.as_str()) {
        None => (Some(false), "nothing made the pod that would make another one".to_owned()),
        Some("Node") => (Some(false), "a static pod: kubelet starts its containers again, here".to_owned()),
        Some("Job" | "CronJob") if ends => (
            Some(true),
            "the pod ends with its containers, and the Job starts another one until its backoffLimit".to_owned(),
        ),
        Some("StatefulSet") => {
            (Some(false), format!("{counts}; another one could not have its name before it is gone"))
        }
        Some("DaemonSet") => (Some(false), format!("{counts} as this node's")),
        Some(kind @ ("Deployment" | "ReplicaSet" | "ReplicationController")) => {
            (Some(false), format!("{counts}: the {kind} has one pod less that works, and starts no other one"))
        }
        Some("Job" | "CronJob") => (Some(false), format!("{counts} as an active one")),
        Some(kind) => (None, format!("{counts}, but what a {kind} does then is not known here")),
    };
    (comes, why)
}

fn replicas(owner: Option<&Owner>, siblings: Option<Siblings>) -> Option<String> {
    let owner = owner?;
    let wanted = owner.replicas.map(|wanted| match owner.ready {
        Some(ready) => format!("{ready} of {wanted} were ready when the manifest was written"),
        None => format!("{wanted} wanted"),
    });
    let here = siblings.map(|Siblings { pods, ready }| {
        format!("{} more of it on this node, this one left out; {ready} of {pods} are ready", pods.saturating_sub(1))
    });
    let known: Vec<String> = wanted.into_iter().chain(here).collect();
    (!known.is_empty()).then(|| known.join("; "))
}

fn dangers(pod: &PodSpec, owner: Option<&Owner>, outlooks: &[ContainerOutlook]) -> Vec<String> {
    let mut dangers = Vec::new();
    if let Some(secs) = pod.deadline_secs {
        dangers.push(format!(
            "activeDeadlineSeconds: kubelet ends the pod {secs} s after it was started, isolated or not"
        ));
    }
    let restarts = outlooks.iter().any(|one| one.restarted == Some(true));
    if matches!(owner.map(|owner| owner.kind.as_str()), Some("Job" | "CronJob")) {
        dangers.push("a Job deletes the pod at its own activeDeadlineSeconds".to_owned());
        if restarts {
            dangers.push(
                "restarts count for the Job's backoffLimit (6 by default): beyond it the pod is deleted".to_owned(),
            );
        }
    }
    if matches!(owner.map(|owner| owner.kind.as_str()), Some("Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet"))
    {
        dangers.push(
            "a roll-out or a smaller number of replicas deletes pods that are not ready first: neither before the evidence \
             is taken"
                .to_owned(),
        );
    }
    dangers
}

fn commands(pod: &PodSpec, owner: Option<&Owner>, name: Option<&(String, String)>) -> Vec<String> {
    let Some((namespace, name)) = name else {
        return vec!["kubectl get pod -A -o wide: which pod has this UID (-o json has it)".to_owned()];
    };
    let mut commands = Vec::new();
    if let Some(resource) = owner.and_then(|owner| resource(&owner.kind)) {
        let owner = owner.map(|owner| owner.name.as_str()).unwrap_or_default();
        commands.push(format!("kubectl -n {namespace} get {resource} {owner}: how many replicas are ready"));
    }
    commands.push(format!("kubectl -n {namespace} get endpointslices -o wide: which services send to it"));
    let detaches =
        matches!(owner.map(|owner| owner.kind.as_str()), Some("Deployment" | "ReplicaSet" | "ReplicationController"));
    let selected = pod.labels.keys().find(|key| *key != "pod-template-hash");
    if let (true, Some(label)) = (detaches, selected) {
        commands.push(format!(
            "kubectl -n {namespace} label pod {name} {label}-: if services and {} select by it, takes the pod out of them \
             without ending it, and another one is started",
            owner.map(|owner| owner.kind.as_str()).unwrap_or_default()
        ));
    }
    commands
}

fn resource(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "Deployment" => "deployment",
        "ReplicaSet" => "replicaset",
        "ReplicationController" => "replicationcontroller",
        "StatefulSet" => "statefulset",
        "DaemonSet" => "daemonset",
        "Job" => "job",
        "CronJob" => "cronjob",
        _ => return None,
    })
}
