//! The pinned links, of cgroups, of tcx, of XDP and of netkit: attached, observed and detached by interface index and cgroup id.

mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use aya_obj::generated::bpf_attach_type::{
    self, BPF_CGROUP_INET_EGRESS, BPF_CGROUP_INET_INGRESS, BPF_LSM_CGROUP, BPF_NETKIT_PEER, BPF_NETKIT_PRIMARY,
    BPF_TCX_EGRESS, BPF_TCX_INGRESS, BPF_XDP,
};
use isolate_common::{Ask, Direction, Hook};
use rustix::process::{Resource, getrlimit};

use super::{
    EnforceError, Mended, netdev,
    pin::{NEXT, Pin, note, unpin},
    pins,
    programs::Programs,
    sys::{self, Place, Target},
};
use crate::{
    fault,
    inventory::{CgroupId, HostVeth, IfIndex},
    observed::{LinkState, NetdevKey, Observed},
    plan::{CgroupPlace, NetdevPlace},
};

/// The folder of pinned links, and the links themselves: one whose pin is removed stays attached while it is held.
#[derive(Debug)]
pub(super) struct Links {
    folder: PathBuf,
    held: BTreeMap<(Pin, Direction), OwnedFd>,
    /// Host ends that netkit links were seen on.
    netkits: BTreeSet<IfIndex>,
    /// How many are held at most: half of the descriptors that this process may have.
    most: usize,
}

/// What goes into the pod leaves the host veth, and comes in at the interface inside; the other way round for out.
const fn attach_type(hook: Hook, direction: Direction) -> bpf_attach_type {
    match (hook, direction) {
        (Hook::Cgroup, Direction::In) => BPF_CGROUP_INET_INGRESS,
        (Hook::Cgroup, Direction::Out) => BPF_CGROUP_INET_EGRESS,
        (Hook::Veth, Direction::In) | (Hook::Netdev, Direction::Out) => BPF_TCX_EGRESS,
        (Hook::Lsm, _) => BPF_LSM_CGROUP,
        (Hook::Veth, Direction::Out) | (Hook::Netdev, Direction::In) => BPF_TCX_INGRESS,
    }
}

/// netkit runs what is attached where a frame is sent: what goes into the pod by the primary device, which is the host end, what
/// comes out by the one inside. Both are attached through the host end.
const fn attach_type_of(veth: &HostVeth, direction: Direction) -> bpf_attach_type {
    match veth.netkit {
        Some(_) => netkit_type(direction),
        None => attach_type(Hook::Veth, direction),
    }
}

const fn netkit_type(direction: Direction) -> bpf_attach_type {
    match direction {
        Direction::In => BPF_NETKIT_PRIMARY,
        Direction::Out => BPF_NETKIT_PEER,
    }
}

