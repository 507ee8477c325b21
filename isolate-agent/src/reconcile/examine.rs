//! What a verification needs to know of a pod.

use std::convert::Infallible;

use super::{Engine, remember, resolve::Purpose};
use crate::{
    control::protocol::{Code, Outcome, Verification},
    inventory::Inventory,
    pod::PodUid,
    status::Hooks,
    verify::{Examine, Examined, Subject},
};

impl Engine {
    /// Looks at an isolated pod anew. Changes nothing, not even what it finds missing; only what is still to follow its isolation is
    /// not waited for.
    pub async fn examine(&mut self, text: &str) -> Examined {
        self.look_for(&[text.to_owned()]).await;
        self.finish();
        match self.resolve(text, Purpose::Release) {
            Err(Outcome { query, uid, code, message, .. }) => {
                Examined::Other(Verification { query, uid, code, message, proofs: Vec::new(), open: Vec::new() })
            }
            Ok(uid) => self.look_closely(text, uid).await,
        }
    }

    async fn look_closely(&mut self, text: &str, uid: PodUid) -> Examined {
        let other = |code, message| {
            let (query, uid) = (text.to_owned(), Some(uid.to_string()));
            Examined::Other(Verification { query, uid, code, message, proofs: Vec::new(), open: Vec::new() })
        };
        let called = self.called(&uid);
        let Some(entry) = self.desired.get(&uid) else {
            let why = format!(
                "pod {uid} is not isolated, so there is nothing to verify; `isolate-agent add {uid}` isolates it"
            );
            return other(Code::NoSuchPod, why);
        };
        let allowed = entry.allowed();
        let keep_loopback = entry.record().is_some_and(|record| record.keep_loopback);
        let absent = || {
            format!(
                "pod {uid} is not on this node now: there is nothing to send probes to. It is isolated as soon as it is here"
            )
        };
        let mut seen = match self.scanner.pod(uid).await {
            Ok(Some(pod)) => Inventory { pods: [(uid, pod)].into(), node: None },
            Ok(None) => return other(Code::PartlyCovered, absent()),
            Err(error) => {
                return other(Code::Failed, format!("pod {called} cannot be looked at: {error}; it stays isolated"));
            }
        };
        let observed = match self.enforcer.observe() {
            Ok(observed) => observed,
            Err(error) => {
                return other(Code::Failed, format!("pod {called} cannot be looked at: {error}; it stays isolated"));
            }
        };
        remember(&self.inventory, &mut seen, &observed);
        let pod = seen.pods.remove(&uid).expect("it was put there above");
        let slot = observed.slots().get(&uid).copied();
        let counters = match self.enforcer.counters(&Vec::from_iter(slot)) {
            Ok(counters) => counters.into_values().next().unwrap_or_default(),
            Err(error) => {
                return other(Code::Failed, format!("pod {called} cannot be verified: {error}; it stays isolated"));
            }
        };
        let hooks = Hooks::of(&pod, slot, &observed, &self.unattachable);
        let (hooks, open) = (hooks.described(), hooks.open);
        let bpffs = self.settings.bpffs.clone();
        Examined::Isolated(Box::new(Subject { uid, pod, slot, keep_loopback, allowed, hooks, open, bpffs, counters }))
    }
}

impl Examine for Engine {
    type Error = Infallible;

    async fn examine(&mut self, text: &str) -> Result<Examined, Infallible> {
        Ok(Self::examine(self, text).await)
    }
}
