//! From what is desired, what runs and what the kernel holds, to what must change. Pure: no I/O, no clock, no aya.
//!
//! The same input twice gives an empty plan once the first was carried out. Two rules keep it from ever letting a pod
//! out: the cut comes before every release in the order of actions, and what is cut for a desired pod stays so while the
//! pod has it, or while it exists and is no healthy pod's only way out.

mod action;
mod exempt;
mod links;
mod netdev;
mod veth;

use std::collections::{BTreeMap, BTreeSet};

use isolate_common::{Ask, DIRECTIONS, Direction, Policy, PolicyFlags, gate_for};

pub use self::{
    action::{Action, CgroupPlace, NetdevPlace},
    netdev::{has_xdp, netdev_directions},
    veth::arms,
};
use crate::{
    desired::Desired,
    inventory::{CgroupId, IfIndex, Interface, Inventory, Pod},
    observed::{LinkState, Observed, Slot, uid_of},
    pod::PodUid,
    settings::Arm,
};

/// What the planner looks at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What is to be isolated.
    pub desired: &'a Desired,
    /// What runs.
    pub inventory: &'a Inventory,
    /// What the kernel holds.
    pub observed: &'a Observed,
    /// Which pods carry the veth hook before they are isolated.
    pub arm: Arm,
    /// The cgroup that kubelet runs in, where it is known.
    pub kubelet: Option<CgroupId>,
    /// Whether there is somebody who carries out [`Plan::arm`].
    pub lingers: bool,
}

/// What cuts pods.
struct Cut {
    actions: Vec<Action>,
    /// Those that guard where nothing can come by now.
    following: Vec<Action>,
    slots: BTreeMap<PodUid, Slot>,
    /// Pods for which there is no slot.
    no_slot: Vec<PodUid>,
}

/// What must change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes for isolated and released pods, in order.
    pub enforce: Vec<Action>,
    /// What guards isolated pods where nothing can come by now, attaching to healthy ones, and collecting what is left of dead ones:
    /// slow, and never urgent.
    pub arm: Vec<Action>,
    /// Desired pods for which there is no slot.
    pub no_slot: Vec<PodUid>,
}

