//! What can be changed in the kernel, as plain data.

use std::path::PathBuf;

use isolate_common::{AllowRules, Ask, Direction, LinkFacts, Policy};

use crate::{
    allow::Range,
    inventory::{CgroupId, HostVeth, IfIndex, Way},
    observed::{NetdevKey, Slot},
};

/// One change in the kernel. The order of the variants is the order in which they are carried out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Forgets addresses that a pod was allowed to talk to.
    DropAllowed(Slot, Range),
    /// Forgets the two sides of a host veth: no question for a hardware address is answered there, and no frame leaves.
    DropLink(IfIndex),
    /// Puts a pod into a slot; its counters start at zero if the slot was another's.
    SetPolicy {
        /// The slot.
        slot: Slot,
        /// What goes into it.
        policy: Policy,
        /// Whether the slot was not this pod's before.
        fresh: bool,
    },
    /// Leads a cgroup to a slot.
    SetCgroupKey(CgroupId, Slot),
    /// Leads a host veth to a slot: from here on its frames are dropped, where the veth is armed.
    SetVethKey(IfIndex, Slot),
    /// Lets the programs look up keys; never forgets a level that is in use.
    OpenGate(u32),
    /// Attaches the cgroup hook.
    AttachCgroup(CgroupPlace, Direction),
    /// Has a filter be the veth hook of an isolated pod until its link is attached, where it comes first; else attaches the link.
    HoldVeth(HostVeth, Direction),
    /// Attaches the veth hook.
    AttachVeth(HostVeth, Direction),
    /// Attaches the netdev hook inside an isolated pod.
    AttachNetdev(NetdevPlace, Direction),
    /// Attaches its XDP program, which drops what comes in before a packet socket in the pod sees it.
    AttachXdp(NetdevPlace),
    /// Says which cgroup is kubelet's; none lets no probe pass.
    SetKubelet(Option<CgroupId>),
    /// Says who is at the two sides of a host veth.
    SetLink(IfIndex, LinkFacts),
    /// Lets a pod talk to addresses.
    SetAllowed(Slot, Range, AllowRules),
    /// Attaches the LSM hook.
    AttachLsm(CgroupPlace, Ask),
    /// Detaches the LSM hook, or collects its pin.
    DetachLsm(CgroupId, Ask),
    /// Detaches that XDP program, or collects its pin.
    DetachXdp(NetdevKey),
    /// Detaches the netdev hook, or collects its pin.
    DetachNetdev(NetdevKey, Direction),
    /// Detaches the cgroup hook, or collects its pin.
    DetachCgroup(CgroupId, Direction),
    /// Detaches the veth hook of a pod that is released from a side of its netkit device that drops by itself: alone there,
    /// ours would open it.
    DisarmVeth(IfIndex, Direction),
    /// Forgets a cgroup.
    DropCgroupKey(CgroupId),
    /// Forgets a host veth: an armed one passes frames again.
    DropVethKey(IfIndex),
    /// Shuts the gate, or narrows it to the levels in use.
    NarrowGate(u32),
    /// Frees a slot.
    Vacate(Slot),
    /// Collects the pin of a veth hook whose interface is gone, or that is not wanted any more.
    DetachVeth(IfIndex, Direction),
}

/// A pod-level cgroup to attach to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CgroupPlace {
    /// Its id.
    pub id: CgroupId,
    /// Its directory.
    pub path: PathBuf,
}

/// An interface inside a pod's namespace to attach to. Those without a host end come first: nothing else cuts them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetdevPlace {
    /// Whether its frames pass a host veth as well.
    pub has_host_end: bool,
    /// Which interface, for whom.
    pub key: NetdevKey,
    /// What leads to the namespace.
    pub way: Way,
    /// The interface's name there.
    pub name: String,
}

/// Into the order in which they are carried out. Attaching to an interface holds at once and returns some 10 ms later, when
/// RCU has come round: so what leads out of the pods is cut on all of their interfaces before what leads in is on any.
pub(super) fn sort(actions: &mut [Action]) {
    actions.sort();
    let same = |a: &Action, b: &Action| std::mem::discriminant(a) == std::mem::discriminant(b);
    for of_one_kind in actions.chunk_by_mut(same) {
        of_one_kind.sort_by_key(|action| match action {
            Action::HoldVeth(_, direction) | Action::AttachVeth(_, direction) => *direction == Direction::In,
            Action::AttachNetdev(place, direction) => place.has_host_end || *direction == Direction::In,
            _ => false,
        });
    }
}

impl Action {
    /// Whether it attaches to something; what does not, and cuts, comes before all that do.
    pub(crate) const fn attaches(&self) -> bool {
        matches!(self, Self::AttachCgroup(..) | Self::AttachXdp(_) | Self::AttachLsm(..))
            || self.attaches_to_interface()
    }

    /// Whether it attaches to an interface, which takes long, or may.
    pub(crate) const fn attaches_to_interface(&self) -> bool {
        matches!(self, Self::HoldVeth(..) | Self::AttachVeth(..) | Self::AttachNetdev(..))
    }

    /// What [`Self::step`] gives.
    #[cfg(feature = "fault-injection")]
    pub(crate) const STEPS: [&str; 16] = [
        "SetPolicy",
        "SetCgroupKey",
        "SetVethKey",
        "OpenGate",
        "AttachCgroup",
        "HoldVeth",
        "AttachVeth",
        "AttachNetdev",
        "AttachXdp",
        "DetachXdp",
        "DetachNetdev",
        "DetachCgroup",
        "DropCgroupKey",
        "DropVethKey",
        "NarrowGate",
        "Vacate",
    ];

    /// The name of what it does. Collecting pins is no step: nothing hangs on it.
    pub(crate) const fn step(&self) -> Option<&'static str> {
        Some(match self {
            Self::SetPolicy { .. } => "SetPolicy",
            Self::SetCgroupKey(..) => "SetCgroupKey",
            Self::SetVethKey(..) => "SetVethKey",
            Self::OpenGate(_) => "OpenGate",
            Self::AttachCgroup(..) => "AttachCgroup",
            Self::HoldVeth(..) => "HoldVeth",
            Self::AttachVeth(..) => "AttachVeth",
            Self::AttachNetdev(..) => "AttachNetdev",
            Self::AttachXdp(_) => "AttachXdp",
            Self::DetachXdp(_) => "DetachXdp",
            Self::DetachNetdev(..) => "DetachNetdev",
            Self::DetachCgroup(..) => "DetachCgroup",
            Self::DropCgroupKey(_) => "DropCgroupKey",
            Self::DropVethKey(_) => "DropVethKey",
            Self::NarrowGate(_) => "NarrowGate",
            Self::Vacate(_) => "Vacate",
            // Only on netkit devices that drop by themselves, before the key goes.
            Self::DisarmVeth(..)
            // Only where the kernel takes LSM programs, beside the other hooks.
            | Self::AttachLsm(..)
            | Self::DetachLsm(..)
            // Given last and taken first: without them less passes.
            | Self::DropAllowed(..)
            | Self::DropLink(_)
            | Self::SetKubelet(_)
            | Self::SetLink(..)
            | Self::SetAllowed(..)
            | Self::DetachVeth(..) => return None,
        })
    }
}
