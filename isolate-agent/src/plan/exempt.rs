//! What passes although its pod is isolated: given after the cut, taken away before anything else is done.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, View, links};
use crate::{allow::Range, desired::Entry, inventory::IfIndex, observed::Slot, pod::PodUid};

impl View<'_> {
    /// Brings what one pod is allowed up to date.
    pub(super) fn exempt(&self, entry: &Entry, slot: Slot, actions: &mut Vec<Action>) {
        let allowed = entry.allowed();
        for (range, rules) in &allowed {
            if self.observed.allowed.get(&(slot, *range)) != Some(rules) {
                actions.push(Action::SetAllowed(slot, *range, *rules));
            }
        }
        let known = self.observed.allowed.range((slot, Range::FIRST)..).take_while(|((of, _), _)| *of == slot);
        for ((slot, range), _) in known.filter(|((_, range), _)| !allowed.contains_key(range)) {
            actions.push(Action::DropAllowed(*slot, *range));
        }
    }

    /// Brings what the programs know of a host veth up to date. `holder` is the pod that it leads to already; if none, it
    /// will lead to `uid`, and what is known of it is another pod's.
    pub(super) fn know_link(&self, ifindex: IfIndex, uid: PodUid, holder: Option<PodUid>, actions: &mut Vec<Action>) {
        let (observed, uid) = (self.observed.links.get(&ifindex), holder.unwrap_or(uid));
        // An interface that came in the place of another has the hook not yet.
        let known = observed.filter(|_| holder.is_some() && self.observed.veth_is_live(ifindex));
        let (Some(entry), Some(pod)) = (self.desired.get(&uid), self.inventory.pods.get(&uid)) else { return };
        match links::facts(self.inventory, pod, ifindex, known, entry.has_exemptions()) {
            Some(facts) if observed != Some(&facts) => actions.push(Action::SetLink(ifindex, facts)),
            None if observed.is_some() => actions.push(Action::DropLink(ifindex)),
            _ => {}
        }
    }

    /// Tells the programs which cgroup is kubelet's, while that matters.
    pub(super) fn know_kubelet(&self, actions: &mut Vec<Action>) {
        let kubelet = self.kubelet.filter(|_| self.desired.values().any(Entry::keeps_probes));
        if self.observed.kubelet != kubelet {
            actions.push(Action::SetKubelet(kubelet));
        }
    }

    /// Takes away what no pod has any more.
    pub(super) fn release_exemptions(
        &self,
        wanted: &BTreeMap<Slot, PodUid>,
        taken: &BTreeSet<IfIndex>,
        actions: &mut Vec<Action>,
    ) {
        for (slot, range) in self.observed.allowed.keys().filter(|(slot, _)| !wanted.contains_key(slot)) {
            actions.push(Action::DropAllowed(*slot, *range));
        }
        // Kept as long as the key: what was fixed at the cut is not looked for anew because a pod is not seen for once.
        let goes = |ifindex: &&IfIndex| {
            let key = self.observed.veth_keys.get(ifindex).filter(|slot| wanted.contains_key(slot));
            !taken.contains(ifindex) && (key.is_none() || actions.contains(&Action::DropVethKey(**ifindex)))
        };
        let gone: Vec<Action> = self.observed.links.keys().filter(goes).copied().map(Action::DropLink).collect();
        actions.extend(gone);
    }
}
