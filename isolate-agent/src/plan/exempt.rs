//! What passes although its pod is isolated: given after the cut, taken away before anything else is done.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, View};
use crate::{
    allow::Range,
    desired::Entry,
    inventory::{IfIndex, Pod},
    observed::Slot,
    pod::PodUid,
};

impl View<'_> {
    /// Brings the exemptions of one pod up to date.
    pub(super) fn exempt(&self, entry: &Entry, pod: Option<&Pod>, slot: Slot, actions: &mut Vec<Action>) {
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
        for (ifindex, facts) in pod.into_iter().filter(|_| has_exemptions(entry)).flat_map(|pod| &pod.links) {
            if self.observed.links.get(ifindex) != Some(facts) {
                actions.push(Action::SetLink(*ifindex, *facts));
            }
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
    pub(super) fn release_exemptions(&self, wanted: &BTreeMap<Slot, PodUid>, actions: &mut Vec<Action>) {
        for (slot, range) in self.observed.allowed.keys().filter(|(slot, _)| !wanted.contains_key(slot)) {
            actions.push(Action::DropAllowed(*slot, *range));
        }
        let exempted = self.desired.iter().filter(|(_, entry)| has_exemptions(entry));
        let pods = exempted.filter_map(|(uid, _)| self.inventory.pods.get(uid));
        let links: BTreeSet<&IfIndex> = pods.flat_map(|pod| pod.links.keys()).collect();
        for ifindex in self.observed.links.keys().filter(|ifindex| !links.contains(ifindex)) {
            actions.push(Action::DropLink(*ifindex));
        }
    }
}

fn has_exemptions(entry: &Entry) -> bool {
    let record = entry.record();
    record.is_some_and(|record| !record.probe_ports.is_empty() || !record.allow.is_empty())
}
