//! A program behind one of ours, as long as that is verified: what ours lets through of the probes ends there, counted.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use isolate_common::{Direction, names};

use super::{EnforceError, links, object, pins, sys};
use crate::{inventory::HostVeth, plan::NetdevPlace};

/// Stops probes with one source address, wherever it stands.
#[derive(Debug)]
pub struct Guard {
    program: OwnedFd,
    object: Ebpf,
    folder: PathBuf,
}

/// Where a hook of ours is, or has to be.
#[derive(Clone, Copy, Debug)]
pub enum Post<'a> {
    /// On the host end of a pod's veth.
    Veth(&'a HostVeth),
    /// On an interface inside a pod's namespace.
    Netdev(&'a NetdevPlace),
}

/// A guard that stands; dropping it takes it away at once.
#[derive(Debug)]
pub struct Standing(OwnedFd);

impl Guard {
    /// Loads one. It uses no map that anything else uses.
    pub fn load(bpffs: &Path, source: [u8; 6]) -> Result<Self, EnforceError> {
        let folder = pins::folder(bpffs)?;
        let (object, program) = object::guard(source)?;
        Ok(Self { program, object, folder })
    }

    /// Has it stand behind our hook; first, if ours does not hold.
    pub fn stand(&self, post: Post<'_>, direction: Direction, holds: bool) -> io::Result<Standing> {
        let program = self.program.as_fd();
        let link = match post {
            Post::Veth(veth) => links::stand_by_veth(&self.folder, program, veth, direction, holds),
            Post::Netdev(place) => links::stand_by_netdev(&self.folder, program, place, direction, holds),
        };
        link.map(Standing)
    }

    /// How many probes it has stopped.
    pub fn stopped(&self) -> Result<u64, EnforceError> {
        let failed = |source| EnforceError::Map { step: "read", map: names::PROBES, source };
        let map = self.object.map(names::PROBES).ok_or_else(|| object::load_error("no map of probes in the object"))?;
        let map: PerCpuArray<&MapData, u64> = map.try_into().map_err(failed)?;
        Ok(map.get(&0, 0).map_err(failed)?.iter().sum())
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        // Closing it does so too, but later, in a work queue.
        if let Err(error) = sys::link_detach(self.0.as_fd()) {
            tracing::debug!(%error, "a guard was not taken away by hand");
        }
    }
}
