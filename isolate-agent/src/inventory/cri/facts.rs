//! From what a runtime answers to what is known of a pod. Pure, and takes nothing on trust that is shown or opened later.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;

use super::message::{PodSandbox, PodSandboxStatusResponse, READY};
use crate::pod::{PodName, PodUid};

/// Labels kept of one pod, and the longest parts that Kubernetes takes.
const MAX_LABELS: usize = 64;
const MAX_LABEL_KEY: usize = 317;
const MAX_LABEL_VALUE: usize = 63;
/// Addresses kept of one pod: one of each family, and those of its other networks.
const MAX_IPS: usize = 16;
/// Longest id of a sandbox; runtimes use 64 hex digits.
const MAX_ID: usize = 256;
/// Longest path (`PATH_MAX`).
const MAX_PATH: usize = 4096;
/// Where the kubelet says that a pod comes from a file or a URL and not from the API.
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// What the runtime tells of one pod, from all its sandboxes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Namespace and name. None if they are no names that Kubernetes would take; several if the runtime contradicts itself.
    pub names: BTreeSet<PodName>,
    /// Its labels; those that Kubernetes would not take are left out.
    pub labels: BTreeMap<String, String>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Files that its network namespaces are kept by, those of sandboxes that are not ready too: their containers may run.
    pub netns: BTreeSet<PathBuf>,
    /// How many sandboxes it had before the current one.
    pub attempt: u32,
    /// Whether the current one is ready. If not the pod may run all the same.
    pub ready: bool,
    /// Whether its manifest is the kubelet's own and not the API server's.
    pub is_static: bool,
}

impl PodFacts {
    /// Its namespace and name, if it has one and no other: a pod is never renamed.
    pub fn name(&self) -> Option<&PodName> {
        self.names.first().filter(|_| self.names.len() == 1)
    }
}

/// What is learned of a sandbox by asking for it alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Detail {
    pub(super) ips: Vec<IpAddr>,
    pub(super) netns: Option<PathBuf>,
}

/// One sandbox of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) state: i32,
    uid: PodUid,
    facts: PodFacts,
}

impl Sandbox {
    /// None if it is no pod's, or has an id that no runtime makes.
    pub(super) fn new(sandbox: &PodSandbox) -> Option<Self> {
        let (uid, facts) = facts(sandbox)?;
        (sandbox.id.len() <= MAX_ID).then(|| Self { id: sandbox.id.clone(), state: sandbox.state, uid, facts })
    }
}

/// All pods, by UID. `detail` is what was learned of a sandbox, by its id.
pub(super) fn pods<'d>(
    sandboxes: &[Sandbox],
    detail: impl Fn(&str) -> Option<&'d Detail>,
) -> BTreeMap<PodUid, PodFacts> {
    let mut pods: BTreeMap<PodUid, PodFacts> = BTreeMap::new();
    for Sandbox { id, uid, facts, .. } in sandboxes {
        let mut facts = facts.clone();
        if let Some(detail) = detail(id) {
            facts.ips.clone_from(&detail.ips);
            facts.netns.extend(detail.netns.clone());
        }
        match pods.get_mut(uid) {
            None => drop(pods.insert(*uid, facts)),
            Some(other) => {
                if (other.ready, other.attempt) < (facts.ready, facts.attempt) {
                    std::mem::swap(other, &mut facts);
                }
                other.netns.append(&mut facts.netns);
                other.is_static |= facts.is_static;
                other.names.append(&mut facts.names);
            }
        }
    }
    pods
}

fn facts(sandbox: &PodSandbox) -> Option<(PodUid, PodFacts)> {
    let metadata = sandbox.metadata.as_ref()?;
    let labels = sandbox.labels.iter().filter(|(key, value)| is_label(key, value)).take(MAX_LABELS);
    let source = sandbox.annotations.get(CONFIG_SOURCE).map(String::as_str);
    let facts = PodFacts {
        names: PodName::new(&metadata.namespace, &metadata.name).into_iter().collect(),
        labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
        attempt: metadata.attempt,
        ready: sandbox.state == READY,
        is_static: matches!(source, Some("file" | "http")) || sandbox.annotations.contains_key(CONFIG_MIRROR),
        ..PodFacts::default()
    };
    Some((metadata.uid.parse().ok()?, facts))
}

