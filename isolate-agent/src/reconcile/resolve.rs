//! From what a user typed to one pod.

use std::collections::BTreeSet;

use super::Engine;
use crate::{
    control::protocol::{Code, Outcome},
    inventory::cri::PodFacts,
    pod::{PodName, PodQuery, PodUid},
    status,
};

/// What a name is typed for. Which of several pods of one name is meant depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Isolate,
    Release,
}

impl Outcome {
    /// An outcome for something that was typed and is no pod of this node, or not yet.
    pub(super) fn unresolved(query: &str, code: Code, message: String) -> Self {
        Self { query: query.to_owned(), uid: None, pod: None, code, message, open: Vec::new(), enforced_after_us: None }
    }
}

impl Engine {
    /// An outcome for a pod.
    pub(super) fn outcome(&self, query: &str, uid: PodUid, code: Code, message: String) -> Outcome {
        let pod = self.name(&uid).map(|name| name.to_string());
        Outcome { uid: Some(uid.to_string()), pod, ..Outcome::unresolved(query, code, message) }
    }

    /// What the runtime calls a pod, or what its record does.
    pub(super) fn name(&self, uid: &PodUid) -> Option<PodName> {
        let record = self.desired.get(uid).and_then(|entry| entry.record());
        status::name(self.cri.facts(uid).as_ref(), record).cloned()
    }

    /// A pod as messages call it: `namespace/name (uid)`, or its UID.
    pub(super) fn called(&self, uid: &PodUid) -> String {
        self.name(uid).map_or_else(|| uid.to_string(), |name| format!("{name} ({uid})"))
    }

    /// Scans again unless every text is the whole UID of a pod that is known: a pod that is younger than the last pass
    /// may be the one that is meant, or make a prefix ambiguous.
    pub(super) async fn look_for(&mut self, texts: &[String]) {
        let known = |text: &String| text.parse().is_ok_and(|uid: PodUid| self.inventory.pods.contains_key(&uid));
        if texts.iter().all(known) {
            return;
        }
        match self.look_at_node().await.1 {
            Ok(inventory) => drop(self.know(inventory)),
            Err(error) => self.warnings.push(error.to_string()),
        }
    }

    /// The one pod that is meant, among those on the node and those isolated.
    pub(super) fn resolve(&self, text: &str, purpose: Purpose) -> Result<PodUid, Outcome> {
        let query: PodQuery = text
            .parse()
            .map_err(|error| Outcome::unresolved(text, Code::Usage, format!("{error}; nothing was changed")))?;
        let known = self.inventory.pods.keys().chain(self.desired.keys());
        let such = |is_meant: &dyn Fn(&PodUid) -> bool| -> Vec<PodUid> {
            let such: BTreeSet<PodUid> = known.filter(|uid| is_meant(uid)).copied().collect();
            such.into_iter().collect()
        };
        match &query {
            PodQuery::Name(name) => self.one_of_name(text, such(&|uid| self.name(uid).as_ref() == Some(name)), purpose),
            PodQuery::Uid(query) => {
                let matching = such(&|uid| query.matches(uid));
                match matching[..] {
                    [] => Err(Outcome::unresolved(text, Code::NoSuchPod, no_such_uid(text))),
                    [uid] => Ok(uid),
                    _ => Err(self.ambiguous(text, &matching)),
                }
            }
        }
    }

    /// The pod that a name means. Pods of a `StatefulSet` that follow each other have one name: the running one is to be
    /// isolated if there is no doubt about the others, and an isolated one is to be released.
    fn one_of_name(&self, text: &str, named: Vec<PodUid>, purpose: Purpose) -> Result<PodUid, Outcome> {
        let isolated: Vec<PodUid> = named.iter().filter(|uid| self.desired.contains_key(uid)).copied().collect();
        let candidates = if purpose == Purpose::Release && !isolated.is_empty() { isolated } else { named };
        match candidates[..] {
            [] => return Err(Outcome::unresolved(text, Code::NoSuchPod, self.no_such_name(text))),
            [uid] => return Ok(uid),
            _ => {}
        }
        let (running, others): (Vec<PodUid>, Vec<PodUid>) = candidates.iter().partition(|uid| self.is_ready(uid));
        let over = |uid: &PodUid| self.inventory.pods.get(uid).is_none_or(|pod| pod.processes == 0);
        match running[..] {
            [uid] if purpose == Purpose::Isolate && others.iter().all(over) => Ok(uid),
            _ => Err(self.ambiguous(text, &candidates)),
        }
    }

    fn is_ready(&self, uid: &PodUid) -> bool {
        self.cri.facts(uid).is_some_and(|facts: PodFacts| facts.ready)
    }

    fn ambiguous(&self, text: &str, candidates: &[PodUid]) -> Outcome {
        let described = candidates.iter().map(|uid| {
            let runs = match self.inventory.pods.get(uid) {
                None => "not on this node now",
                Some(pod) if pod.processes == 0 => "nothing runs in it",
                Some(_) => "running",
            };
            let isolated = if self.desired.contains_key(uid) { ", isolated" } else { "" };
            format!("{} [{runs}{isolated}]", self.called(uid))
        });
        let described: Vec<String> = described.collect();
        let message = format!(
            "{text} means several pods of this node, nothing was changed; give the UID of one: {}",
            described.join(", ")
        );
        Outcome::unresolved(text, Code::Usage, message)
    }

    /// Says also when names are not to be had: then it is not the pod that is missing.
    fn no_such_name(&self, text: &str) -> String {
        let known = self.cri.known();
        let (namespace, name) = text.split_once('/').unwrap_or_default();
        let by_uid =
            format!("`kubectl get pod -n {namespace} {name} -o jsonpath={{.metadata.uid}}` tells its UID, which works");
        let contradicts =
            |facts: &PodFacts| facts.name().is_none() && facts.names.iter().any(|of| of.to_string() == text);
        if let Some((uid, _)) = known.pods.iter().find(|(_, facts)| contradicts(facts)) {
            return format!(
                "the container runtime gives pod {uid} several names, {text} among them, so nobody can say whether it is \
                 meant; nothing was changed, {by_uid}"
            );
        }
        match (known.trouble, known.answered) {
            (None, Some(_)) => {
                format!("no pod {text} on this node; `kubectl get pod -A -o wide` says on which node it runs")
            }
            (Some(trouble), None) => format!("no pod is known by its name ({trouble}); {by_uid}"),
            (Some(trouble), Some(at)) => format!(
                "no pod {text} on this node as of {} s ago, and the container runtime does not answer now ({trouble}); {by_uid}",
                at.elapsed().as_secs()
            ),
            (None, None) => {
                format!("no pod is known by its name: the container runtime has not answered in time; {by_uid}")
            }
        }
    }
}

fn no_such_uid(text: &str) -> String {
    format!(
        "no pod {text} on this node; `kubectl get pod -A -o wide` says on which node it runs (of a static pod kubectl \
         shows another UID than it has: name it by namespace/name)"
    )
}
