//! The hooks on interfaces as filters of clsact qdiscs: of host veths, found by looking at the node's interfaces, and
//! inside pods, found by the pins of their programs.

use std::{
    ffi::OsStr,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya_obj::generated::bpf_attach_type::{BPF_TCX_EGRESS, BPF_TCX_INGRESS};
use isolate_common::{DIRECTIONS, Direction, Hook, names};

use super::{
    EnforceError,
    clsact::{self, Ours, Owner},
    netdev,
    pin::{Pin, unpin},
    pins,
    programs::Programs,
    sys,
    tc::{Place, Side, Tc},
};
use crate::{
    inventory::{HostVeth, IfIndex},
    observed::{LinkState, NetdevKey, Observed},
    plan::NetdevPlace,
};

/// This agent's filters.
#[derive(Debug)]
pub(super) struct Filters {
    /// Of the node's namespace.
    tc: Tc,
    owner: Owner,
    folder: PathBuf,
}

impl Filters {
    pub(super) fn open(bpffs: &Path, folder: &Path) -> io::Result<Self> {
        Ok(Self { tc: Tc::open()?, owner: Owner::new(bpffs), folder: pins::filters(folder) })
    }

    /// Those on the node's own interfaces.
    pub(super) fn observe_veths(&mut self, programs: &mut Programs) -> io::Result<Vec<(Pin, Direction, LinkState)>> {
        let mut found = Vec::new();
        for (ifindex, carrier) in self.tc.carriers()? {
            for direction in DIRECTIONS {
                let side = Side::of_veth(direction);
                if !carrier.sides().contains(&side) {
                    continue;
                }
                let place = Place { ifindex, side };
                let state = clsact::look(&mut self.tc, place, veth(&self.owner, direction, programs))?;
                if let Some(state) = state {
                    let state = behind_tcx(place, programs, state)?;
                    found.push((Pin::Veth(IfIndex(ifindex)), direction, state));
                }
            }
        }
        Ok(found)
    }

    /// Whether an interface of the node is there.
    pub(super) fn is_there(&self, IfIndex(ifindex): IfIndex) -> bool {
        self.tc.knows(ifindex)
    }

    pub(super) fn attach_veth(
        &mut self,
        programs: &mut Programs,
        host: &HostVeth,
        direction: Direction,
    ) -> io::Result<LinkState> {
        let place = Place { ifindex: host.ifindex.0, side: Side::of_veth(direction) };
        let program = programs.veth(direction);
        let state = clsact::attach(&mut self.tc, place, veth(&self.owner, direction, programs), &program.fd)?;
        behind_tcx(place, programs, state)
    }

    pub(super) fn detach_veth(
        &mut self,
        programs: &Programs,
        IfIndex(ifindex): IfIndex,
        direction: Direction,
    ) -> io::Result<()> {
        let place = Place { ifindex, side: Side::of_veth(direction) };
        clsact::detach(&mut self.tc, place, veth(&self.owner, direction, programs))
    }

    /// Those inside pods, by the pins that were made before them.
    pub(super) fn observe_netdevs(
        &self,
        programs: &mut Programs,
        observed: &Observed,
    ) -> Result<Vec<(Pin, Direction, LinkState)>, EnforceError> {
        let pinned = self.pinned()?;
        let namespaces = netdev::find(&pinned.iter().map(|(key, ..)| key.namespace).collect());
        let mut found = Vec::new();
        for (key, direction, path) in pinned {
            let mut look = || -> io::Result<LinkState> {
                let program = sys::program_facts(sys::obj_get(&path)?.as_fd())?.id;
                let Some(namespace) = namespaces.get(&key.namespace) else { return Ok(LinkState::Defunct) };
                let what = netdev_name(key, direction);
                let ours = Ours { owner: &self.owner, what: &what, program: Some(program) };
                let state = netdev::inside(namespace, || look_inside(key, direction, ours, programs))?;
                let must_read = programs.drops_all(program) == Some(true) && netdev::is_exempted(observed, key.slot);
                Ok(if must_read && state.is_live() { LinkState::Stale } else { state })
            };
            let state = match look() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                looked => looked.map_err(|source| EnforceError::Pin { step: "follow", path, source })?,
            };
            found.push((Pin::Netdev(key), direction, state));
        }
        Ok(found)
    }

    fn pinned(&self) -> Result<Vec<(NetdevKey, Direction, PathBuf)>, EnforceError> {
        let failed = |source| EnforceError::Pin { step: "read", path: self.folder.clone(), source };
        let mut pinned = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if let Some((Pin::Netdev(key), direction)) = path.file_name().and_then(OsStr::to_str).and_then(Pin::read) {
                pinned.push((key, direction, path));
            }
        }
        Ok(pinned)
    }

    /// The pin comes first, so that every filter has one.
    pub(super) fn attach_netdev(
        &self,
        programs: &mut Programs,
        program: &OwnedFd,
        place: &NetdevPlace,
        direction: Direction,
    ) -> io::Result<LinkState> {
        let path = self.path(place.key, direction);
        unpin(&path)?;
        sys::obj_pin(program.as_fd(), &path)?;
        let what = netdev_name(place.key, direction);
        let id = sys::program_facts(program.as_fd())?.id;
        let ours = Ours { owner: &self.owner, what: &what, program: Some(id) };
        netdev::inside(&netdev::open(place)?, || {
            let at = Place { ifindex: place.key.index, side: Side::of_netdev(direction) };
            let state = clsact::attach(&mut Tc::open()?, at, ours, program)?;
            behind_tcx(at, programs, state)
        })
    }

    /// A namespace in which nobody lives any more keeps its filter: nobody is cut by it.
    pub(super) fn detach_netdev(&self, key: NetdevKey, direction: Direction) -> io::Result<()> {
        let path = self.path(key, direction);
        if !path.exists() {
            return Ok(());
        }
        if let Some(namespace) = netdev::find(&[key.namespace].into()).get(&key.namespace) {
            let what = netdev_name(key, direction);
            let ours = Ours { owner: &self.owner, what: &what, program: None };
            let place = Place { ifindex: key.index, side: Side::of_netdev(direction) };
            netdev::inside(namespace, || clsact::detach(&mut Tc::open()?, place, ours))?;
        }
        unpin(&path)
    }

    /// Removes all of them, an earlier agent's too, and their pins.
    pub(super) fn detach_all(&mut self) -> Result<(), EnforceError> {
        let carriers = self.tc.carriers().map_err(EnforceError::Filters)?;
        for (ifindex, carrier) in carriers {
            for side in carrier.sides() {
                let detached = clsact::detach_all(&mut self.tc, Place { ifindex, side: *side }, &self.owner);
                let place = || format!("interface {ifindex}");
                detached.map_err(|source| EnforceError::Detach { hook: Hook::Veth, place: place(), source })?;
            }
        }
        for (key, direction, _) in self.pinned()? {
            let place = || format!("interface {} of namespace {}", key.index, key.namespace);
            let detached = self.detach_netdev(key, direction);
            detached.map_err(|source| EnforceError::Detach { hook: Hook::Netdev, place: place(), source })?;
        }
        Ok(())
    }

    fn path(&self, key: NetdevKey, direction: Direction) -> PathBuf {
        self.folder.join(Pin::Netdev(key).name(direction))
    }
}

