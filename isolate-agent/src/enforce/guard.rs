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

use super::{EnforceError, clsact, filters, links, netdev, object, pin::Pin, pins, sys, tc};
use crate::{inventory::HostVeth, plan::NetdevPlace};

/// Stops probes with one source address, wherever it stands.
#[derive(Debug)]
pub struct Guard {
    program: OwnedFd,
    object: Ebpf,
    bpffs: PathBuf,
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
pub struct Standing<'a>(Kind<'a>);

#[derive(Debug)]
enum Kind<'a> {
    Link(OwnedFd),
    Filter(Post<'a>, tc::Place, clsact::Owner),
}

impl Guard {
    /// Loads one. It uses no map that anything else uses.
    pub fn load(bpffs: &Path, source: [u8; 6]) -> Result<Self, EnforceError> {
        let folder = pins::folder(bpffs)?;
        let (object, program) = object::guard(source)?;
        Ok(Self { program, object, bpffs: bpffs.to_owned(), folder })
    }

    /// Has it stand right behind our hook; first, if ours does not hold. Where ours is a filter of a clsact qdisc, it is one too,
    /// and where another filter would come between the two there is no guard.
    pub fn stand<'a>(&self, post: Post<'a>, direction: Direction, holds: bool) -> io::Result<Standing<'a>> {
        let program = self.program.as_fd();
        if post.is_by_link(&self.folder, direction) || (!holds && super::has_tcx()?) {
            let link = match post {
                Post::Veth(veth) => links::stand_by_veth(&self.folder, program, veth, direction, holds),
                Post::Netdev(place) => links::stand_by_netdev(&self.folder, program, place, direction, holds),
            };
            return link.map(|link| Standing(Kind::Link(link)));
        }
        let owner = clsact::Owner::new(&self.bpffs);
        let (place, hook) = match post {
            Post::Veth(veth) => filters::of_veth(veth, direction),
            Post::Netdev(place) => filters::of_netdev(place, direction),
        };
        post.within(|| clsact::stand_by(&mut tc::Tc::open()?, place, &owner, holds.then_some(&hook), &self.program))?;
        Ok(Standing(Kind::Filter(post, place, owner)))
    }

    /// How many probes it has stopped.
    pub fn stopped(&self) -> Result<u64, EnforceError> {
        let failed = |source| EnforceError::Map { step: "read", map: names::PROBES, source };
        let map = self.object.map(names::PROBES).ok_or_else(|| object::load_error("no map of probes in the object"))?;
        let map: PerCpuArray<&MapData, u64> = map.try_into().map_err(failed)?;
        Ok(map.get(&0, 0).map_err(failed)?.iter().sum())
    }
}

impl Post<'_> {
    /// Whether our hook there is a link: it has a pin then.
    fn is_by_link(self, folder: &Path, direction: Direction) -> bool {
        let pin = match self {
            Self::Veth(veth) => Pin::Veth(veth.ifindex),
            Self::Netdev(place) => Pin::Netdev(place.key),
        };
        pins::links(folder).join(pin.name(direction)).exists()
    }

    /// Acts in the namespace of the place.
    fn within<T: Send>(self, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        match self {
            Self::Veth(_) => act(),
            Self::Netdev(place) => netdev::within(place, act),
        }
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        let gone = match &self.0 {
            // Closing it does so too, but later, in a work queue.
            Kind::Link(link) => sys::link_detach(link.as_fd()),
            Kind::Filter(post, place, owner) => {
                post.within(|| clsact::detach(&mut tc::Tc::open()?, *place, clsact::guard(owner)))
            }
        };
        if let Err(error) = gone {
            tracing::debug!(%error, "a guard was not taken away by hand");
        }
    }
}
