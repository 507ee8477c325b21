//! What the kernel holds of ours, as plain data: the planner's third input.

use std::collections::BTreeMap;

use isolate_common::{AllowRules, Ask, Direction, LinkFacts, Policy};

use crate::{
    allow::Range,
    inventory::{CgroupId, IfIndex},
    pod::PodUid,
};

/// Index of an isolated pod in the policy and counter maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

impl Slot {
    /// Never given out.
    pub const NOBODYS: Self = Self(0);
}

/// Maps and links, as the kernel shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Slots that the maps have room for, slot 0 left out.
    pub capacity: u32,
    /// Value of the gate.
    pub gate: u32,
    /// Slots in use.
    pub policies: BTreeMap<Slot, Policy>,
    /// Keys of the cgroup hook; [`Slot::NOBODYS`] where the two maps that hold them do not agree.
    pub cgroup_keys: BTreeMap<CgroupId, Slot>,
    /// Keys of the veth hook, likewise.
    pub veth_keys: BTreeMap<IfIndex, Slot>,
    /// The cgroup whose packets count as kubelet's.
    pub kubelet: Option<CgroupId>,
    /// What the programs know of isolated pods' host veths.
    pub links: BTreeMap<IfIndex, LinkFacts>,
    /// Addresses that pods may talk to.
    pub allowed: BTreeMap<(Slot, Range), AllowRules>,
    /// Pinned links of the cgroup hook.
    pub cgroup_links: BTreeMap<(CgroupId, Direction), LinkState>,
    /// Pinned links of the veth hook.
    pub veth_links: BTreeMap<(IfIndex, Direction), LinkState>,
    /// Pinned links of the netdev hook. Whether another program runs first inside the pod is not looked at.
    pub netdev_links: BTreeMap<(NetdevKey, Direction), LinkState>,
    /// Pinned links of its XDP programs, which see a frame before the pod's packet sockets do.
    pub xdp_links: BTreeMap<NetdevKey, LinkState>,
    /// Whether what goes into a pod has to come by its host end: nothing but ours is loaded that can hand frames over past it.
    pub host_ends_suffice: bool,
    /// Whether a filter can cut at a host end until its link is attached.
    pub filters_hold: bool,
    /// Whether the kernel took the programs of the LSM hook.
    pub has_lsm: bool,
    /// Pinned links of the LSM hook.
    pub lsm_links: BTreeMap<(CgroupId, Ask), LinkState>,
}

/// An interface inside a pod's namespace, and the slot that its programs were loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetdevKey {
    /// The slot.
    pub slot: Slot,
    /// Inode number of the namespace. Used again after its death; a link dies with the namespace.
    pub namespace: u64,
    /// Index of the interface there.
    pub index: u32,
}

/// What a pinned link is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Attached, and first in its chain where that matters.
    Holding,
    /// Attached, but another program runs first. Attaching anew puts ours in front.
    Displaced,
    /// The same, but ours cannot be put before it.
    Behind,
    /// Not attached, because the kernel refuses it: another program is there already.
    Refused,
    /// Nothing but a filter, first in its chain, where a link is to be: it cuts until a tcx program of somebody else runs before it.
    Interim,
    /// Its interface is there, and on it nothing of ours any more, or what an earlier agent has left, or attached in
    /// another way, or a program that drops what its pod is exempted from. Attaching anew mends it.
    Stale,
    /// Attached to nothing any more, or to something else.
    Defunct,
}

impl LinkState {
    /// Whether the interface or cgroup that it was attached to still exists.
    pub const fn is_live(self) -> bool {
        !matches!(self, Self::Defunct)
    }

    /// Whether it is attached as well as can be.
    pub const fn stands(self) -> bool {
        matches!(self, Self::Holding | Self::Behind | Self::Refused)
    }
}

/// The UID in a policy.
pub fn uid_of(policy: &Policy) -> PodUid {
    PodUid::new(policy.uid, policy.flags.contains(isolate_common::PolicyFlags::PLAIN_UID))
}

impl Observed {
    /// The slot of each pod: the lowest, should it have several.
    pub fn slots(&self) -> BTreeMap<PodUid, Slot> {
        self.policies.iter().rev().map(|(slot, policy)| (uid_of(policy), *slot)).collect()
    }

    /// Whether a live link is pinned for the cgroup.
    pub fn cgroup_is_live(&self, id: CgroupId) -> bool {
        is_live(&self.cgroup_links, id)
    }

    /// Whether a live link is pinned for the interface.
    pub fn veth_is_live(&self, ifindex: IfIndex) -> bool {
        is_live(&self.veth_links, ifindex)
    }
}

fn is_live<K: Copy + Ord>(links: &BTreeMap<(K, Direction), LinkState>, place: K) -> bool {
    isolate_common::DIRECTIONS
        .iter()
        .any(|direction| links.get(&(place, *direction)).is_some_and(|link| link.is_live()))
}
