//! A sandbox that was just made: armed or cut before its containers start, while the runtime waits.

use std::{collections::VecDeque, path::PathBuf};

use super::{Engine, remember};
use crate::{
    inventory::{IfIndex, Inventory, Pod},
    plan::Action,
    pod::PodUid,
};

impl Engine {
    /// Looks at the one pod, and does for it alone what a pass would do. `netns` is where its runtime keeps its namespace:
    /// no process may live there yet.
    pub async fn sandbox(&mut self, uid: PodUid, netns: Option<PathBuf>) {
        match self.scanner.sandbox(uid, netns).await {
            Ok(Some(pod)) => {
                // What the kernel held of the sandbox before it is gone, and its numbers may be used again.
                self.look();
                let mut seen = Inventory { pods: [(uid, pod)].into(), node: None };
                remember(&self.inventory, &mut seen, &self.observed);
                self.inventory.pods.append(&mut seen.pods);
            }
            Ok(None) => return tracing::debug!(%uid, "a sandbox whose pod has no cgroup yet; events tell when it has"),
            Err(error) => {
                return tracing::warn!(%uid, %error, "a new sandbox cannot be looked at; the next pass tries again");
            }
        }
        if self.desired.contains_key(&uid) {
            let (actions, _) = self.view().isolate(&[uid].into());
            // What fails is logged there, and tried again by the next pass.
            let errors = self.apply(&actions);
            tracing::info!(%uid, changes = actions.len(), failed = errors.len(), "a new sandbox of an isolated pod is cut");
        } else {
            self.arm_first(uid);
        }
        // What waited was planned without this pod as it is now.
        self.to_arm = self.view().arm().into();
    }

    /// Arms one healthy pod before the others.
    fn arm_first(&mut self, uid: PodUid) {
        let pod = self.inventory.pods.get(&uid);
        let veths: Vec<IfIndex> = pod.into_iter().flat_map(Pod::host_veths).map(|veth| veth.ifindex).collect();
        let is_its = |action: &Action| matches!(action, Action::AttachVeth(veth, _) if veths.contains(&veth.ifindex));
        let its: VecDeque<Action> = self.view().arm().into_iter().filter(is_its).collect();
        self.to_arm = its;
        while self.wants_to_arm() {
            self.arm_next();
        }
    }
}
