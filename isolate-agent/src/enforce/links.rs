//! The pinned links: attached, observed and detached by interface index and cgroup id.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use aya_obj::generated::bpf_attach_type::{
    self, BPF_CGROUP_INET_EGRESS, BPF_CGROUP_INET_INGRESS, BPF_TCX_EGRESS, BPF_TCX_INGRESS,
};
use isolate_common::{DIRECTIONS, Direction, Hook};

use super::{
    EnforceError, netdev,
    object::Programs,
    pins,
    sys::{self, Place, Target},
};
use crate::{
    inventory::{CgroupId, HostVeth, IfIndex},
    observed::{LinkState, NetdevKey, Observed, Slot},
    plan::{CgroupPlace, NetdevPlace},
};

/// The folder of pinned links.
#[derive(Debug)]
pub(super) struct Links {
    folder: PathBuf,
}

/// What a link is pinned for; its name says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pin {
    Cgroup(CgroupId),
    Veth(IfIndex),
    Netdev(NetdevKey),
}

impl Pin {
    /// bpffs allows no dots in names.
    fn name(self, direction: Direction) -> String {
        let direction = direction.name();
        match self {
            Self::Cgroup(CgroupId(id)) => format!("cgroup-{id}-{direction}"),
            Self::Veth(IfIndex(index)) => format!("veth-{index}-{direction}"),
            Self::Netdev(NetdevKey { slot: Slot(slot), namespace, index }) => {
                format!("netdev-{slot}-{namespace}-{index}-{direction}")
            }
        }
    }

    fn read(name: &str) -> Option<(Self, Direction)> {
        let (place, direction) = name.rsplit_once('-')?;
        let direction = DIRECTIONS.into_iter().find(|known| known.name() == direction)?;
        let pin = match place.split('-').collect::<Vec<_>>().as_slice() {
            ["cgroup", id] => Self::Cgroup(CgroupId(id.parse().ok()?)),
            ["veth", index] => Self::Veth(IfIndex(index.parse().ok()?)),
            ["netdev", slot, namespace, index] => Self::Netdev(NetdevKey {
                slot: Slot(slot.parse().ok()?),
                namespace: namespace.parse().ok()?,
                index: index.parse().ok()?,
            }),
            _ => return None,
        };
        Some((pin, direction))
    }
}

/// What goes into the pod leaves the host veth, and comes in at the interface inside; the other way round for out.
const fn attach_type(hook: Hook, direction: Direction) -> bpf_attach_type {
    match (hook, direction) {
        (Hook::Cgroup, Direction::In) => BPF_CGROUP_INET_INGRESS,
        (Hook::Cgroup, Direction::Out) => BPF_CGROUP_INET_EGRESS,
        (Hook::Veth, Direction::In) | (Hook::Netdev, Direction::Out) => BPF_TCX_EGRESS,
        (Hook::Veth, Direction::Out) | (Hook::Netdev, Direction::In) => BPF_TCX_INGRESS,
    }
}

