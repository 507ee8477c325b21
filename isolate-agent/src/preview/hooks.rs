//! The hooks that will hold: what `status` would say of the pod if everything that can be attached were. Pure.

use std::collections::BTreeMap;

use isolate_common::{Ask, DIRECTIONS, Policy};

use crate::{
    control::protocol::HookStatus,
    inventory::Pod,
    observed::{LinkState, NetdevKey, Observed, Slot},
    plan::{has_xdp, netdev_directions},
    status::{Hooks, Place, Unattachable},
};

/// Any slot will do.
const SLOT: Slot = Slot(1);

/// Every hook of the pod as it will be, and what that leaves open. `unattachable` is what the kernel refused already.
pub(super) fn foresee(pod: &Pod, has_lsm: bool, unattachable: &Unattachable) -> (Vec<HookStatus>, Vec<String>) {
    let policy = Policy { uid: pod.uid.bytes(), in_use: 1, ..Policy::default() };
    let mut will_be = Observed { policies: BTreeMap::from([(SLOT, policy)]), has_lsm, ..Observed::default() };
    for direction in DIRECTIONS {
        if let Some(cgroup) = &pod.cgroup {
            will_be.cgroup_keys.insert(cgroup.id, SLOT);
            will_be.cgroup_links.insert((cgroup.id, direction), LinkState::Holding);
        }
        for veth in pod.host_veths() {
            will_be.veth_keys.insert(veth.ifindex, SLOT);
            if !unattachable.contains_key(&Place::HostEnd(veth.ifindex)) {
                will_be.veth_links.insert((veth.ifindex, direction), LinkState::Holding);
            }
        }
    }
    if let Some(cgroup) = &pod.cgroup {
        will_be.lsm_links.extend(Ask::ALL.map(|ask| ((cgroup.id, ask), LinkState::Holding)));
    }
    for interface in &pod.interfaces {
        let Some(inside) = &interface.inside else { continue };
        let key = NetdevKey { slot: SLOT, namespace: inside.namespace, index: inside.index };
        will_be
            .netdev_links
            .extend(netdev_directions(interface).map(|direction| ((key, direction), LinkState::Holding)));
        if has_xdp(interface) {
            will_be.xdp_links.insert(key, LinkState::Holding);
        }
    }
    let hooks = Hooks::of(pod, Some(SLOT), &will_be, unattachable);
    (hooks.described(), hooks.open)
}
