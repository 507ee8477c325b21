//! What an isolated pod is still allowed, as the kernel reads it.

/// Options of one isolation, bits of [`Policy::flags`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct PolicyFlags(pub u32);

impl PolicyFlags {
    /// Packets on the pod's own loopback interface pass.
    pub const KEEP_LOOPBACK: Self = Self(1);
    /// kubelet's probe connections to [`Policy::probe_ports`] pass.
    pub const KEEP_PROBES: Self = Self(1 << 2);
    /// There are addresses that the pod may talk to.
    pub const ALLOW: Self = Self(1 << 3);
    /// Those of which a packet must be read to decide on it.
    pub const EXEMPTIONS: Self = Self(Self::KEEP_PROBES.0 | Self::ALLOW.0);
    /// The UID is spelled without dashes (the config hash of a static pod).
    pub const PLAIN_UID: Self = Self(1 << 1);

    /// Whether every bit of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// These bits and those of `other`, if `set`.
    #[must_use]
    pub const fn with(self, other: Self, set: bool) -> Self {
        if set { Self(self.0 | other.0) } else { self }
    }
}

/// Value of the policy map: one isolated pod.
///
/// The UID makes the kernel's state complete: an agent that finds maps and no records knows whom it isolates.
/// A zeroed value is a vacant slot; a key that leads to one is an error in the kernel, and drops. Every layout begins with
/// these three fields, and what it adds is zero for nothing more let through: so a newer agent takes over an older one's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct Policy {
    /// The pod's UID, 128 bits in the order in which they are spelled.
    pub uid: [u8; 16],
    /// 1 while the slot is in use.
    pub in_use: u32,
    /// Options.
    pub flags: PolicyFlags,
    /// TCP ports of the pod that its probes call; zeroes where there are fewer.
    pub probe_ports: [u16; PROBE_PORTS],
    /// What a later layout may add, for the tests of an upgrade.
    #[cfg(feature = "layout-next")]
    pub next: [u64; 2],
}

/// Ports of one pod that probes may call.
pub const PROBE_PORTS: usize = 32;

/// The lowest bit of each quarter.
const ONES: u64 = 0x0001_0001_0001_0001;

impl Policy {
    /// Whether kubelet may call this port.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
    pub fn is_probed(&self, port: u16) -> bool {
        // Four at a time and without a branch for each, which an old verifier would have to follow one by one.
        let wanted = u64::from(port) * ONES;
        let mut found = 0;
        let mut index = 0;
        while index < PROBE_PORTS {
            let four = u64::from(self.probe_ports[index])
                | u64::from(self.probe_ports[index + 1]) << 16
                | u64::from(self.probe_ports[index + 2]) << 32
                | u64::from(self.probe_ports[index + 3]) << 48;
            let differs = four ^ wanted;
            // Only a quarter that is 0 borrows from its own highest bit.
            found |= differs.wrapping_sub(ONES) & !differs & (ONES << 15);
            index += 4;
        }
        port != 0 && found != 0
    }

    /// Whether the slot holds an isolation.
    pub const fn is_in_use(&self) -> bool {
        self.in_use != 0
    }
}

const _: () = {
    assert!(size_of::<Policy>() == 24 + 2 * PROBE_PORTS + if cfg!(feature = "layout-next") { 16 } else { 0 });
    assert!(PROBE_PORTS.is_multiple_of(4));
    assert!(core::mem::offset_of!(Policy, in_use) == 16);
    assert!(core::mem::offset_of!(Policy, flags) == 20);
    assert!(core::mem::offset_of!(Policy, probe_ports) == 24);
};

#[cfg(feature = "user")]
// SAFETY: repr(C), integers only, no padding (the const block above pins size and offsets).
unsafe impl aya::Pod for Policy {}

/// What holds for the whole node. The one value of its map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NodeFacts {
    /// Id of the cgroup that kubelet runs in; 0 while that is not known: no probe passes then.
    pub kubelet: u64,
    /// What the programs mark frames of their own with, to know them again; nobody else knows it. Never 0.
    pub mark: u32,
    /// Nothing.
    pub unused: u32,
}

const _: () = assert!(size_of::<NodeFacts>() == 16);

#[cfg(feature = "user")]
// SAFETY: repr(C), integers only, no padding (the const assertion above pins the size).
unsafe impl aya::Pod for NodeFacts {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_port_is_probed_if_it_is_listed(
            ports in prop::collection::vec(any::<u16>(), PROBE_PORTS),
            port in any::<u16>(),
            index in 0..PROBE_PORTS,
            near in 0..3_u16,
        ) {
            let mut probe_ports = [0; PROBE_PORTS];
            probe_ports.copy_from_slice(&ports);
            let policy = Policy { probe_ports, ..Policy::default() };
            for port in [port, ports[index], ports[index].wrapping_add(near).wrapping_sub(1), 0] {
                prop_assert_eq!(policy.is_probed(port), port != 0 && ports.contains(&port));
            }
        }
    }
}