impl Links {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: pins::links(folder) }
    }

    /// Looks at every pin.
    pub(super) fn observe(&self, programs: &Programs, observed: &mut Observed) -> Result<(), EnforceError> {
        let failed = |source| EnforceError::Pin { step: "read", path: self.folder.clone(), source };
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(OsStr::to_str);
            let Some((pin, direction)) = name.and_then(Pin::read) else { continue };
            let state = match state(&path, pin, direction, programs) {
                Err(source) if source.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|source| EnforceError::Pin { step: "read", path, source })?,
            };
            note(observed, pin, direction, Some(state));
        }
        Ok(())
    }

    pub(super) fn attach_cgroup(
        &self,
        programs: &Programs,
        place: &CgroupPlace,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        let attach = || {
            let directory = File::open(&place.path)?;
            if directory.metadata()?.ino() != place.id.0 {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the cgroup was replaced by another"));
            }
            let target = Target::Cgroup(directory.as_fd());
            let program = programs.cgroup(direction).fd.as_fd();
            let link = sys::link_create(program, target, attach_type(Hook::Cgroup, direction))?;
            self.pin(&link, Pin::Cgroup(place.id), direction)
        };
        let named =
            |source| EnforceError::Attach { hook: Hook::Cgroup, place: place.path.display().to_string(), source };
        attach().map_err(named)?;
        note(observed, Pin::Cgroup(place.id), direction, Some(LinkState::Holding));
        Ok(())
    }

    pub(super) fn attach_veth(
        &self,
        programs: &Programs,
        veth: &HostVeth,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        let (program, target) = (programs.veth(direction).fd.as_fd(), Target::FirstOn(veth.ifindex.0));
        sys::link_create(program, target, attach_type(Hook::Veth, direction))
            .and_then(|link| self.pin(&link, Pin::Veth(veth.ifindex), direction))
            .map_err(|source| EnforceError::Attach { hook: Hook::Veth, place: veth.name.clone(), source })?;
        note(observed, Pin::Veth(veth.ifindex), direction, Some(LinkState::Holding));
        Ok(())
    }

    pub(super) fn attach_netdev(
        &self,
        program: &OwnedFd,
        place: &NetdevPlace,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        let target = Target::FirstOn(place.key.index);
        netdev::within(place, || sys::link_create(program.as_fd(), target, attach_type(Hook::Netdev, direction)))
            .and_then(|link| self.pin(&link, Pin::Netdev(place.key), direction))
            .map_err(|source| EnforceError::Attach { hook: Hook::Netdev, place: place.name.clone(), source })?;
        note(observed, Pin::Netdev(place.key), direction, Some(LinkState::Holding));
        Ok(())
    }

    pub(super) fn detach_cgroup(
        &self,
        id: CgroupId,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        self.detach(Pin::Cgroup(id), direction, observed)
    }

    pub(super) fn detach_veth(
        &self,
        ifindex: IfIndex,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        self.detach(Pin::Veth(ifindex), direction, observed)
    }

    pub(super) fn detach_netdev(
        &self,
        key: NetdevKey,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        self.detach(Pin::Netdev(key), direction, observed)
    }

    /// Pins a link that was just attached. A pin of the same name (a defunct link's) goes after that, so that nothing
    /// is open in between.
    fn pin(&self, link: &OwnedFd, pin: Pin, direction: Direction) -> io::Result<()> {
        let path = self.folder.join(pin.name(direction));
        unpin(&path)?;
        sys::obj_pin(link.as_fd(), &path)
    }

    /// Detaches, then removes the pin. Removing the pin alone does the same, but some time later: the kernel lets go of
    /// a link in a work queue, and until then a released pod would lose packets.
    fn detach(&self, pin: Pin, direction: Direction, observed: &mut Observed) -> Result<(), EnforceError> {
        let path = self.folder.join(pin.name(direction));
        // A defunct link cannot be detached, and need not be.
        if let Err(error) = sys::obj_get(&path).and_then(|link| sys::link_detach(link.as_fd())) {
            tracing::debug!(pin = %path.display(), %error, "not detached by hand");
        }
        unpin(&path).map_err(|source| EnforceError::Pin { step: "remove", path, source })?;
        note(observed, pin, direction, None);
        Ok(())
    }
}

/// Notes what is known of a link: its state, or that there is none any more.
fn note(observed: &mut Observed, pin: Pin, direction: Direction, state: Option<LinkState>) {
    fn set<K: Ord>(links: &mut BTreeMap<K, LinkState>, key: K, state: Option<LinkState>) {
        match state {
            Some(state) => links.insert(key, state),
            None => links.remove(&key),
        };
    }
    match pin {
        Pin::Cgroup(id) => set(&mut observed.cgroup_links, (id, direction), state),
        Pin::Veth(ifindex) => set(&mut observed.veth_links, (ifindex, direction), state),
        Pin::Netdev(key) => set(&mut observed.netdev_links, (key, direction), state),
    }
}

fn unpin(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn state(path: &Path, pin: Pin, direction: Direction, programs: &Programs) -> io::Result<LinkState> {
    let facts = sys::link_facts(sys::obj_get(path)?.as_fd())?;
    let holds = match (pin, facts.place) {
        (Pin::Cgroup(CgroupId(id)), Place::Cgroup(found)) => {
            id == found && facts.program == programs.cgroup(direction).id
        }
        (Pin::Veth(IfIndex(index)), Place::Interface(found)) => {
            return if index == found && facts.program == programs.veth(direction).id {
                chain_state(index, facts.program, direction)
            } else {
                Ok(LinkState::Defunct)
            };
        }
        (Pin::Netdev(key), Place::Interface(found)) => key.index == found,
        _ => false,
    };
    Ok(if holds { LinkState::Holding } else { LinkState::Defunct })
}

fn chain_state(ifindex: u32, program: u32, direction: Direction) -> io::Result<LinkState> {
    match sys::tcx_programs(ifindex, attach_type(Hook::Veth, direction)) {
        // The device went away between the two looks.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(LinkState::Defunct),
        Err(error) => Err(error),
        Ok(chain) if chain.first() == Some(&program) => Ok(LinkState::Holding),
        Ok(_) => Ok(LinkState::Displaced),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_are_read_back() {
        let netdev = NetdevKey { slot: Slot(3), namespace: 4_026_532_318, index: 2 };
        for pin in [Pin::Cgroup(CgroupId(77)), Pin::Veth(IfIndex(12)), Pin::Netdev(netdev)] {
            for direction in DIRECTIONS {
                let name = pin.name(direction);
                assert_eq!(Pin::read(&name), Some((pin, direction)), "{name}");
                assert!(!name.contains('.'));
            }
        }
        for stranger in ["veth-1", "veth-x-in", "lo-1-in", "veth-1-up", "veth-1-in-2", "netdev-1-2-in", ""] {
            assert_eq!(Pin::read(stranger), None, "{stranger}");
        }
    }
}
