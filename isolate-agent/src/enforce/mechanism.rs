//! How programs get onto interfaces: tcx where the kernel has it, filters of a clsact qdisc elsewhere.

use std::{fs::File, io, os::fd::AsFd as _, thread};

use aya_obj::generated::bpf_attach_type::BPF_TCX_INGRESS;
use rustix::{
    io::Errno,
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{
    sys,
    tc::{Place, Side, Tc},
};
use crate::settings::VethHook;

/// In every network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LOOPBACK: u32 = 1;

/// How programs get onto interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// Links, each held by its pin, before all filters.
    Tcx,
    /// Filters of a clsact qdisc, which hold themselves.
    Clsact,
}

impl Mechanism {
    /// The one that is set, or the one that the kernel offers. Probed, never inferred from a version: distributions
    /// backport.
    pub fn choose(setting: VethHook) -> io::Result<Self> {
        match setting {
            VethHook::Tcx => Ok(Self::Tcx),
            VethHook::Clsact => Ok(Self::Clsact),
            VethHook::Auto => Ok(if has_tcx()? { Self::Tcx } else { Self::Clsact }),
        }
    }

    /// The name that people know it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Whether the kernel has tcx (since 6.6, commit e420bed02507). Asks what is on the loopback interface; attaches nothing.
pub fn has_tcx() -> io::Result<bool> {
    match sys::chain(LOOPBACK, BPF_TCX_INGRESS) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the kernel has clsact qdiscs (4.5, commit 1f211a1b929c) and filters that are BPF programs. Tried in a network
/// namespace of its own, which ends with the thread.
pub fn has_clsact() -> io::Result<bool> {
    let probe = || {
        // SAFETY: the network namespace alone is left behind, and no memory or descriptor depends on it.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        let mut tc = Tc::open()?;
        let no_program = File::open("/dev/null")?;
        let place = Place { ifindex: LOOPBACK, side: Side::Ingress };
        let tried = tc.add_clsact(LOOPBACK).and_then(|()| tc.add_filter(place, (1, 1), no_program.as_fd(), "probe"));
        match tried {
            // Neither a qdisc nor a kind of filter of this name.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(false),
            // It looked at the program, which is none.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => Ok(true),
            Err(error) => Err(error),
            Ok(()) => Ok(true),
        }
    };
    let thread = thread::Builder::new().spawn(probe)?;
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
