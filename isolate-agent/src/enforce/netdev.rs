//! The netdev hook: a copy of its programs for each isolated pod, attached from a thread that enters the namespace.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    thread,
};

use aya::programs::SchedClassifier;
use isolate_common::{Direction, names};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{EnforceError, object, pins};
use crate::{observed::Slot, plan::NetdevPlace};

/// The netdev programs of the slot that was last attached for: a pod's interfaces come one after the other.
#[derive(Debug)]
pub(super) struct NetdevPrograms {
    folder: PathBuf,
    last: Option<(Slot, [OwnedFd; 2])>,
}

impl NetdevPrograms {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), last: None }
    }

    /// The program for a slot and direction, loaded if it is not the one of last time.
    pub(super) fn of(&mut self, slot: Slot, direction: Direction) -> Result<&OwnedFd, EnforceError> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != slot) {
            self.last = Some((slot, self.load(slot)?));
        }
        let (_, programs) = self.last.as_ref().expect("it was set above");
        Ok(&programs[direction as usize])
    }

    fn load(&self, slot: Slot) -> Result<[OwnedFd; 2], EnforceError> {
        let pins: Vec<(&str, PathBuf)> =
            names::MAPS.iter().map(|name| (*name, pins::map(&self.folder, name))).collect();
        let mut loader = object::loader();
        loader.override_global(names::NETDEV_SLOT, &slot.0, true);
        for (name, pin) in &pins {
            loader.map_pin_path(name, pin.as_path());
        }
        let mut object = object::load(&mut loader)?;
        let mut program = |name: &str| {
            let program = object.program_mut(name).ok_or_else(|| object::load_error(format!("no program {name}")))?;
            let program: &mut SchedClassifier = program.try_into().map_err(object::load_error)?;
            program.load().map_err(object::load_error)?;
            let fd = program.fd().map_err(object::load_error)?;
            fd.as_fd().try_clone_to_owned().map_err(object::load_error)
        };
        Ok([program(names::NETDEV_IN)?, program(names::NETDEV_OUT)?])
    }
}

/// Runs `act` on a thread of its own that has entered the namespace of `place`, and ends with it.
///
/// No thread of the agent's ever has to find its way back. Errors when the process that led there is gone, or lives
/// elsewhere by now: a process id is used again.
pub(super) fn within<T: Send>(place: &NetdevPlace, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(format!("/proc/{}/ns/net", place.pid))?;
    if namespace.metadata()?.ino() != place.key.namespace {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the process lives in another namespace by now"));
    }
    let enter = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        act()
    };
    let joined =
        thread::scope(|scope| thread::Builder::new().spawn_scoped(scope, enter).map(thread::ScopedJoinHandle::join))?;
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