fn is_label(key: &str, value: &str) -> bool {
    let is_plain = |text: &str, also: &[u8]| text.bytes().all(|c| c.is_ascii_alphanumeric() || also.contains(&c));
    !key.is_empty()
        && key.len() <= MAX_LABEL_KEY
        && value.len() <= MAX_LABEL_VALUE
        && is_plain(key, b"-_./")
        && is_plain(value, b"-_.")
}

/// Addresses and namespace of one sandbox.
pub(super) fn detail(answer: &PodSandboxStatusResponse) -> Detail {
    let network = answer.status.as_ref().and_then(|status| status.network.as_ref());
    let ips = network.into_iter().flat_map(|network| {
        std::iter::once(network.ip.as_str()).chain(network.additional_ips.iter().map(|more| more.ip.as_str()))
    });
    let ips = ips.filter_map(|ip| ip.parse().ok()).take(MAX_IPS).collect();
    Detail { ips, netns: answer.info.get("info").and_then(|info| netns(info)) }
}

/// The way to the namespaces in the OCI specification of the sandbox, which containerd and CRI-O both give. Read field by
/// field: a tree of all that is in there would be many times as large.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    runtime_spec: RuntimeSpec,
}

#[derive(Deserialize)]
struct RuntimeSpec {
    linux: Linux,
}

#[derive(Deserialize)]
struct Linux {
    namespaces: Vec<Namespace>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    path: PathBuf,
}