impl View<'_> {
    /// Everything that must change on the node.
    pub fn plan(&self) -> Plan {
        let Cut { actions: mut enforce, following: mut arm, slots, no_slot } = self.cut(self.desired.keys());
        self.release(&slots, &mut enforce);
        action::sort(&mut enforce);
        let mut keyed: BTreeSet<IfIndex> = self.observed.veth_keys.keys().copied().collect();
        for action in &enforce {
            match action {
                Action::SetVethKey(ifindex, _) => keyed.insert(*ifindex),
                Action::DropVethKey(ifindex) => keyed.remove(ifindex),
                _ => false,
            };
        }
        arm.extend(self.arm_beside(&keyed));
        Plan { enforce, arm, no_slot }
    }

    /// What must change to isolate these pods, and those for which there is no slot. Touches nothing else; [`Self::arm`] tells
    /// what may follow then.
    pub fn isolate(&self, uids: &BTreeSet<PodUid>) -> (Vec<Action>, Vec<PodUid>) {
        let Cut { mut actions, no_slot, .. } = self.cut(uids.iter());
        action::sort(&mut actions);
        (actions, no_slot)
    }

    fn cut<'u>(&self, uids: impl Iterator<Item = &'u PodUid>) -> Cut {
        let (mut actions, mut slots, mut no_slot) = (Vec::new(), BTreeMap::new(), Vec::new());
        let occupied = self.observed.slots();
        let mut vacant = self.vacant_slots();
        let mut gate = self.observed.gate;
        let mut keyed = BTreeSet::new();
        let homes = self.homes();
        for uid in uids {
            let Some(entry) = self.desired.get(uid) else { continue };
            let known = occupied.get(uid).copied();
            let Some(slot) = known.or_else(|| vacant.next()) else {
                no_slot.push(*uid);
                continue;
            };
            slots.insert(*uid, slot);
            let policy = entry.policy(uid);
            if self.observed.policies.get(&slot) != Some(&policy) {
                actions.push(Action::SetPolicy { slot, policy, fresh: known.is_none() });
            }
            gate |= gate_for(self.inventory.pods.get(uid).map(level).into_iter());
            self.exempt(entry, slot, &mut actions);
            if let Some(pod) = self.inventory.pods.get(uid) {
                self.cut_cgroup(pod, slot, &mut actions);
                for veth in homes.leave(pod).filter_map(|interface| interface.host.as_ref()) {
                    if keyed.insert(veth.ifindex) {
                        let holder = self.holder(veth.ifindex, slot, &occupied);
                        if holder.is_none() {
                            actions.push(Action::SetVethKey(veth.ifindex, slot));
                        }
                        self.know_link(veth.ifindex, *uid, holder, &mut actions);
                    }
                    self.cut_veth(veth, &mut actions);
                }
                let was_exempted = self.observed.policies.get(&slot).is_some_and(has_exemptions);
                let renewed = has_exemptions(&policy) && !was_exempted;
                self.attach_netdev(homes.leave(pod), slot, renewed, &mut actions);
            }
        }
        self.keep_one_xdp_each(&occupied, &mut actions);
        if gate != self.observed.gate {
            actions.push(Action::OpenGate(gate));
        }
        self.know_kubelet(&mut actions);
        let (following, actions) = actions.into_iter().partition(|action| self.can_follow(action));
        Cut { actions, following, slots, no_slot }
    }

    fn cut_cgroup(&self, pod: &Pod, slot: Slot, actions: &mut Vec<Action>) {
        let Some(cgroup) = &pod.cgroup else { return };
        if self.observed.cgroup_keys.get(&cgroup.id) != Some(&slot) {
            actions.push(Action::SetCgroupKey(cgroup.id, slot));
        }
        let place = || CgroupPlace { id: cgroup.id, path: cgroup.path.clone() };
        for direction in DIRECTIONS {
            if self.observed.cgroup_links.get(&(cgroup.id, direction)) != Some(&LinkState::Holding) {
                actions.push(Action::AttachCgroup(place(), direction));
            }
        }
        for ask in Ask::ALL.into_iter().filter(|_| self.observed.has_lsm) {
            if self.observed.lsm_links.get(&(cgroup.id, ask)) != Some(&LinkState::Holding) {
                actions.push(Action::AttachLsm(place(), ask));
            }
        }
    }

    /// The ways out of healthy pods.
    fn homes(&self) -> Homes {
        let mut homes = Homes::default();
        for pod in self.inventory.pods.values().filter(|pod| !self.desired.contains_key(&pod.uid)) {
            for interface in &pod.interfaces {
                let place = interface.inside.as_ref().map(|inside| (inside.namespace, inside.index));
                homes.others.extend(place);
                homes.other_veths.extend(host_index(interface));
                if pod.namespaces == 1 && !interface.claimed {
                    homes.veths.extend(host_index(interface));
                    homes.inside.extend(place);
                }
            }
        }
        homes
    }

    /// Slots that neither hold a pod nor are led to by a key or a netdev hook.
    fn vacant_slots(&self) -> impl Iterator<Item = Slot> {
        let keys = self.observed.cgroup_keys.values().chain(self.observed.veth_keys.values());
        let netdevs = self.observed.netdev_links.keys().map(|(key, _)| key).chain(self.observed.xdp_links.keys());
        let netdevs = netdevs.map(|key| &key.slot);
        let allowed = self.observed.allowed.keys().map(|(slot, _)| slot);
        let used = keys.chain(netdevs).chain(allowed).chain(self.observed.policies.keys());
        let used: BTreeSet<Slot> = used.copied().collect();
        (1..=self.observed.capacity).map(Slot).filter(move |slot| !used.contains(slot))
    }

    fn release(&self, slots: &BTreeMap<PodUid, Slot>, actions: &mut Vec<Action>) {
        let wanted: BTreeMap<Slot, PodUid> = slots.iter().map(|(uid, slot)| (*slot, *uid)).collect();
        let cgroups = self.owners(|pod| pod.cgroup.iter().map(|cgroup| cgroup.id).collect());
        let veths = self.owners(|pod| pod.host_veths().map(|veth| veth.ifindex).collect());
        let homes = self.homes();

        let mut kept = BTreeSet::new();
        for (id, slot) in &self.observed.cgroup_keys {
            let owner = cgroups.get(id);
            if keeps(wanted.get(slot), owner, self.observed.cgroup_is_live(*id) && owner.is_none()) {
                kept.insert(*id);
            } else if !self.is_rekeyed(cgroups.get(id)) {
                actions.push(Action::DropCgroupKey(*id));
            }
        }
        let taken: BTreeSet<IfIndex> =
            self.isolated_pods().flat_map(|pod| homes.leave(pod)).filter_map(host_index).collect();
        for (ifindex, slot) in &self.observed.veth_keys {
            let unclaimed = self.observed.veth_is_live(*ifindex) && !homes.veths.contains(ifindex);
            if !keeps(wanted.get(slot), veths.get(ifindex), unclaimed) && !taken.contains(ifindex) {
                actions.extend(self.unarmable(*ifindex).map(|direction| Action::DisarmVeth(*ifindex, direction)));
                actions.push(Action::DropVethKey(*ifindex));
            }
        }
        let goes = |id: &CgroupId, state: &LinkState| {
            let owner = cgroups.get(id);
            match state {
                // Attaching anew replaces the pin.
                LinkState::Defunct => !self.is_rekeyed(owner),
                _ if kept.contains(id) || self.is_rekeyed(owner) => false,
                // Without a key and a pod it cuts somebody whom nobody knows: not ours to let out.
                _ => self.observed.cgroup_keys.contains_key(id) || owner.is_some(),
            }
        };
        let links = self.observed.cgroup_links.iter().filter(|((id, _), state)| goes(id, state));
        actions.extend(links.map(|((id, direction), _)| Action::DetachCgroup(*id, *direction)));
        let links = self.observed.lsm_links.iter().filter(|((id, _), state)| goes(id, state));
        actions.extend(links.map(|((id, ask), _)| Action::DetachLsm(*id, *ask)));
        self.release_netdevs(&wanted, &homes, actions);
        self.release_exemptions(&wanted, &taken, actions);
        for slot in self.observed.policies.keys() {
            if !wanted.contains_key(slot) {
                actions.push(Action::Vacate(*slot));
            }
        }
        let gate = self.gate_in_use(&kept);
        let open = actions.iter().find_map(|action| match action {
            Action::OpenGate(gate) => Some(*gate),
            _ => None,
        });
        if gate != open.unwrap_or(self.observed.gate) {
            actions.push(Action::NarrowGate(gate));
        }
    }

    fn isolated_pods(&self) -> impl Iterator<Item = &Pod> {
        self.desired.keys().filter_map(|uid| self.inventory.pods.get(uid))
    }

    /// Whether one of the owners of a key is desired: then the cut keys it, whatever it led to before.
    fn is_rekeyed(&self, owners: Option<&BTreeSet<PodUid>>) -> bool {
        owners.is_some_and(|owners| owners.iter().any(|uid| self.desired.contains_key(uid)))
    }

    /// The gate for all desired pods. A key that is kept although its pod is not seen has a level that is not known.
    fn gate_in_use(&self, kept: &BTreeSet<CgroupId>) -> u32 {
        let present = self.desired.keys().filter_map(|uid| self.inventory.pods.get(uid));
        let seen: BTreeSet<CgroupId> =
            present.clone().filter_map(|pod| pod.cgroup.as_ref()).map(|cgroup| cgroup.id).collect();
        let unseen = kept.difference(&seen).map(|_| None);
        gate_for(present.map(level).chain(unseen)) | gate_for(self.desired.keys().map(|_| Some(0)))
    }

    fn owners<K: Ord>(&self, keys: impl Fn(&Pod) -> Vec<K>) -> BTreeMap<K, BTreeSet<PodUid>> {
        let mut owners: BTreeMap<K, BTreeSet<PodUid>> = BTreeMap::new();
        for pod in self.inventory.pods.values() {
            for key in keys(pod) {
                owners.entry(key).or_default().insert(pod.uid);
            }
        }
        owners
    }

    /// What is slow and not urgent, in order.
    pub fn arm(&self) -> Vec<Action> {
        let mut actions = self.following();
        actions.extend(self.arm_beside(&self.observed.veth_keys.keys().copied().collect()));
        actions
    }

    /// Nothing is detached from what is `keyed`: it is cut, whoever it is seen with.
    fn arm_beside(&self, keyed: &BTreeSet<IfIndex>) -> Vec<Action> {
        let healthy = self.inventory.pods.values().filter(|pod| !self.desired.contains_key(&pod.uid));
        let mut actions = Vec::new();
        for veth in healthy.flat_map(Pod::host_veths) {
            let is_armed = |direction: &Direction| arms(self.arm, veth, *direction);
            self.attach_veth(veth, DIRECTIONS.into_iter().filter(is_armed), &mut actions);
            if !keyed.contains(&veth.ifindex) {
                let held = |direction: &Direction| self.observed.veth_links.contains_key(&(veth.ifindex, *direction));
                let goes = |direction: &Direction| held(direction) && !is_armed(direction);
                let detach = |direction| Action::DetachVeth(veth.ifindex, direction);
                actions.extend(DIRECTIONS.into_iter().filter(goes).map(detach));
            }
        }
        let known = self.owners(|pod| pod.host_veths().map(|veth| veth.ifindex).collect());
        for ((ifindex, direction), state) in &self.observed.veth_links {
            if *state == LinkState::Defunct && !known.contains_key(ifindex) {
                actions.push(Action::DetachVeth(*ifindex, *direction));
            }
        }
        actions.sort();
        actions.dedup();
        actions
    }
}

