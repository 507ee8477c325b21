//! From what a user typed to one pod.

use std::collections::BTreeSet;

use super::Engine;
use crate::{
    control::protocol::{Code, Outcome},
    pod::{PodUid, UidQuery},
};

impl Outcome {
    /// An outcome for something that was typed and is no pod of this node, or not yet.
    pub(super) fn unresolved(query: &str, code: Code, message: String) -> Self {
        Self { query: query.to_owned(), uid: None, code, message, open: Vec::new(), enforced_after_us: None }
    }

    /// An outcome for a pod.
    pub(super) fn of(query: &str, uid: PodUid, code: Code, message: String) -> Self {
        Self { uid: Some(uid.to_string()), ..Self::unresolved(query, code, message) }
    }
}

impl Engine {
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
    pub(super) fn resolve(&self, text: &str) -> Result<PodUid, Outcome> {
        let query: UidQuery = text
            .parse()
            .map_err(|error| Outcome::unresolved(text, Code::Usage, format!("{error}; nothing was changed")))?;
        let known = self.inventory.pods.keys().chain(self.desired.keys());
        let matching: BTreeSet<&PodUid> = known.filter(|uid| query.matches(uid)).collect();
        match matching.iter().collect::<Vec<_>>().as_slice() {
            [] => Err(Outcome::unresolved(
                text,
                Code::NoSuchPod,
                format!("no pod {text} on this node; `kubectl get pod -A -o wide` says on which node it runs"),
            )),
            [uid] => Ok(***uid),
            several => {
                let candidates: Vec<String> = several.iter().map(ToString::to_string).collect();
                let message =
                    format!("{text} means several pods of this node, nothing was changed: {}", candidates.join(", "));
                Err(Outcome::unresolved(text, Code::Usage, message))
            }
        }
    }
}
