//! From the JSON of a pod to what isolation needs of it. Unknown fields are passed over, whatever they hold; wrong types
//! only count in the fields that are read.

use jiff::Timestamp;

use super::{
    field::{At, Problems},
    pod::{Container, ContainerState, Owner, PodSpec, RestartPolicy, Role, Volume, VolumeKind},
    probe::{self, Port, ProbeKind},
};

/// What kubelet gives a pod that says nothing (`SetDefaults_PodSpec`).
const DEFAULT_GRACE_SECS: u64 = 30;
/// Annotation with the UID that a static pod has on its node; its mirror in the API has another one.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// Reads a pod, or the template of one.
pub(super) fn pod(template: &At<'_>, problems: &mut Problems) -> PodSpec {
    let mut pod = PodSpec { grace_secs: DEFAULT_GRACE_SECS, ..PodSpec::default() };
    if let Some(metadata) = template.get("metadata") {
        read_metadata(&metadata, &mut pod, problems);
    }
    let Some(spec) = template.get("spec") else {
        template.problem("it has no spec".to_owned(), problems);
        return pod;
    };
    pod.node = spec.text("nodeName", problems);
    pod.host_network = spec.flag("hostNetwork", problems);
    pod.host_pid = spec.flag("hostPID", problems);
    pod.restart_policy = restart_policy(&spec, problems);
    pod.grace_secs = spec.whole("terminationGracePeriodSeconds", 0..=u64::MAX, problems).unwrap_or(DEFAULT_GRACE_SECS);
    pod.deadline_secs = spec.whole("activeDeadlineSeconds", 1..=u64::MAX, problems);
    pod.volumes = spec.items("volumes", problems).iter().filter_map(|at| volume(at, problems)).collect();
    let status = template.get("status");
    for (field, states, role) in [
        ("initContainers", "initContainerStatuses", Role::Init),
        ("containers", "containerStatuses", Role::Main),
        ("ephemeralContainers", "ephemeralContainerStatuses", Role::Ephemeral),
    ] {
        let reported = status.as_ref().map(|at| at.items(states, problems)).unwrap_or_default();
        for at in spec.items(field, problems) {
            pod.containers.push(container(&at, role, &reported, problems));
        }
    }
    if pod.containers.is_empty() {
        spec.problem("it has no containers".to_owned(), problems);
    }
    if let Some(status) = status {
        pod.started_at = time(&status, "startTime", problems);
        let conditions = status.items("conditions", problems);
        let ready = conditions.iter().find(|at| at.text("type", problems).as_deref() == Some("Ready"));
        pod.ready = ready.and_then(|at| at.text("status", problems)).map(|status| status == "True");
    }
    pod
}

fn read_metadata(metadata: &At<'_>, pod: &mut PodSpec, problems: &mut Problems) {
    pod.namespace = metadata.text("namespace", problems);
    pod.name = metadata.text("name", problems);
    for key in metadata.get("labels").iter().flat_map(At::keys) {
        let value = metadata.get("labels").and_then(|labels| labels.text(key, problems));
        pod.labels.extend(value.map(|value| (key.to_owned(), value)));
    }
    let hash = metadata.get("annotations").and_then(|annotations| annotations.text(CONFIG_HASH, problems));
    let uid = hash.or_else(|| metadata.text("uid", problems));
    pod.uid = uid.and_then(|uid| uid.parse().ok());
    let owners = metadata.items("ownerReferences", problems);
    let controller = owners.iter().find(|at| at.flag("controller", problems)).or_else(|| owners.first());
    pod.owner = controller.and_then(|at| {
        let (kind, name) = (at.text("kind", problems)?, at.text("name", problems)?);
        Some(Owner { kind, name, replicas: None, ready: None })
    });
}

