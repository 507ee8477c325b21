//! The netdev hook: a copy of its programs for each isolated pod, attached from a thread that enters the namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    thread,
};

use isolate_common::{Direction, PolicyFlags, names};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{EnforceError, copies, maps::Maps};
use crate::{
    inventory::Way,
    observed::{Observed, Slot},
    plan::NetdevPlace,
};

/// Where `ip netns` and the runtimes name namespaces.
const NAMED: &str = "/run/netns";

/// The netdev programs that were last attached, by name: a pod's interfaces come one after the other.
#[derive(Debug, Default)]
pub(super) struct NetdevPrograms {
    last: BTreeMap<&'static str, (Slot, OwnedFd)>,
}

impl NetdevPrograms {
    /// The program of that name for a slot, loaded if it is not the one of last time.
    pub(super) fn of(&mut self, maps: &Maps, slot: Slot, name: &'static str) -> Result<&OwnedFd, EnforceError> {
        if self.last.get(name).is_none_or(|(last, _)| *last != slot) {
            self.last.insert(name, (slot, copies::of_slot(maps, slot, name)?));
        }
        Ok(&self.last[name].1)
    }
}

/// The tc program for a direction. What goes out here is never exempted. What comes in is read only for a pod that has exemptions
/// or may have: the verifier takes 20 ms and more for a program that reads, and some 3 ms for one that does not.
pub(super) const fn tc_program(direction: Direction, reads: bool) -> &'static str {
    match direction {
        Direction::In if reads => names::NETDEV_IN,
        Direction::In => names::NETDEV_DROP,
        Direction::Out => names::NETDEV_OUT,
    }
}

/// The XDP program, likewise.
pub(super) const fn xdp_program(reads: bool) -> &'static str {
    if reads { names::XDP_IN } else { names::XDP_DROP }
}

/// Whether packets of the pod in a slot must be read to decide on them.
pub(super) fn is_exempted(observed: &Observed, slot: Slot) -> bool {
    observed.policies.get(&slot).is_none_or(|policy| policy.flags.intersects(PolicyFlags::EXEMPTIONS))
}

/// Opens the namespace of `place`. Errors when what led there is gone, or leads elsewhere by now: a process id is used
/// again.
pub(super) fn open(place: &NetdevPlace) -> io::Result<File> {
    namespace(&place.way, place.key.namespace)
}

/// The network namespace that `way` leads to, if it is still the one with this inode number.
pub(crate) fn namespace(way: &Way, inode: u64) -> io::Result<File> {
    let path = way.path();
    let namespace = open_way(&path)?;
    if namespace.metadata()?.ino() == inode {
        Ok(namespace)
    } else {
        Err(io::Error::new(io::ErrorKind::NotFound, format!("{} leads to another namespace by now", path.display())))
    }
}

/// [`inside`] the namespace of `place`.
pub(crate) fn within<T: Send>(place: &NetdevPlace, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    inside(&open(place)?, act)
}

/// Those of the namespaces, by inode number, in which a process lives or that have a name.
pub(super) fn find(wanted: &BTreeSet<u64>) -> BTreeMap<u64, File> {
    let mut found = BTreeMap::new();
    let processes = entries("/proc").map(|process| process.join("ns/net"));
    for path in processes.chain(entries(NAMED)) {
        if found.len() == wanted.len() {
            break;
        }
        // What is no process, or ended meanwhile, has no such file.
        let Ok(namespace) = open_way(&path) else { continue };
        let Ok(metadata) = namespace.metadata() else { continue };
        if wanted.contains(&metadata.ino()) {
            found.entry(metadata.ino()).or_insert(namespace);
        }
    }
    found
}

fn entries(folder: &str) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Whatever somebody has put there, opening it does not wait.
fn open_way(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Runs `act` on a thread of its own that has entered the namespace, and ends with it: no thread of the agent's ever has
/// to find its way back.
pub(super) fn inside<T: Send>(namespace: &File, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let enter = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        act()
    };
    let joined =
        thread::scope(|scope| thread::Builder::new().spawn_scoped(scope, enter).map(thread::ScopedJoinHandle::join))?;
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
