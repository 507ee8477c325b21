//! Hooks, directions, the gate, and the version of all of them together.

/// Version of names, keys and values of the pinned maps. It is part of the pin path: two layouts never share a map.
pub const LAYOUT_VERSION: u32 = if cfg!(feature = "layout-next") { THIS_LAYOUT + 1 } else { THIS_LAYOUT };
const THIS_LAYOUT: u32 = 4;

/// Where a packet was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Hook {
    /// `cgroup_skb` on the pod-level cgroup: every IP packet of every socket of the pod, loopback included.
    Cgroup = 0,
    /// tcx on the host end of the pod's veth: every frame, whoever made it.
    Veth = 1,
    /// tcx on an interface inside the pod's namespace: frames that pass no host end.
    Netdev = 2,
    /// `lsm_cgroup` on the pod-level cgroup: what the pod's processes ask of the kernel that leads past the others.
    Lsm = 3,
}

/// Which way a packet goes, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Direction {
    /// Into the pod.
    In = 0,
    /// Out of the pod.
    Out = 1,
}

/// All hooks, in the order of their counters.
pub const HOOKS: [Hook; 4] = [Hook::Cgroup, Hook::Veth, Hook::Netdev, Hook::Lsm];
/// Both directions, in the order of their counters.
pub const DIRECTIONS: [Direction; 2] = [Direction::In, Direction::Out];

impl Hook {
    /// The name that metrics, JSON and tables show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Veth => "veth",
            Self::Netdev => "netdev",
            Self::Lsm => "lsm",
        }
    }
}

impl Direction {
    /// The name that metrics, JSON and tables show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// Why a packet of an isolated pod passes all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Exemption {
    /// It is part of a probe connection of kubelet's.
    Probe = 0,
    /// The other side is allowed.
    Allow = 1,
}

/// All exemptions, in the order of their counters.
pub const EXEMPTIONS: [Exemption; 2] = [Exemption::Probe, Exemption::Allow];

impl Exemption {
    /// The name that metrics, JSON and tables show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Allow => "allow",
        }
    }
}

/// Gate value while no pod is isolated: the programs pass every packet after this one read.
pub const GATE_SHUT: u32 = 0;

/// Deepest cgroup level, counted from the root of the hierarchy, at which a pod-level cgroup is found.
///
/// The usual layouts have it at 2 or 3; kind and other nested nodes add theirs. Bounded because the kernel looks
/// at each level in a loop that the verifier must see the end of.
pub const MAX_CGROUP_LEVEL: u32 = 15;

/// The gate that opens the programs for pods whose cgroups sit at these levels.
///
/// Bit 0 says that something is isolated, bit L that the cgroup program must look at level L: with the usual one or
/// two levels it then does one or two look-ups. A level that is not known (`None`: the agent sees only a part of
/// the hierarchy, as in a nested node) opens all of them; that is slower and just as right. A level beyond
/// [`MAX_CGROUP_LEVEL`] cannot be looked up; the program drops what it cannot attribute.
pub fn gate_for(levels: impl Iterator<Item = Option<u32>>) -> u32 {
    let all = (1 << (MAX_CGROUP_LEVEL + 1)) - 1;
    levels.fold(GATE_SHUT, |gate, level| {
        gate | 1
            | match level {
                Some(level @ 1..=MAX_CGROUP_LEVEL) => 1 << level,
                Some(_) => 0,
                None => all,
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_names_the_levels_in_use() {
        assert_eq!(gate_for(core::iter::empty()), GATE_SHUT);
        assert_eq!(gate_for([Some(3)].into_iter()), 0b1001);
        assert_eq!(gate_for([Some(3), Some(2), Some(3)].into_iter()), 0b1101);
        assert_eq!(gate_for([None].into_iter()), 0xffff);
        assert_ne!(gate_for([Some(99)].into_iter()), GATE_SHUT);
    }
}