fn restart_policy(spec: &At<'_>, problems: &mut Problems) -> RestartPolicy {
    match spec.text("restartPolicy", problems).as_deref() {
        None | Some("Always") => RestartPolicy::Always,
        Some("OnFailure") => RestartPolicy::OnFailure,
        Some("Never") => RestartPolicy::Never,
        Some(_) => {
            if let Some(field) = spec.get("restartPolicy") {
                field.expected("Always, OnFailure or Never", problems);
            }
            RestartPolicy::Always
        }
    }
}

fn container(at: &At<'_>, role: Role, states: &[At<'_>], problems: &mut Problems) -> Container {
    let name = at.text("name", problems).unwrap_or_else(|| {
        at.problem("it has no name".to_owned(), problems);
        at.path.clone()
    });
    let sidecar = role == Role::Init && at.text("restartPolicy", problems).as_deref() == Some("Always");
    let role = if sidecar { Role::Sidecar } else { role };
    let ports: Vec<Port> = at.items("ports", problems).iter().filter_map(|at| port(at, problems)).collect();
    let probes = ProbeKind::ALL.iter().filter_map(|kind| probe::read(at, *kind, &ports, problems)).collect();
    let security = at.get("securityContext");
    let added = security.as_ref().and_then(|at| at.get("capabilities"));
    let capabilities = added.map(|at| at.items("add", problems)).unwrap_or_default();
    let mounts = at.items("volumeMounts", problems);
    let state = states.iter().find(|state| state.text("name", problems).as_ref() == Some(&name));
    Container {
        role,
        ports,
        probes,
        has_pre_stop: at.descend(&["lifecycle", "preStop"]).is_some(),
        privileged: security.is_some_and(|at| at.flag("privileged", problems)),
        capabilities: capabilities
            .iter()
            .filter_map(|at| at.value.as_str())
            .map(|name| name.trim_start_matches("CAP_").to_owned())
            .collect(),
        mounts: mounts
            .iter()
            .filter_map(|at| Some((at.text("name", problems)?, at.text("mountPath", problems)?)))
            .collect(),
        state: state.map(|at| container_state(at, problems)),
        name,
    }
}

fn port(at: &At<'_>, problems: &mut Problems) -> Option<Port> {
    let number = at.whole("containerPort", 1..=65_535, problems)?;
    let protocol = at.text("protocol", problems).unwrap_or_else(|| "TCP".to_owned());
    Some(Port { name: at.text("name", problems), number: u16::try_from(number).ok()?, protocol })
}

fn container_state(at: &At<'_>, problems: &mut Problems) -> ContainerState {
    let running = at.descend(&["state", "running"]);
    let known = |key: &str| at.get(key).and_then(|field| field.value.as_bool());
    ContainerState {
        running_since: running.and_then(|running| time(&running, "startedAt", problems)),
        started: known("started"),
        ready: known("ready"),
        restarts: at.whole("restartCount", 0..=u64::MAX, problems).unwrap_or(0),
    }
}

fn time(at: &At<'_>, key: &str, problems: &mut Problems) -> Option<Timestamp> {
    let text = at.text(key, problems)?;
    let time = text.parse().ok();
    if time.is_none() {
        at.get(key)?.expected("a time", problems);
    }
    time
}

fn volume(at: &At<'_>, problems: &mut Problems) -> Option<Volume> {
    let name = at.text("name", problems)?;
    let kind = if let Some(folder) = at.get("emptyDir") {
        VolumeKind::EmptyDir { memory: folder.text("medium", problems).as_deref() == Some("Memory") }
    } else if let Some(host) = at.get("hostPath") {
        VolumeKind::HostPath(host.text("path", problems)?)
    } else if at.get("persistentVolumeClaim").is_some() || at.get("nfs").is_some() || at.get("csi").is_some() {
        VolumeKind::Persistent
    } else {
        // A volume that says nothing else is an emptyDir (`SetDefaults_Volume`).
        let other = at.keys().find(|key| *key != "name");
        other.map_or(VolumeKind::EmptyDir { memory: false }, |key| VolumeKind::Other(key.to_owned()))
    };
    Some(Volume { name, kind })
}