/// Where the hook on a host veth is, and what its filter is called.
pub(super) fn of_veth(veth: &HostVeth, direction: Direction) -> (Place, String) {
    (Place { ifindex: veth.ifindex.0, side: Side::of_veth(direction) }, veth_name(direction).to_owned())
}

/// The same inside a pod's namespace.
pub(super) fn of_netdev(place: &NetdevPlace, direction: Direction) -> (Place, String) {
    let at = Place { ifindex: place.key.index, side: Side::of_netdev(direction) };
    (at, netdev_name(place.key, direction))
}

const fn veth_name(direction: Direction) -> &'static str {
    match direction {
        Direction::In => names::VETH_IN,
        Direction::Out => names::VETH_OUT,
    }
}

fn veth<'a>(owner: &'a Owner, direction: Direction, programs: &Programs) -> Ours<'a> {
    Ours { owner, what: veth_name(direction), program: Some(programs.veth(direction).id) }
}

/// Isolated pods can share an interface, each with a filter of its own.
fn netdev_name(key: NetdevKey, direction: Direction) -> String {
    let program = match direction {
        Direction::In => names::NETDEV_IN,
        Direction::Out => names::NETDEV_OUT,
    };
    format!("{program}-{}", key.slot.0)
}

fn look_inside(key: NetdevKey, direction: Direction, ours: Ours<'_>, programs: &mut Programs) -> io::Result<LinkState> {
    let mut tc = Tc::open()?;
    let place = Place { ifindex: key.index, side: Side::of_netdev(direction) };
    match clsact::look(&mut tc, place, ours)? {
        Some(state) => behind_tcx(place, programs, state),
        None if tc.knows(key.index) => Ok(LinkState::Stale),
        None => Ok(LinkState::Defunct),
    }
}

/// A filter that is the first of the filters still has every tcx program before it, where the kernel has tcx.
fn behind_tcx(place: Place, programs: &mut Programs, state: LinkState) -> io::Result<LinkState> {
    let chain = match place.side {
        Side::Ingress => BPF_TCX_INGRESS,
        Side::Egress => BPF_TCX_EGRESS,
    };
    if state != LinkState::Holding {
        return Ok(state);
    }
    match sys::chain(place.ifindex, chain).map(|chain| chain.programs) {
        Ok(chain) if chain.iter().any(|id| !programs.are_ours(*id)) => Ok(LinkState::Behind),
        Ok(_) => Ok(state),
        Err(error) => match error.raw_os_error() {
            Some(libc::EINVAL) => Ok(state),
            Some(libc::ENODEV) => Ok(LinkState::Defunct),
            _ => Err(error),
        },
    }
}
