//! What an isolated pod is still allowed, as the kernel reads it.

/// Options of one isolation, bits of [`Policy::flags`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct PolicyFlags(pub u32);

impl PolicyFlags {
    /// Packets on the pod's own loopback interface pass.
    pub const KEEP_LOOPBACK: Self = Self(1);
    /// The UID is spelled without dashes (the config hash of a static pod).
    pub const PLAIN_UID: Self = Self(1 << 1);

    /// Whether every bit of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
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
    /// What a later layout may add, for the tests of an upgrade.
    #[cfg(feature = "layout-next")]
    pub next: [u64; 2],
}

impl Policy {
    /// Whether the slot holds an isolation.
    pub const fn is_in_use(&self) -> bool {
        self.in_use != 0
    }
}

const _: () = {
    assert!(size_of::<Policy>() == if cfg!(feature = "layout-next") { 40 } else { 24 });
    assert!(core::mem::offset_of!(Policy, in_use) == 16);
    assert!(core::mem::offset_of!(Policy, flags) == 20);
};

#[cfg(feature = "user")]
// SAFETY: repr(C), integers only, no padding (the const block above pins size and offsets).
unsafe impl aya::Pod for Policy {}
