//! Where a pod's specification is looked for, and in which order: a manifest that was given, static pods, kubelet.

use std::path::PathBuf;

use super::{
    SpecError,
    document::{self, Candidate, Wanted},
    field::Problem,
    kubelet::Kubelet,
    node::{NodeFolders, name_of, static_pod},
    pod::PodSpec,
};
use crate::pod::{PodName, PodUid};

/// A specification, where it comes from and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it says.
    pub spec: PodSpec,
    /// Where it was read, for a person.
    pub source: String,
    /// What is wrong with it; the rest of it holds all the same.
    pub problems: Vec<Problem>,
}

/// Pods of the same owner on this node, the pod itself included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Siblings {
    /// How many.
    pub pods: usize,
    /// How many of them are ready.
    pub ready: usize,
}

/// What a search came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Namespace and name of the pod, where the node or the specification knows them.
    pub name: Option<(String, String)>,
    /// The specification.
    pub found: Option<Found>,
    /// Known only where kubelet told.
    pub siblings: Option<Siblings>,
    /// Sources that failed, and why.
    pub failed: Vec<String>,
}

/// Where to look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// A manifest that was given for this pod.
    pub manifest: Option<PathBuf>,
    /// kubelet's read API.
    pub kubelet: Option<Kubelet>,
    /// kubelet's folders.
    pub folders: NodeFolders,
}

impl Sources {
    /// Looks in files only: never waits for anybody. Fails if the manifest that was given is not the pod's. `name` is what
    /// the pod is called, if that is known.
    pub fn in_files(&self, uid: PodUid, name: Option<&PodName>) -> Result<Search, SpecError> {
        let name = name.map(|name| (name.namespace().to_owned(), name.name().to_owned()));
        let name = name.or_else(|| name_of(uid, &self.folders.logs));
        let wanted = Wanted { uid, name: name.clone() };
        let found = match (&self.manifest, &name) {
            (Some(path), _) => Some(Found::of_manifest(path, &wanted)?),
            // Only static pods have UIDs without dashes (a hash of their manifest).
            (None, Some(name)) if uid.is_plain() => static_pod(name, &self.folders.manifests),
            (None, _) => None,
        };
        Ok(Search { name, found, ..Search::default() })
    }

    /// Looks everywhere; takes at most [`super::DEADLINE`].
    pub async fn find(&self, uid: PodUid, name: Option<&PodName>) -> Result<Search, SpecError> {
        let mut search = self.in_files(uid, name)?;
        if let Some(kubelet) = &self.kubelet
            && self.manifest.is_none()
        {
            match kubelet.pods().await {
                Ok(pods) => search.take_from(&pods, uid, &kubelet.url),
                Err(error) => search.failed.push(with_cause(&error)),
            }
        }
        if let Some(spec) = search.found.as_ref().map(|found| &found.spec)
            && spec.uid == Some(uid)
            && let (Some(namespace), Some(name)) = (&spec.namespace, &spec.name)
        {
            search.name = Some((namespace.clone(), name.clone()));
        }
        Ok(search)
    }
}

impl Search {
    fn take_from(&mut self, pods: &[Candidate], uid: PodUid, url: &str) {
        let Some(own) = pods.iter().find(|one| one.spec.uid == Some(uid)) else {
            self.failed.push(format!("kubelet at {url} does not know the pod: it may have been deleted already"));
            return;
        };
        let family = |one: &&Candidate| {
            let same = |a: &PodSpec, b: &PodSpec| a.owner.is_some() && a.owner == b.owner && a.namespace == b.namespace;
            same(&one.spec, &own.spec)
        };
        let siblings: Vec<&Candidate> = pods.iter().filter(family).collect();
        let ready = siblings.iter().filter(|one| one.spec.ready == Some(true)).count();
        self.siblings = (!siblings.is_empty()).then_some(Siblings { pods: siblings.len(), ready });
        let source = format!("kubelet at {url}");
        self.found = Some(Found { spec: own.spec.clone(), source, problems: own.problems.clone() });
    }
}

impl Found {
    fn of_manifest(path: &std::path::Path, wanted: &Wanted) -> Result<Self, SpecError> {
        let candidate = document::choose(document::read_file(path)?, wanted, path)?;
        let source = format!("{} in {}", candidate.label(), path.display());
        Ok(Self { spec: candidate.spec, source, problems: candidate.problems })
    }
}

fn with_cause(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
