//! What has just come to isolated pods is cut without a pass: a new sandbox, one more interface.

use std::time::Instant;

use super::{Engine, remember};
use crate::{
    inventory::{Inventory, InventoryError, Pod},
    pod::PodUid,
    watch::Sign,
};

/// Hooks that are attached to interfaces at once; a pass attaches the rest. Each keeps requests waiting for some 10 ms, and how
/// many interfaces come is for the pod to say.
const MOST_ATTACHED: usize = 16;

/// A look at one pod.
#[derive(Debug)]
pub struct Looked {
    /// Which.
    pub uid: PodUid,
    /// When it began.
    pub started: Instant,
    seen: Result<Option<Pod>, InventoryError>,
}

impl Engine {
    /// Whether a pod is to be isolated.
    pub fn isolates(&self, uid: &PodUid) -> bool {
        self.desired.contains_key(uid)
    }

    /// The pods to be isolated that something has come to, as far as it is known now.
    pub fn concerned(&self, sign: Sign) -> Vec<PodUid> {
        match sign {
            Sign::Pod(uid) => self.desired.keys().filter(|known| **known == uid).copied().collect(),
            Sign::Namespace(id) => {
                let seen = self.desired.keys().filter_map(|uid| self.inventory.pods.get(uid));
                seen.filter(|pod| pod.namespace_ids.contains(&id)).map(|pod| pod.uid).collect()
            }
        }
    }

    /// A look at one pod, for [`Self::cut_at_once`]; it needs the engine no more once it has begun. How long it takes is for
    /// the pod to say.
    pub fn look_at_pod(&self, uid: PodUid) -> impl Future<Output = Looked> + use<> {
        let scanner = self.scanner.clone();
        async move {
            let started = Instant::now();
            Looked { uid, started, seen: scanner.pod(uid).await }
        }
    }

    /// Cuts what a look at an isolated pod has found, and touches no other.
    pub fn cut_at_once(&mut self, looked: Looked) {
        let Looked { uid, seen, .. } = looked;
        let before = self.inventory.clone_of(&uid);
        match seen {
            Ok(Some(pod)) => {
                // What the kernel held of what was there before it is gone, and its numbers may be used again.
                self.look();
                let mut seen = Inventory { pods: [(uid, pod)].into(), node: None };
                remember(&self.inventory, &mut seen, &self.observed);
                self.inventory.pods.append(&mut seen.pods);
            }
            // A pass collects what it has left.
            Ok(None) => return,
            Err(error) => {
                return tracing::warn!(%uid, %error, "an isolated pod cannot be looked at; the next pass tries again");
            }
        }
        let (mut actions, _) = self.view().isolate(&[uid].into());
        let mut attached = 0;
        actions.retain(|action| {
            attached += usize::from(action.attaches_to_interface());
            !action.attaches_to_interface() || attached <= MOST_ATTACHED
        });
        if actions.is_empty() {
            return;
        }
        let found = self.observed.clone();
        let failed = self.apply_and_tell(&actions, &found, &before).len();
        // What waited was planned without this pod as it is now.
        self.to_arm = self.view().arm().into();
        tracing::info!(%uid, changes = actions.len(), failed, "what came to an isolated pod is cut");
    }
}

impl Inventory {
    /// What is known of one pod alone.
    fn clone_of(&self, uid: &PodUid) -> Self {
        Self { pods: self.pods.get(uid).map(|pod| (*uid, pod.clone())).into_iter().collect(), node: None }
    }
}
