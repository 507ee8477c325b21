//! Which changes of a pass put back what somebody has undone: told from what held after the last change of ours, what was
//! found, and what was done. Pure.

use isolate_common::Hook;

use crate::{
    inventory::{Inside, Inventory, Pod},
    observed::{LinkState, Observed, Slot, uid_of},
    plan::{Action, NetdevPlace},
    pod::PodUid,
};

/// Something of an isolation that did not hold any more and was put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repair {
    /// Whose; none for what serves all pods.
    pub(super) uid: Option<PodUid>,
    /// What kind of thing.
    pub(super) what: Repaired,
    /// What had become of it, for a person.
    pub(super) text: String,
}

/// What was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repaired {
    /// A program that was detached, or that another one ran before.
    Hook(Hook),
    /// An entry of a map.
    Entry,
    /// A pin. What it led to has held all the time.
    Pin,
}

/// What a pass began with.
pub(super) struct Before<'a> {
    /// The kernel after the last change of ours.
    pub(super) known: &'a Observed,
    /// The kernel as it was found.
    pub(super) found: &'a Observed,
    /// The pods as they were before, and as they are.
    pub(super) inventories: [&'a Inventory; 2],
}

impl Before<'_> {
    /// The repair that an action is, if it is one: not what comes new, as a new sandbox does.
    pub(super) fn repair(&self, action: &Action) -> Option<Repair> {
        let Self { known, found, .. } = self;
        let hook = |slot: Option<&Slot>, hook: Hook, fate: &str, place: &str| {
            Some(Repair { uid: self.owner(slot), what: Repaired::Hook(hook), text: format!("{fate} {place}") })
        };
        let entry = |slot: &Slot, text: &str| {
            Some(Repair { uid: self.owner(Some(slot)), what: Repaired::Entry, text: text.to_owned() })
        };
        match action {
            Action::AttachCgroup(place, direction) => {
                let key = (place.id, *direction);
                let fate = fate(known.cgroup_links.get(&key), found.cgroup_links.get(&key))?;
                hook(known.cgroup_keys.get(&place.id), Hook::Cgroup, fate, &place.path.display().to_string())
            }
            Action::AttachLsm(place, ask) => {
                let key = (place.id, *ask);
                let fate = fate(known.lsm_links.get(&key), found.lsm_links.get(&key))?;
                hook(known.cgroup_keys.get(&place.id), Hook::Lsm, fate, &place.path.display().to_string())
            }
            Action::HoldVeth(veth, direction) | Action::AttachVeth(veth, direction) => {
                let key = (veth.ifindex, *direction);
                let fate = fate(known.veth_links.get(&key), found.veth_links.get(&key))?;
                hook(known.veth_keys.get(&veth.ifindex), Hook::Veth, fate, &veth.name)
            }
            Action::AttachNetdev(place, direction) if self.has_stayed(place) => {
                let key = (place.key, *direction);
                let fate = fate(known.netdev_links.get(&key), found.netdev_links.get(&key))?;
                hook(Some(&place.key.slot), Hook::Netdev, fate, &place.name)
            }
            Action::AttachXdp(place) if self.has_stayed(place) => {
                let fate = fate(known.xdp_links.get(&place.key), found.xdp_links.get(&place.key))?;
                hook(Some(&place.key.slot), Hook::Netdev, fate, &place.name)
            }
            Action::SetCgroupKey(id, slot) if known.cgroup_keys.get(id) == Some(slot) => {
                entry(slot, "its cgroup had lost its key in the map")
            }
            Action::SetVethKey(ifindex, slot) if known.veth_keys.get(ifindex) == Some(slot) => {
                entry(slot, "its veth had lost its key in the map")
            }
            Action::SetPolicy { slot, policy, .. } if known.policies.get(slot) == Some(policy) => {
                entry(slot, "its policy had been changed or deleted")
            }
            Action::OpenGate(gate) if known.gate & gate == *gate => {
                let text = "the gate of the programs had been shut".to_owned();
                Some(Repair { uid: None, what: Repaired::Entry, text })
            }
            _ => None,
        }
    }

    fn owner(&self, slot: Option<&Slot>) -> Option<PodUid> {
        self.known.policies.get(slot?).map(uid_of)
    }

    /// A new namespace can have the number of one that has just died, and the interfaces in it the same indexes.
    fn has_stayed(&self, place: &NetdevPlace) -> bool {
        let found = |inventory: &Inventory| {
            let pods = inventory.pods.values().flat_map(|pod: &Pod| &pod.interfaces);
            let here = |inside: &Inside| (inside.namespace, inside.index) == (place.key.namespace, place.key.index);
            pods.filter(|interface| interface.inside.as_ref().is_some_and(here)).map(|found| found.host.clone()).next()
        };
        let [before, now] = self.inventories.map(found);
        before.is_some() && before == now
    }
}

/// What had become of a hook that held; none if it did not hold before, or is gone with its place.
fn fate(known: Option<&LinkState>, found: Option<&LinkState>) -> Option<&'static str> {
    match (known, found) {
        (_, Some(LinkState::Displaced)) => Some("another program ran before it on"),
        (Some(known), Some(LinkState::Defunct)) if known.is_live() => Some("it had been detached from"),
        (Some(known), Some(LinkState::Stale)) if known.stands() => Some("it had been taken from"),
        (Some(known), None) if known.is_live() => Some("it was gone from"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use isolate_common::{Direction, Policy};

    use super::*;
    use crate::inventory::{HostVeth, IfIndex};

    const VETH: IfIndex = IfIndex(7);

    fn kernel(link: Option<LinkState>) -> Observed {
        let mut kernel = Observed::default();
        kernel.policies.insert(Slot(1), Policy { uid: [1; 16], in_use: 1, ..Policy::default() });
        kernel.veth_keys.insert(VETH, Slot(1));
        kernel.veth_links.extend(link.map(|link| ((VETH, Direction::In), link)));
        kernel
    }

    fn repair(known: Option<LinkState>, found: Option<LinkState>) -> Option<Repair> {
        let attach = Action::AttachVeth(HostVeth { ifindex: VETH, name: "veth7".into(), netkit: None }, Direction::In);
        let nobody = Inventory::default();
        let (known, found) = (kernel(known), kernel(found));
        Before { known: &known, found: &found, inventories: [&nobody, &nobody] }.repair(&attach)
    }

    #[test]
    fn what_held_and_does_not_is_repaired() {
        use LinkState::{Defunct, Displaced, Holding, Stale};
        for found in [Some(Displaced), Some(Defunct), Some(Stale), None] {
            let repair = repair(Some(Holding), found).expect("it held before");
            assert_eq!(repair.uid, Some(PodUid::new([1; 16], false)));
            assert_eq!(repair.what, Repaired::Hook(Hook::Veth));
            assert!(repair.text.ends_with("veth7"), "{}", repair.text);
        }
        assert!(repair(None, Some(Displaced)).is_some(), "displaced while no agent ran");
    }

    #[test]
    fn what_comes_new_is_no_repair() {
        assert_eq!(repair(None, None), None);
        assert_eq!(repair(None, Some(LinkState::Defunct)), None);
        assert_eq!(repair(Some(LinkState::Defunct), None), None);
        assert_eq!(repair(Some(LinkState::Stale), Some(LinkState::Stale)), None, "an earlier agent's");
    }
}