impl Links {
    /// Opens the folder, and ends what a crash has left half-way.
    pub(super) fn open(folder: &Path) -> Result<Self, EnforceError> {
        let most = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most / 2).ok());
        let most = most.unwrap_or(usize::MAX);
        let links = Self { folder: pins::links(folder), held: BTreeMap::new(), netkits: BTreeSet::new(), most };
        for path in links.pinned()? {
            let name = path.file_name().and_then(OsStr::to_str);
            if let Some((pin, direction)) = name.and_then(|name| name.strip_suffix(NEXT)).and_then(Pin::read) {
                let named = |source| EnforceError::Pin { step: "rename", path: path.clone(), source };
                links.replace(pin, direction).map_err(named)?;
            }
        }
        Ok(links)
    }

    /// The pins, whatever they are called.
    pub(super) fn pinned(&self) -> Result<Vec<PathBuf>, EnforceError> {
        let failed = |source| EnforceError::Pin { step: "read", path: self.folder.clone(), source };
        fs::read_dir(&self.folder).map_err(failed)?.map(|entry| Ok(entry.map_err(failed)?.path())).collect()
    }

    /// Pins again what is held and has no pin any more.
    pub(super) fn mend(&mut self, known: &Observed) -> Result<Vec<Mended>, EnforceError> {
        let mut mended = Vec::new();
        for ((pin, direction), link) in &self.held {
            let name = pin.name(*direction);
            let path = self.folder.join(&name);
            let failed = |source| EnforceError::Pin { step: "make", path: path.clone(), source };
            if !path.exists() && sys::link_facts(link.as_fd()).map_err(failed)?.place != Place::Nowhere {
                sys::obj_pin(link.as_fd(), &path).map_err(failed)?;
                mended.push(Mended { hook: Some(pin.hook()), slot: pin.slot(known), pin: path });
            }
        }
        Ok(mended)
    }

    /// Detaches everything that is pinned here, whatever it is called.
    pub(super) fn detach_all(&mut self) -> Result<(), EnforceError> {
        self.held.clear();
        for path in self.pinned()? {
            // What is no link, or attached to nothing any more, cannot be detached and need not be.
            if let Err(error) = sys::obj_get(&path).and_then(|link| sys::link_detach(link.as_fd())) {
                tracing::debug!(pin = %path.display(), %error, "not detached by hand");
            }
            unpin(&path).map_err(|source| EnforceError::Pin { step: "remove", path, source })?;
        }
        Ok(())
    }

    /// Looks at every pin.
    pub(super) fn observe(&mut self, programs: &mut Programs, observed: &mut Observed) -> Result<(), EnforceError> {
        let (mut held, mut netkits) = (BTreeMap::new(), BTreeSet::new());
        for path in self.pinned()? {
            let name = path.file_name().and_then(OsStr::to_str);
            let Some((pin, direction)) = name.and_then(Pin::read) else { continue };
            let found = sys::obj_get(&path).and_then(|link| {
                let facts = sys::link_facts(link.as_fd())?;
                Ok((facts, state::state(facts, pin, direction, programs, observed)?, link))
            });
            let (facts, state, link) = match found {
                Err(source) if source.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|source| EnforceError::Pin { step: "read", path, source })?,
            };
            note(observed, pin, direction, Some(state));
            if let (Pin::Veth(ifindex), Place::Netkit(_)) = (pin, facts.place) {
                netkits.insert(ifindex);
            }
            if held.len() < self.most {
                held.insert((pin, direction), link);
            }
        }
        self.held = held;
        self.netkits = netkits;
        Ok(())
    }

    /// Whether a netkit link was seen there.
    pub(super) fn is_netkit(&self, ifindex: IfIndex) -> bool {
        self.netkits.contains(&ifindex)
    }

    pub(super) fn attach_cgroup(
        &mut self,
        programs: &Programs,
        place: &CgroupPlace,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        let mut attach = || {
            let directory = open_cgroup(place)?;
            let target = Target::Cgroup(directory.as_fd());
            let program = programs.cgroup(direction).fd.as_fd();
            let link = sys::link_create(program, target, attach_type(Hook::Cgroup, direction))?;
            self.pin(link, Pin::Cgroup(place.id), direction)
        };
        let named =
            |source| EnforceError::Attach { hook: Hook::Cgroup, place: place.path.display().to_string(), source };
        attach().map_err(named)?;
        note(observed, Pin::Cgroup(place.id), direction, Some(LinkState::Holding));
        Ok(())
    }

    pub(super) fn attach_lsm(
        &mut self,
        program: BorrowedFd<'_>,
        place: &CgroupPlace,
        ask: Ask,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        let pin = Pin::Lsm(place.id, ask);
        open_cgroup(place)
            .and_then(|directory| sys::link_create(program, Target::Cgroup(directory.as_fd()), BPF_LSM_CGROUP))
            .and_then(|link| self.pin(link, pin, ask.direction()))
            .map_err(|source| EnforceError::Attach {
                hook: Hook::Lsm,
                place: format!("{} ({})", place.path.display(), ask.lsm_hook()),
                source,
            })?;
        note(observed, pin, ask.direction(), Some(LinkState::Holding));
        Ok(())
    }

    /// Puts the program in front of all others, then lets go of the link that was there before.
    pub(super) fn attach_veth(
        &mut self,
        program: BorrowedFd<'_>,
        veth: &HostVeth,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        sys::link_create(program, Target::FirstOn(veth.ifindex.0), attach_type_of(veth, direction))
            .and_then(|link| self.pin(link, Pin::Veth(veth.ifindex), direction))
            .map_err(|source| EnforceError::Attach { hook: Hook::Veth, place: veth.name.clone(), source })?;
        note(observed, Pin::Veth(veth.ifindex), direction, Some(LinkState::Holding));
        Ok(())
    }

    pub(super) fn attach_netdev(
        &mut self,
        program: &OwnedFd,
        place: &NetdevPlace,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        let (pin, on) = (Pin::Netdev(place.key), Place::Interface(place.key.index));
        let attach = || {
            let target = Target::FirstOn(place.key.index);
            sys::link_create(program.as_fd(), target, attach_type(Hook::Netdev, direction))
        };
        self.attach_inside(program, place, (pin, direction), on, attach).map_err(|source| EnforceError::Attach {
            hook: Hook::Netdev,
            place: place.name.clone(),
            source,
        })?;
        note(observed, pin, direction, Some(LinkState::Holding));
        Ok(())
    }

    /// Errors where another XDP program is attached.
    pub(super) fn attach_xdp(
        &mut self,
        program: &OwnedFd,
        place: &NetdevPlace,
        observed: &mut Observed,
    ) -> io::Result<()> {
        let (pin, on) = (Pin::Xdp(place.key), Place::Xdp(place.key.index));
        let attach = || sys::link_create(program.as_fd(), Target::Unseen(place.key.index), BPF_XDP);
        self.attach_inside(program, place, (pin, Direction::In), on, attach)?;
        note(observed, pin, Direction::In, Some(LinkState::Holding));
        Ok(())
    }

    /// Gives the link that is pinned and attached there the program in place, or attaches one.
    fn attach_inside(
        &mut self,
        program: &OwnedFd,
        place: &NetdevPlace,
        (pin, direction): (Pin, Direction),
        on: Place,
        attach: impl FnOnce() -> io::Result<OwnedFd> + Send,
    ) -> io::Result<()> {
        let namespace = netdev::open(place)?;
        if let Ok(link) = sys::obj_get(&self.folder.join(pin.name(direction)))
            && sys::link_facts(link.as_fd())?.place == on
        {
            return sys::link_update(link.as_fd(), program.as_fd());
        }
        let link = netdev::inside(&namespace, attach)?;
        self.pin(link, pin, direction)
    }

    pub(super) fn detach_cgroup(
        &mut self,
        id: CgroupId,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        self.detach(Pin::Cgroup(id), direction, observed)
    }

    pub(super) fn detach_lsm(&mut self, id: CgroupId, ask: Ask, observed: &mut Observed) -> Result<(), EnforceError> {
        self.detach(Pin::Lsm(id, ask), ask.direction(), observed)
    }

    pub(super) fn detach_veth(
        &mut self,
        ifindex: IfIndex,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        self.detach(Pin::Veth(ifindex), direction, observed)
    }

    pub(super) fn detach_netdev(
        &mut self,
        key: NetdevKey,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        self.detach(Pin::Netdev(key), direction, observed)
    }

    pub(super) fn detach_xdp(&mut self, key: NetdevKey, observed: &mut Observed) -> Result<(), EnforceError> {
        self.detach(Pin::Xdp(key), Direction::In, observed)
    }

    /// Whether there is a pin.
    pub(super) fn has(&self, pin: Pin, direction: Direction) -> bool {
        self.folder.join(pin.name(direction)).exists()
    }

    /// Pins a link that was just attached. One that is pinned there already is replaced, and detached after that: nothing
    /// is open in between.
    fn pin(&mut self, link: OwnedFd, pin: Pin, direction: Direction) -> io::Result<()> {
        let name = pin.name(direction);
        fault::after("link attached");
        match sys::obj_pin(link.as_fd(), &self.folder.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let next = self.folder.join(name + NEXT);
                unpin(&next)?;
                sys::obj_pin(link.as_fd(), &next)?;
                fault::after("next link pinned");
                self.replace(pin, direction)?;
            }
            other => other?,
        }
        if self.held.len() < self.most {
            self.held.insert((pin, direction), link);
        }
        Ok(())
    }

    /// Gives the next link its name, and detaches the one that had it.
    fn replace(&self, pin: Pin, direction: Direction) -> io::Result<()> {
        let name = pin.name(direction);
        let path = self.folder.join(&name);
        let old = sys::obj_get(&path);
        fs::rename(self.folder.join(name + NEXT), &path)?;
        fault::after("link replaced");
        // A defunct link cannot be detached, and need not be.
        if let Err(error) = old.and_then(|old| sys::link_detach(old.as_fd())) {
            tracing::debug!(pin = %path.display(), %error, "the replaced link was not detached by hand");
        }
        Ok(())
    }

    /// Detaches, then removes the pin. Removing the pin alone does the same, but some time later: the kernel lets go of
    /// a link in a work queue, and until then a released pod would lose packets.
    fn detach(&mut self, pin: Pin, direction: Direction, observed: &mut Observed) -> Result<(), EnforceError> {
        let path = self.folder.join(pin.name(direction));
        // A defunct link cannot be detached, and need not be.
        if let Err(error) = sys::obj_get(&path).and_then(|link| sys::link_detach(link.as_fd())) {
            tracing::debug!(pin = %path.display(), %error, "not detached by hand");
        }
        fault::after("link detached");
        unpin(&path).map_err(|source| EnforceError::Pin { step: "remove", path, source })?;
        self.held.remove(&(pin, direction));
        note(observed, pin, direction, None);
        Ok(())
    }
}

