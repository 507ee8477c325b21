//! The netdev hook: which interfaces inside pods it is attached to, in which directions, and when it goes. And what may follow
//! a cut.

use std::collections::{BTreeMap, BTreeSet};

use isolate_common::{DIRECTIONS, Direction};

use super::{Action, Homes, NetdevPlace, View, keeps};
use crate::{
    inventory::{Inside, Interface},
    observed::{LinkState, NetdevKey, Slot},
    pod::PodUid,
};

/// Directions in which the netdev hook has something to cut. What goes out of an interface with a host end comes by
/// there; only what comes in can be handed over past it.
pub fn netdev_directions(interface: &Interface) -> impl Iterator<Item = Direction> {
    let has_host_end = interface.host.is_some();
    DIRECTIONS.into_iter().filter(move |direction| *direction == Direction::In || !has_host_end)
}

/// Whether XDP drops what comes in there before a packet socket sees it: where a CNI can hand frames over past the host end. Not
/// on what shares a device of the node's (macvlan, ipvlan): nobody could attach XDP to that one then (`dev_xdp_attach`).
pub const fn has_xdp(interface: &Interface) -> bool {
    interface.host.is_some()
}

impl View<'_> {
    /// With exemptions that are new (`renewed`), what drops all that comes in has to give way to what reads it.
    pub(super) fn attach_netdev<'p>(
        &self,
        own: impl Iterator<Item = &'p Interface>,
        slot: Slot,
        renewed: bool,
        actions: &mut Vec<Action>,
    ) {
        for interface in own {
            let Some(Inside { namespace, index, way }) = &interface.inside else { continue };
            let key = NetdevKey { slot, namespace: *namespace, index: *index };
            let (has_host_end, name) = (interface.host.is_some(), interface.name.clone());
            let place = NetdevPlace { has_host_end, key, way: way.clone(), name };
            for direction in netdev_directions(interface) {
                let stands = self.observed.netdev_links.get(&(key, direction)).is_some_and(|link| link.stands());
                if !stands || (renewed && direction == Direction::In) {
                    actions.push(Action::AttachNetdev(place.clone(), direction));
                }
            }
            let stands = self.observed.xdp_links.get(&key).is_some_and(|link| link.stands());
            if has_xdp(interface) && (!stands || renewed) {
                actions.push(Action::AttachXdp(place));
            }
        }
    }

    /// Whether a change can be made after its pod is called isolated: it attaches a link where a filter cuts, or it guards a way past a
    /// host end that nobody can take now, and where nothing has guarded it before.
    pub(super) fn can_follow(&self, action: &Action) -> bool {
        // By whatever slot's program.
        let same = |a: &NetdevKey, b: &NetdevKey| (a.namespace, a.index) == (b.namespace, b.index);
        let guarded = match action {
            Action::AttachVeth(veth, direction) => return self.is_held(veth, *direction),
            Action::AttachNetdev(place, direction) if place.has_host_end => {
                let mut links = self.observed.netdev_links.keys();
                links.any(|(key, other)| other == direction && same(key, &place.key))
            }
            Action::AttachXdp(place) => self.observed.xdp_links.keys().any(|key| same(key, &place.key)),
            _ => return false,
        };
        self.lingers && self.observed.host_ends_suffice && !guarded
    }

    /// Those changes, for all isolated pods.
    pub(super) fn following(&self) -> Vec<Action> {
        let (mut actions, homes, occupied) = (Vec::new(), self.homes(), self.observed.slots());
        for pod in self.isolated_pods() {
            if let Some(slot) = occupied.get(&pod.uid) {
                self.attach_netdev(homes.leave(pod), *slot, false, &mut actions);
                let veths = homes.leave(pod).filter_map(|interface| interface.host.as_ref());
                veths.for_each(|veth| self.attach_veth(veth, DIRECTIONS.into_iter(), &mut actions));
            }
        }
        self.keep_one_xdp_each(&occupied, &mut actions);
        actions.retain(|action| self.can_follow(action));
        actions
    }

    /// An interface takes one XDP program: isolated pods that share it share the first one's.
    pub(super) fn keep_one_xdp_each(&self, occupied: &BTreeMap<PodUid, Slot>, actions: &mut Vec<Action>) {
        let place = |key: &NetdevKey| (key.namespace, key.index);
        let own = occupied.iter().filter(|(uid, _)| self.desired.contains_key(uid)).map(|(_, slot)| slot);
        let own: BTreeSet<&Slot> = own.collect();
        let links = self.observed.xdp_links.iter();
        let holding = links.filter(|(key, link)| **link == LinkState::Holding && own.contains(&key.slot));
        let mut holders: BTreeMap<(u64, u32), Slot> = holding.map(|(key, _)| (place(key), key.slot)).collect();
        actions.retain(|action| match action {
            Action::AttachXdp(at) => *holders.entry(place(&at.key)).or_insert(at.key.slot) == at.key.slot,
            _ => true,
        });
    }

    pub(super) fn release_netdevs(&self, wanted: &BTreeMap<Slot, PodUid>, homes: &Homes, actions: &mut Vec<Action>) {
        let place = |interface: &Interface| interface.inside.as_ref().map(|inside| (inside.namespace, inside.index));
        let owners = self.owners(|pod| pod.interfaces.iter().filter_map(place).collect());
        let slots: BTreeMap<&PodUid, &Slot> = wanted.iter().map(|(slot, uid)| (uid, slot)).collect();
        // What is attached anew replaces the pin; a pod that there is no slot for keeps what cuts it.
        let renewed: BTreeSet<NetdevKey> = self
            .isolated_pods()
            .filter_map(|pod| slots.get(&pod.uid).map(|slot| (**slot, pod)))
            .flat_map(|(slot, pod)| homes.leave(pod).filter_map(place).map(move |place| (slot, place)))
            .map(|(slot, (namespace, index))| NetdevKey { slot, namespace, index })
            .collect();
        let without_slot = |uid: &PodUid| self.desired.contains_key(uid) && !slots.contains_key(uid);
        let goes = |key: &NetdevKey, state: &LinkState| {
            let (place, live) = ((key.namespace, key.index), state.is_live());
            let owners = owners.get(&place);
            let needed = live && owners.is_some_and(|owners| owners.iter().any(without_slot));
            let unclaimed = live && !homes.inside.contains(&place);
            let kept = live && keeps(wanted.get(&key.slot), owners, unclaimed);
            !renewed.contains(key) && !needed && !kept
        };
        let links = self.observed.xdp_links.iter().filter(|(key, state)| goes(key, state));
        actions.extend(links.map(|(key, _)| Action::DetachXdp(*key)));
        let links = self.observed.netdev_links.iter().filter(|((key, _), state)| goes(key, state));
        actions.extend(links.map(|((key, direction), _)| Action::DetachNetdev(*key, *direction)));
    }
}