fn netns(info: &str) -> Option<PathBuf> {
    let info: Info = serde_json::from_str(info).ok()?;
    let network = info.runtime_spec.linux.namespaces.into_iter().find(|namespace| namespace.r#type == "network")?;
    is_safe_to_open(&network.path).then_some(network.path)
}

/// Runtimes keep namespaces below `/run`, on a file system in memory: opening what lies there waits for nobody. Users mount
/// theirs below `/run/user`.
pub(crate) fn is_safe_to_open(path: &Path) -> bool {
    let below_run = ["/run", "/var/run"].iter().find_map(|run| path.strip_prefix(run).ok());
    below_run.is_some_and(|path| !path.starts_with("user"))
        && path.as_os_str().len() <= MAX_PATH
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::inventory::cri::message::{PodIp, PodSandboxMetadata, PodSandboxNetworkStatus, PodSandboxStatus};

    const UID: &str = "0f0e0d0c-1234-4000-8000-0123456789ab";

    fn sandbox(id: &str, uid: &str, name: &str, attempt: u32, state: i32) -> PodSandbox {
        let (name, namespace) = (name.to_owned(), "default".to_owned());
        let metadata = PodSandboxMetadata { name, uid: uid.to_owned(), namespace, attempt };
        PodSandbox { id: id.to_owned(), metadata: Some(metadata), state, ..PodSandbox::default() }
    }

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn all(sandboxes: &[PodSandbox], details: &BTreeMap<String, Detail>) -> BTreeMap<PodUid, PodFacts> {
        pods(&sandboxes.iter().filter_map(Sandbox::new).collect::<Vec<_>>(), |id| details.get(id))
    }

    fn only(sandboxes: &[PodSandbox], details: &BTreeMap<String, Detail>) -> PodFacts {
        all(sandboxes, details).remove(&UID.parse().expect("a UID")).expect("the pod is known")
    }

    #[test]
    fn the_ready_sandbox_speaks_for_the_pod_and_no_namespace_is_forgotten() {
        let netns = |path: &str| Detail { ips: vec![[10, 0, 0, 1].into()], netns: Some(path.into()) };
        let details =
            BTreeMap::from([("old".to_owned(), netns("/run/netns/old")), ("new".to_owned(), netns("/run/netns/new"))]);
        let (old, new) = (sandbox("old", UID, "web", 3, 1), sandbox("new", UID, "web", 2, READY));
        for order in [[old.clone(), new.clone()], [new, old]] {
            let facts = only(&order, &details);
            assert_eq!((facts.attempt, facts.ready), (2, true));
            assert_eq!(facts.netns, ["/run/netns/new".into(), "/run/netns/old".into()].into());
        }
    }

    #[test]
    fn what_kubernetes_would_not_take_is_left_out() {
        let mut hostile = sandbox("a", UID, "web\x1b[2J", 0, READY);
        hostile.labels =
            map(&[("app", "web"), ("evil\n", "x"), ("e", "\u{202e}"), ("", "x"), ("long", &"x".repeat(64))]);
        let facts = only(&[hostile, sandbox("b", "../../etc", "x", 0, READY)], &BTreeMap::new());
        assert_eq!(facts.names, BTreeSet::new());
        assert_eq!(facts.labels, BTreeMap::from([("app".to_owned(), "web".to_owned())]));
        assert_eq!(all(&[PodSandbox::default()], &BTreeMap::new()), BTreeMap::new());
    }

    #[test]
    fn a_pod_with_two_names_has_none() {
        let (one, other) = (sandbox("a", UID, "web", 0, READY), sandbox("b", UID, "db", 1, 1));
        assert_eq!(only(std::slice::from_ref(&one), &BTreeMap::new()).name().map(PodName::name), Some("web"));
        let facts = only(&[one, other], &BTreeMap::new());
        assert_eq!((facts.name(), facts.names.len()), (None, 2));
    }

    #[test]
    fn static_pods_are_known_by_their_annotations() {
        for (annotations, is_static) in [
            (map(&[]), false),
            (map(&[(CONFIG_SOURCE, "api")]), false),
            (map(&[(CONFIG_SOURCE, "file")]), true),
            (map(&[(CONFIG_SOURCE, "http")]), true),
            (map(&[(CONFIG_MIRROR, "0f0e")]), true),
        ] {
            let sandbox = PodSandbox { annotations, ..sandbox("a", UID, "web", 0, READY) };
            assert_eq!(only(&[sandbox], &BTreeMap::new()).is_static, is_static);
        }
    }

    fn status(info: &str, ips: [&str; 2]) -> PodSandboxStatusResponse {
        let additional_ips = vec![PodIp { ip: ips[1].to_owned() }];
        let network = PodSandboxNetworkStatus { ip: ips[0].to_owned(), additional_ips };
        let status = PodSandboxStatus { id: "a".to_owned(), network: Some(network) };
        PodSandboxStatusResponse { status: Some(status), info: map(&[("info", info)]) }
    }

    fn info(path: &str) -> String {
        format!(
            r#"{{"pid": 1, "runtimeSpec": {{"linux": {{"namespaces": [{{"type": "pid"}}, {{"type": "network", "path": "{path}"}}]}}}}}}"#
        )
    }

    #[test]
    fn addresses_and_namespace_of_a_sandbox() {
        let known = detail(&status(&info("/var/run/netns/cni-1"), ["10.0.0.1", "fd00::1"]));
        assert_eq!(known.ips, [IpAddr::from([10, 0, 0, 1]), "fd00::1".parse().expect("an address")]);
        assert_eq!(known.netns, Some("/var/run/netns/cni-1".into()));
        let host_network = r#"{"runtimeSpec": {"linux": {"namespaces": [{"type": "ipc"}]}}}"#;
        assert_eq!(detail(&status(host_network, ["", "evil\n"])), Detail::default());
    }

    #[test]
    fn files_elsewhere_are_not_opened() {
        for path in [
            "/proc/1/ns/net",
            "/mnt/nfs/x",
            "run/netns/x",
            "/run/../mnt/nfs/x",
            "/running/x",
            "/run/user/1000/x",
            "/var/run/user/x",
            "",
        ] {
            assert_eq!(detail(&status(&info(path), ["", ""])).netns, None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_passed_over(
            info in "\\PC*", name in "\\PC*", uid in "\\PC*", key in "\\PC*", value in "\\PC*"
        ) {
            let _detail = detail(&status(&info, [&name, &uid]));
            let sandbox = PodSandbox { labels: map(&[(&key, &value)]), ..sandbox("a", UID, &name, 0, 7) };
            let facts = only(&[sandbox], &BTreeMap::new());
            let shown = facts.labels.iter().flat_map(|(key, value)| [key, value]);
            prop_assert!(shown.into_iter().all(|text| text.bytes().all(|byte| byte.is_ascii_graphic())));
        }
    }
}
