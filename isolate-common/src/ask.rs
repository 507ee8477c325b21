//! What the LSM hook refuses to an isolated pod's processes.

use crate::{Direction, names};

/// Something that a process asks of the kernel, by the LSM hook that is asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ask {
    /// A new packet socket (`AF_PACKET`, `AF_XDP`).
    Create,
    /// Sending on one, or having the kernel send what lies in its ring.
    Send,
    /// Receiving on one. What the kernel puts into a mapped ring is not asked for.
    Receive,
    /// `CAP_NET_ADMIN`: devices (also in the node's namespace), TUN, addresses, routes, programs.
    Capable,
}

impl Ask {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Create, Self::Send, Self::Receive, Self::Capable];

    /// A short name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Capable => "capable",
        }
    }

    /// The way of what it would let through, for the counters.
    pub const fn direction(self) -> Direction {
        match self {
            Self::Receive => Direction::In,
            Self::Create | Self::Send | Self::Capable => Direction::Out,
        }
    }

    /// The program that refuses it.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Create => names::LSM_CREATE,
            Self::Send => names::LSM_SEND,
            Self::Receive => names::LSM_RECEIVE,
            Self::Capable => names::LSM_CAPABLE,
        }
    }

    /// The kernel's LSM hook (`include/linux/lsm_hook_defs.h`).
    pub const fn lsm_hook(self) -> &'static str {
        match self {
            Self::Create => "socket_create",
            Self::Send => "socket_sendmsg",
            Self::Receive => "socket_recvmsg",
            Self::Capable => "capable",
        }
    }
}