/// Interfaces that are the only ways out of some healthy pod. They are cut for nobody else: a process can enter another
/// pod's namespace, and all hostNetwork pods of a nested node have that node's interfaces.
///
/// What the container runtime says makes none of them, or it could let somebody out. And where it says alone that an
/// interface is a pod's, that one is not cut if it is a healthy pod's in any way.
#[derive(Debug, Default)]
struct Homes {
    veths: BTreeSet<IfIndex>,
    inside: BTreeSet<(u64, u32)>,
    /// Those that healthy pods have, their only ones or not.
    other_veths: BTreeSet<IfIndex>,
    others: BTreeSet<(u64, u32)>,
}

impl Homes {
    /// The interfaces that may be cut for `pod`.
    fn leave<'p>(&self, pod: &'p Pod) -> impl Iterator<Item = &'p Interface> {
        pod.interfaces.iter().filter(|interface| {
            let (veths, inside) =
                if interface.claimed { (&self.other_veths, &self.others) } else { (&self.veths, &self.inside) };
            match (&interface.host, &interface.inside) {
                (Some(veth), _) => !veths.contains(&veth.ifindex),
                (None, Some(place)) => !inside.contains(&(place.namespace, place.index)),
                (None, None) => true,
            }
        })
    }
}

fn has_exemptions(policy: &Policy) -> bool {
    policy.flags.intersects(PolicyFlags::EXEMPTIONS)
}

