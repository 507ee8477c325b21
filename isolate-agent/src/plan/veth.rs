//! The veth hook: how it gets onto a pod's host end, whose that is, and when it goes.

use std::collections::BTreeMap;

use isolate_common::{DIRECTIONS, Direction};

use super::{Action, View};
use crate::{
    inventory::{HostVeth, IfIndex, Pod},
    observed::{LinkState, Slot, uid_of},
    pod::PodUid,
    settings::Arm,
};

impl View<'_> {
    /// Attaching a link keeps those behind it waiting for RCU, and a pod must not be open meanwhile: where nothing is yet, a filter
    /// cuts, and its link can follow.
    pub(super) fn cut_veth(&self, veth: &HostVeth, actions: &mut Vec<Action>) {
        let open = DIRECTIONS.into_iter().filter(|direction| self.can_hold(veth, *direction));
        actions.extend(open.map(|direction| Action::HoldVeth(veth.clone(), direction)));
        self.attach_veth(veth, DIRECTIONS.into_iter(), actions);
    }

    fn can_hold(&self, veth: &HostVeth, direction: Direction) -> bool {
        let is_bare = !self.observed.veth_links.contains_key(&(veth.ifindex, direction));
        self.lingers && self.observed.filters_hold && veth.netkit.is_none() && is_bare
    }

    /// Whether a filter cuts there, or is to before anything else is done.
    pub(super) fn is_held(&self, veth: &HostVeth, direction: Direction) -> bool {
        let link = self.observed.veth_links.get(&(veth.ifindex, direction));
        (self.lingers && link == Some(&LinkState::Interim)) || self.can_hold(veth, direction)
    }

    /// A hook that is displaced sees only what the programs before it let through to it: it is put in front again,
    /// where it can be.
    pub(super) fn attach_veth(
        &self,
        veth: &HostVeth,
        directions: impl Iterator<Item = Direction>,
        actions: &mut Vec<Action>,
    ) {
        for direction in directions {
            if !self.observed.veth_links.get(&(veth.ifindex, direction)).is_some_and(|link| link.stands()) {
                actions.push(Action::AttachVeth(veth.clone(), direction));
            }
        }
    }

    /// The pod that a veth leads to, if that is the one in `slot` or another isolated pod that shares it: to this hook all
    /// isolated pods are the same.
    pub(super) fn holder(&self, ifindex: IfIndex, slot: Slot, occupied: &BTreeMap<PodUid, Slot>) -> Option<PodUid> {
        let key = self.observed.veth_keys.get(&ifindex)?;
        let shares = |uid: &PodUid| {
            self.desired.contains_key(uid)
                && occupied.get(uid) == Some(key)
                && self.inventory.pods.get(uid).is_some_and(|pod| pod.host_veths().any(|veth| veth.ifindex == ifindex))
        };
        let uid = self.observed.policies.get(key).map(uid_of)?;
        (*key == slot || shares(&uid)).then_some(uid)
    }

    /// Directions in which a hook of ours is at a host end that drops by itself.
    pub(super) fn unarmable(&self, ifindex: IfIndex) -> impl Iterator<Item = Direction> {
        let mut veths = self.inventory.pods.values().flat_map(Pod::host_veths);
        let veth = veths.find(|veth| veth.ifindex == ifindex);
        let is_attached = move |direction: &Direction| self.observed.veth_links.contains_key(&(ifindex, *direction));
        DIRECTIONS.into_iter().filter(move |d| veth.is_some_and(|veth| veth.is_blackhole(*d))).filter(is_attached)
    }
}

/// Whether a healthy pod's host end carries the hook: not where the device drops by itself what no program has decided on, which
/// it would not do any more.
pub fn arms(arm: Arm, veth: &HostVeth, direction: Direction) -> bool {
    arm == Arm::All && !veth.is_blackhole(direction)
}