/// Attaches a program right behind ours on a host veth, or first where ours does not hold. Pins nothing.
pub(super) fn stand_by_veth(
    folder: &Path,
    program: BorrowedFd<'_>,
    veth: &HostVeth,
    direction: Direction,
    holds: bool,
) -> io::Result<OwnedFd> {
    let ours = holds.then(|| pins::links(folder).join(Pin::Veth(veth.ifindex).name(direction)));
    stand_by(ours.as_deref(), program, veth.ifindex.0, attach_type_of(veth, direction))
}

/// The same on an interface inside a pod's namespace.
pub(super) fn stand_by_netdev(
    folder: &Path,
    program: BorrowedFd<'_>,
    place: &NetdevPlace,
    direction: Direction,
    holds: bool,
) -> io::Result<OwnedFd> {
    let ours = holds.then(|| pins::links(folder).join(Pin::Netdev(place.key).name(direction)));
    let attach_type = attach_type(Hook::Netdev, direction);
    netdev::within(place, || stand_by(ours.as_deref(), program, place.key.index, attach_type))
}

fn stand_by(
    ours: Option<&Path>,
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let Some(ours) = ours else { return sys::link_create(program, Target::FirstOn(ifindex), attach_type) };
    let ours = sys::obj_get(ours)?;
    sys::link_create(program, Target::Behind(ifindex, ours.as_fd()), attach_type)
}

/// The names of the programs that frames of a netkit pair meet in this direction, first to last. Errors with EACCES where the
/// host end is not the primary device.
pub fn netkit_programs(IfIndex(ifindex): IfIndex, direction: Direction) -> io::Result<Vec<String>> {
    let name = |id: u32| sys::program_by_id(id).and_then(|program| Ok(sys::program_facts(program.as_fd())?.name));
    sys::chain(ifindex, netkit_type(direction))?.programs.into_iter().map(name).collect()
}

/// The directory of a cgroup, if it is still the one that was meant.
fn open_cgroup(place: &CgroupPlace) -> io::Result<File> {
    let directory = File::open(&place.path)?;
    if directory.metadata()?.ino() == place.id.0 {
        Ok(directory)
    } else {
        Err(io::Error::new(io::ErrorKind::NotFound, "the cgroup was replaced by another"))
    }
}