fn host_index(interface: &Interface) -> Option<IfIndex> {
    interface.host.as_ref().map(|veth| veth.ifindex)
}

/// Whether a key stays that leads to the slot of `desired`: as long as its pod has what it matches, or nobody has a
/// better claim to it and it is there.
fn keeps(desired: Option<&PodUid>, owners: Option<&BTreeSet<PodUid>>, unclaimed: bool) -> bool {
    desired.is_some_and(|uid| unclaimed || owners.is_some_and(|owners| owners.contains(uid)))
}

fn level(pod: &Pod) -> Option<u32> {
    match &pod.cgroup {
        Some(cgroup) => cgroup.level,
        // No cgroup hook, so no level to look at: bit 0 opens the veth hook.
        None => Some(0),
    }
}

/// Pods that the kernel isolates and no record names: they were cut, and what became of the record is not known.
///
/// A slot in use names its pod. A key to a vacant slot and a cgroup hook without a key cut a pod as well; whose they
/// are, the inventory says.
pub fn recovered(desired: &Desired, inventory: &Inventory, observed: &Observed) -> BTreeMap<PodUid, Policy> {
    let mut found: BTreeMap<PodUid, Policy> =
        observed.policies.values().map(|policy| (uid_of(policy), *policy)).collect();
    let vacant = |slot: &Slot| !observed.policies.contains_key(slot);
    for pod in inventory.pods.values() {
        let cgroup_cut = pod.cgroup.as_ref().is_some_and(|cgroup| {
            observed.cgroup_keys.get(&cgroup.id).is_some_and(vacant)
                || (!observed.cgroup_keys.contains_key(&cgroup.id) && observed.cgroup_is_live(cgroup.id))
        });
        let mut veths = pod.host_veths();
        if cgroup_cut || veths.any(|veth| observed.veth_keys.get(&veth.ifindex).is_some_and(vacant)) {
            let strict = Policy { uid: pod.uid.bytes(), in_use: 1, ..Policy::default() };
            found.entry(pod.uid).or_insert(strict);
        }
    }
    found.retain(|uid, _| !desired.contains_key(uid));
    found
}

#[cfg(test)]
mod tests;
