//! From what is desired, what runs and what the kernel holds to what a person is shown. Pure: no I/O, no clock.

mod figures;
mod hooks;
mod power;

use std::{borrow::Cow, collections::BTreeMap};

pub use self::{
    figures::{Figures, PodFigures},
    hooks::{Hooks, drops_what_is_seen},
};
use crate::{
    control::protocol::{Coverage, Drops, Exempted, Isolation, Record as RecordState, Unarmed, UnarmedReason},
    desired::{Entry, Record},
    inventory::{HostVeth, IfIndex, Inventory, Pod, cri::PodFacts},
    observed::{NetdevKey, Observed},
    plan::arms,
    pod::{PodName, PodUid},
    settings::Arm,
};
use isolate_common::{Counter, DIRECTIONS, EXEMPTIONS, HOOKS, SlotCounters};

/// Where the kernel would not let a hook be attached, and what it said.
pub type Unattachable = BTreeMap<Place, String>;

/// An interface that a hook is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The host end of a pod's.
    HostEnd(IfIndex),
    /// One inside a pod.
    Inside(NetdevKey),
}

/// How far an isolated pod with these hooks is covered; without hooks it is not there.
fn coverage(hooks: Option<&Hooks<'_>>) -> Coverage {
    match hooks {
        None => Coverage::Absent,
        Some(hooks) if hooks.open.is_empty() => Coverage::Full,
        Some(_) => Coverage::Partial,
    }
}

/// Whether the record of an isolated pod is on disk.
const fn record_state(entry: &Entry) -> RecordState {
    match entry {
        Entry::Saved(_) => RecordState::Saved,
        Entry::Unsaved(_) => RecordState::Unsaved,
        Entry::Unreadable { .. } => RecordState::Unreadable,
    }
}

/// One isolated pod, in full.
pub fn isolation(
    uid: &PodUid,
    entry: &Entry,
    facts: Option<&PodFacts>,
    pod: Option<&Pod>,
    hooks: Option<Hooks<'_>>,
    counters: Option<&SlotCounters>,
) -> Isolation {
    let record = entry.record();
    let (by, reason) = match entry {
        Entry::Saved(record) | Entry::Unsaved(record) => (record.by.clone(), record.reason.clone()),
        Entry::Unreadable { why, .. } => ("unknown".to_owned(), Some(format!("its record cannot be read: {why}"))),
    };
    let name = name(facts, entry.record());
    Isolation {
        uid: uid.to_string(),
        namespace: name.map(|name| name.namespace().to_owned()),
        name: name.map(|name| name.name().to_owned()),
        labels: facts.map(|facts| facts.labels.clone()).unwrap_or_default(),
        ips: facts.map_or_else(Vec::new, |facts| facts.ips.iter().map(ToString::to_string).collect()),
        present: pod.is_some(),
        host_network: pod.is_some_and(|pod| pod.host_network),
        reason,
        by,
        since: entry.since(),
        keep_loopback: record.is_some_and(|record| record.keep_loopback),
        probe_ports: record.map(|record| record.probe_ports.iter().copied().collect()).unwrap_or_default(),
        allow: record.map(|record| record.allow.iter().map(ToString::to_string).collect()).unwrap_or_default(),
        until: record.and_then(|record| record.limit.as_ref()).map(|limit| limit.until),
        record: record_state(entry),
        coverage: coverage(hooks.as_ref()),
        hooks: hooks.as_ref().map_or_else(Vec::new, Hooks::described),
        open: hooks.map_or_else(Vec::new, |hooks| hooks.open),
        exempted: counters.map_or_else(Vec::new, exempted),
        drops: counters.map_or_else(Vec::new, drops),
    }
}

/// What a pod was called when it was isolated, or what the runtime calls it. Pods are not renamed: a runtime that says
/// something else later must not have another one released by that name.
pub fn name<'a>(facts: Option<&'a PodFacts>, record: Option<&'a Record>) -> Option<&'a PodName> {
    record.and_then(|record| record.pod.as_ref()).or_else(|| facts.and_then(PodFacts::name))
}

/// Left out where nothing ever passed.
fn exempted(counters: &SlotCounters) -> Vec<Exempted> {
    let mut exempted = Vec::new();
    for exemption in EXEMPTIONS {
        for hook in HOOKS {
            for direction in DIRECTIONS {
                let Counter { packets, bytes } = counters.exempted(exemption, hook, direction);
                let [exemption, hook, direction] = [exemption.name(), hook.name(), direction.name()].map(Cow::Borrowed);
                if packets > 0 {
                    exempted.push(Exempted { exemption, hook, direction, packets, bytes });
                }
            }
        }
    }
    exempted
}

fn drops(counters: &SlotCounters) -> Vec<Drops> {
    let mut drops = Vec::with_capacity(HOOKS.len() * DIRECTIONS.len());
    for hook in HOOKS {
        for direction in DIRECTIONS {
            let counter = counters.of(hook, direction);
            let (hook, direction) = (hook.name().into(), direction.name().into());
            drops.push(Drops { hook, direction, packets: counter.packets, bytes: counter.bytes });
        }
    }
    drops
}

/// Pods that are not armed, and why; and how many are.
pub fn arming(
    inventory: &Inventory,
    names: &BTreeMap<PodUid, PodFacts>,
    observed: &Observed,
    arm: Arm,
    unattachable: &Unattachable,
) -> (usize, Vec<Unarmed>) {
    let unarmed: Vec<Unarmed> = inventory
        .pods
        .values()
        .filter_map(|pod| {
            let (reason, detail) = why_unarmed(pod, observed, arm, unattachable)?;
            let name = name(names.get(&pod.uid), None).map(ToString::to_string);
            Some(Unarmed { uid: pod.uid.to_string(), pod: name, reason, detail })
        })
        .collect();
    (inventory.pods.len() - unarmed.len(), unarmed)
}

fn why_unarmed(
    pod: &Pod,
    observed: &Observed,
    arm: Arm,
    unattachable: &Unattachable,
) -> Option<(UnarmedReason, String)> {
    if pod.host_veths().next().is_none() {
        let (reason, detail) = if pod.host_network {
            (UnarmedReason::HostNetwork, "it uses the node's interfaces, which are never touched")
        } else if pod.namespaces == 0 {
            (UnarmedReason::NoProcess, "no process of it runs")
        } else {
            (UnarmedReason::NoHostEnd, "none of its interfaces has a host end")
        };
        return Some((reason, detail.to_owned()));
    }
    // A side that drops by itself gets its hook at the cut.
    let open = |veth: &&HostVeth| {
        let stands = |direction| observed.veth_links.get(&(veth.ifindex, direction)).is_some_and(|link| link.stands());
        DIRECTIONS.into_iter().any(|direction| !stands(direction) && arms(Arm::All, veth, direction))
    };
    let veth = pod.host_veths().find(open)?;
    Some(match (unattachable.get(&Place::HostEnd(veth.ifindex)), arm) {
        (Some(error), _) => (UnarmedReason::AttachFailed, error.clone()),
        (None, Arm::OnDemand) => (UnarmedReason::OnDemand, "the agent attaches only what is isolated".to_owned()),
        (None, Arm::All) => (UnarmedReason::Pending, format!("{} is about to be armed", veth.name)),
    })
}
