//! The netdev hook: a copy of its programs for each isolated pod, attached from a thread that enters the namespace.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    thread,
};

use isolate_common::{Direction, names};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{EnforceError, maps::Maps, object};
use crate::{observed::Slot, plan::NetdevPlace};

/// The netdev programs of the slot that was last attached for: a pod's interfaces come one after the other.
#[derive(Debug, Default)]
pub(super) struct NetdevPrograms {
    last: Option<(Slot, [OwnedFd; 2])>,
}

impl NetdevPrograms {
    /// The program for a slot and direction, loaded if it is not the one of last time.
    pub(super) fn of(&mut self, maps: &Maps, slot: Slot, direction: Direction) -> Result<&OwnedFd, EnforceError> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != slot) {
            let programs = object::copies(maps, slot, [names::NETDEV_IN, names::NETDEV_OUT])?;
            self.last = Some((slot, programs));
        }
        let (_, programs) = self.last.as_ref().expect("it was set above");
        Ok(&programs[direction as usize])
    }
}

/// Runs `act` on a thread of its own that has entered the namespace of `place`, and ends with it.
///
/// No thread of the agent's ever has to find its way back. Errors when what led there is gone, or leads elsewhere by now: a
/// process id is used again.
pub(super) fn within<T: Send>(place: &NetdevPlace, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(place.way.path())?;
    if namespace.metadata()?.ino() != place.key.namespace {
        let error = format!("{} leads to another namespace by now", place.way.path().display());
        return Err(io::Error::new(io::ErrorKind::NotFound, error));
    }
    let enter = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        act()
    };
    let joined =
        thread::scope(|scope| thread::Builder::new().spawn_scoped(scope, enter).map(thread::ScopedJoinHandle::join))?;
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
