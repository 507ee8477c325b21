//! From a manifest to the one pod in it that is meant: YAML or JSON, several documents, lists, workloads with a template.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde_json::Value;

use super::{
    SpecError,
    field::{At, Problem, Problems},
    pod::{Owner, PodSpec},
    read,
};
use crate::pod::PodUid;

/// Largest manifest that is read, in bytes; etcd keeps objects of at most 1.5 MiB.
const MAX_MANIFEST_BYTES: u64 = 16 * 1024 * 1024;
/// Objects that are looked at in one manifest.
const MAX_OBJECTS: usize = 10_000;

/// Whose specification is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The pod.
    pub uid: PodUid,
    /// Its namespace and name, where the node knows them.
    pub name: Option<(String, String)>,
}

/// A pod in a manifest, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) spec: PodSpec,
    /// Kind of the object that it stands in: `Pod`, or a workload that makes pods from it.
    kind: String,
    pub(super) problems: Vec<Problem>,
}

/// The pods of a manifest file.
pub(super) fn read_file(path: &Path) -> Result<Vec<Candidate>, SpecError> {
    let failed = |source| SpecError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_MANIFEST_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(SpecError::TooLarge { path: path.to_owned(), limit: MAX_MANIFEST_BYTES });
    }
    candidates(&text).map_err(|source| SpecError::Syntax { path: path.to_owned(), source })
}

/// The pods of a manifest. JSON is YAML.
pub(super) fn candidates(text: &str) -> Result<Vec<Candidate>, serde_yaml_ng::Error> {
    let mut found = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        collect(&At::root(&Value::deserialize(document)?), &mut found);
    }
    Ok(found)
}

/// The pods of a list as kubelet answers it.
pub(super) fn of_list(list: &Value) -> Vec<Candidate> {
    let mut found = Vec::new();
    collect(&At::root(list), &mut found);
    found
}

fn collect(object: &At<'_>, found: &mut Vec<Candidate>) {
    let mut unread = Problems::new();
    let kind = object.text("kind", &mut unread).unwrap_or_default();
    if kind.ends_with("List") {
        for item in object.items("items", &mut unread) {
            if found.len() < MAX_OBJECTS {
                collect(&item, found);
            }
        }
        return;
    }
    let template = [&["spec", "template"][..], &["spec", "jobTemplate", "spec", "template"]];
    let template = template.iter().find_map(|way| object.descend(way));
    let template = template.filter(|at| at.descend(&["spec", "containers"]).is_some());
    let mut problems = Problems::new();
    let spec = if let Some(template) = template {
        of_workload(object, &template, &kind, &mut problems)
    } else if kind == "Pod" || object.descend(&["spec", "containers"]).is_some() {
        read::pod(object, &mut problems)
    } else {
        return;
    };
    found.push(Candidate { spec, kind, problems });
}

fn of_workload(object: &At<'_>, template: &At<'_>, kind: &str, problems: &mut Problems) -> PodSpec {
    let mut spec = read::pod(template, problems);
    let metadata = object.get("metadata");
    spec.uid = None;
    spec.name = metadata.as_ref().and_then(|at| at.text("name", problems));
    spec.namespace = metadata.and_then(|at| at.text("namespace", problems)).or(spec.namespace);
    let replicas = object.get("spec").and_then(|at| at.whole("replicas", 0..=u64::MAX, problems));
    let default = matches!(kind, "Deployment" | "ReplicaSet" | "StatefulSet" | "ReplicationController").then_some(1);
    spec.owner = Some(Owner {
        kind: kind.to_owned(),
        name: spec.name.clone().unwrap_or_default(),
        replicas: replicas.or(default),
        ready: object.get("status").and_then(|at| at.whole("readyReplicas", 0..=u64::MAX, problems)),
    });
    spec
}

impl Candidate {
    fn is_template(&self) -> bool {
        !matches!(self.kind.as_str(), "Pod" | "")
    }

    /// As a person finds it in the manifest.
    pub(super) fn label(&self) -> String {
        let kind = if self.kind.is_empty() { "Pod" } else { &self.kind };
        let name = self.spec.name.as_deref().unwrap_or("(no name)");
        let uid = self.spec.uid.map(|uid| format!(" with UID {uid}")).unwrap_or_default();
        format!("{kind} {}/{name}{uid}", self.spec.namespace.as_deref().unwrap_or("default"))
    }

    /// Whether its name can be that of the pod: equal, or what made the pod (or its node) has appended something.
    pub(super) fn is_named(&self, (namespace, name): &(String, String)) -> bool {
        let own = self.spec.name.as_deref().unwrap_or_default();
        let appended = || name.strip_prefix(own).is_some_and(|rest| rest.starts_with('-'));
        self.spec.namespace.as_deref().unwrap_or("default") == namespace
            && !own.is_empty()
            && (name == own || self.is_template() && appended())
    }

    /// The same for a static pod: kubelet appends the node's name.
    pub(super) fn is_static(&self, (namespace, name): &(String, String)) -> bool {
        let own = self.spec.name.as_deref().unwrap_or_default();
        self.spec.namespace.as_deref().unwrap_or("default") == namespace
            && !own.is_empty()
            && name.strip_prefix(own).is_some_and(|rest| rest.starts_with('-'))
    }
}

/// The one that is meant: by UID, else by name, else the only one without a UID.
pub(super) fn choose(mut found: Vec<Candidate>, wanted: &Wanted, path: &Path) -> Result<Candidate, SpecError> {
    if let Some(at) = found.iter().position(|one| one.spec.uid == Some(wanted.uid)) {
        return Ok(found.swap_remove(at));
    }
    let labels = |found: &[Candidate]| found.iter().map(Candidate::label).collect();
    let path: PathBuf = path.to_owned();
    let (mut nameless, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|one| one.spec.uid.is_none());
    if let Some(name) = &wanted.name {
        let named: Vec<usize> = (0..nameless.len()).filter(|at| nameless[*at].is_named(name)).collect();
        if let [one] = named[..] {
            return Ok(nameless.swap_remove(one));
        }
    }
    match (nameless.len(), &wanted.name) {
        (0, _) if others.is_empty() => Err(SpecError::NoPod { path }),
        (0, _) => Err(SpecError::OtherPods { path, uid: wanted.uid, found: labels(&others) }),
        (1, None) => Ok(nameless.swap_remove(0)),
        (1, Some((_, _))) if nameless[0].spec.name.is_none() => Ok(nameless.swap_remove(0)),
        (_, Some((namespace, name))) => {
            Err(SpecError::OtherNames { path, pod: format!("{namespace}/{name}"), found: labels(&nameless) })
        }
        (_, None) => Err(SpecError::Several { path, uid: wanted.uid, found: labels(&nameless) }),
    }
}
