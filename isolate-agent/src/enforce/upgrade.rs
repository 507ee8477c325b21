//! Taking over what an older agent has pinned: other programs of the same layout, or another layout.
//!
//! The state of an older layout is copied while the new maps are made, before their folder has its name. Then each link
//! gets the new program, in place, and its pin moves. At every moment every link runs a program that drops for the same
//! pods, so nothing is open in between and no healthy pod is cut; a crash is ended by the next start. Nothing but an agent
//! writes these maps, and only one runs.

use std::{
    ffi::OsStr,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::{maps::MapInfo, util::nr_cpus};
use aya_obj::generated::bpf_attach_type::BPF_NETKIT_PRIMARY;
use isolate_common::names;

use super::{
    EnforceError, Enforcer,
    copies::{self, VethCopies},
    links::Links,
    netdev,
    pin::{NEXT, Pin, unpin},
    pins,
    sys::{self, Place},
};
use crate::fault;

/// What every layout has in common (`isolate_common`): these maps with these keys, and how a policy begins.
const ARRAYS: [&str; 2] = [names::GATE, names::POLICY];
const HASHES: [&str; 2] = [names::CGROUP, names::IFINDEX];

/// Pods that the maps of an older layout have room for.
pub(super) fn capacity(old: &Path) -> Result<u32, EnforceError> {
    let path = pins::map(old, names::POLICY);
    let failed = |error: aya::maps::MapError| EnforceError::Older {
        what: "the size of the maps",
        path: path.clone(),
        source: io::Error::other(error),
    };
    Ok(MapInfo::from_pin(&path).map_err(failed)?.max_entries() - 1)
}

/// Copies who is isolated from an older layout's maps into those of a draft: a value as far as both layouts have it.
pub(super) fn copy_state(old: &Path, draft: &Path) -> Result<(), EnforceError> {
    let mut parts: Vec<(&'static str, Copier)> = Vec::new();
    parts.extend(HASHES.map(|name| (name, copy_hash as Copier)));
    parts.push((names::COUNTERS, copy_per_cpu));
    parts.extend(ARRAYS.map(|name| (name, copy_array as Copier)));
    // Not in every layout: what the older one fixed at the cut, without which it would be looked for anew.
    parts.extend(pins::map(old, names::LINK).exists().then_some((names::LINK, copy_hash as Copier)));
    for (name, copy) in parts {
        let path = pins::map(old, name);
        let copied = Sides::open(&path, &pins::map(draft, name)).and_then(|sides| copy(&sides));
        copied.map_err(|source| EnforceError::Older { what: name, path, source })?;
    }
    Ok(())
}

type Copier = fn(&Sides) -> io::Result<()>;

/// One map in both layouts.
struct Sides {
    old: Side,
    new: Side,
}

struct Side {
    fd: OwnedFd,
    key_bytes: usize,
    value_bytes: usize,
    entries: u32,
}

impl Side {
    fn open(path: &Path) -> io::Result<Self> {
        let info = MapInfo::from_pin(path).map_err(io::Error::other)?;
        let bytes = |size: u32| usize::try_from(size).map_err(io::Error::other);
        let (key_bytes, value_bytes) = (bytes(info.key_size())?, bytes(info.value_size())?);
        Ok(Self { fd: sys::obj_get(path)?, key_bytes, value_bytes, entries: info.max_entries() })
    }
}

impl Sides {
    fn open(old: &Path, new: &Path) -> io::Result<Self> {
        let sides = Self { old: Side::open(old)?, new: Side::open(new)? };
        if sides.old.key_bytes != sides.new.key_bytes {
            return Err(io::Error::other(format!("its keys have {} bytes", sides.old.key_bytes)));
        }
        Ok(sides)
    }

    fn copy(&self, key: &[u8], old_bytes: usize, new_bytes: usize) -> io::Result<()> {
        let mut value = vec![0; old_bytes];
        sys::map_lookup(self.old.fd.as_fd(), key, &mut value)?;
        if value.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        value.resize(new_bytes, 0);
        sys::map_update(self.new.fd.as_fd(), key, &value)
    }
}

fn copy_hash(sides: &Sides) -> io::Result<()> {
    let mut key: Option<Vec<u8>> = None;
    loop {
        let mut next = vec![0; sides.old.key_bytes];
        if !sys::map_next_key(sides.old.fd.as_fd(), key.as_deref(), &mut next)? {
            return Ok(());
        }
        sides.copy(&next, sides.old.value_bytes, sides.new.value_bytes)?;
        key = Some(next);
    }
}

fn copy_array(sides: &Sides) -> io::Result<()> {
    (0..sides.old.entries.min(sides.new.entries))
        .try_for_each(|slot| sides.copy(&slot.to_ne_bytes(), sides.old.value_bytes, sides.new.value_bytes))
}

/// Counts of each CPU stand one after the other, each rounded up to 8 bytes. Hooks are only ever added behind the others.
fn copy_per_cpu(sides: &Sides) -> io::Result<()> {
    let cpus = nr_cpus().map_err(|(_, error)| error)?;
    let [old_bytes, new_bytes] = [&sides.old, &sides.new].map(|side| side.value_bytes.next_multiple_of(8));
    for slot in 0..sides.old.entries.min(sides.new.entries) {
        let mut counts = vec![0; old_bytes * cpus];
        sys::map_lookup(sides.old.fd.as_fd(), &slot.to_ne_bytes(), &mut counts)?;
        if counts.iter().any(|byte| *byte != 0) {
            let widened = counts.chunks(old_bytes).flat_map(|of_cpu| {
                let mut of_cpu = of_cpu.to_vec();
                of_cpu.resize(new_bytes, 0);
                of_cpu
            });
            sys::map_update(sides.new.fd.as_fd(), &slot.to_ne_bytes(), &widened.collect::<Vec<u8>>())?;
        }
    }
    Ok(())
}

impl Enforcer {
    /// Gives every link that is pinned in `folder` the program of this agent, and moves its pin to this agent's.
    ///
    /// What is attached to nothing any more is unpinned; what is not known, or cannot be given another program, errors.
    pub(super) fn take_over(&mut self, folder: &Path) -> Result<(), EnforceError> {
        // Ends what a crash of the older agent has left half-way.
        for path in Links::open(folder)?.pinned()? {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
            let older = |source| EnforceError::Older { what: "a hook", path: path.clone(), source };
            let link = sys::obj_get(&path).map_err(older)?;
            let place = sys::link_facts(link.as_fd()).map_err(older)?.place;
            if place == Place::Nowhere {
                unpin(&path).map_err(older)?;
                continue;
            }
            let unknown = || older(io::Error::other("it is a hook that this agent does not know"));
            let (pin, direction) = Pin::read(&name).ok_or_else(unknown)?;
            let of_host_end;
            let program = match pin {
                // It refuses whatever its maps say; the next pass puts this agent's in its place.
                Pin::Lsm(..) => None,
                Pin::Cgroup(_) => Some(self.programs.cgroup(direction).fd.as_fd()),
                Pin::Veth(ifindex) if place == Place::Netkit(BPF_NETKIT_PRIMARY) => {
                    of_host_end = copies::of_host_end(&self.maps, ifindex)?;
                    Some(of_host_end.as_fd())
                }
                Pin::Veth(_) => Some(self.programs.veth(direction).fd.as_fd()),
                // Whoever has exemptions keeps them.
                Pin::Netdev(key) => {
                    Some(self.netdev.of(&self.maps, key.slot, netdev::tc_program(direction, true))?.as_fd())
                }
                Pin::Xdp(key) => Some(self.netdev.of(&self.maps, key.slot, netdev::xdp_program(true))?.as_fd()),
            };
            let updated = match program.map_or(Ok(()), |program| sys::link_update(link.as_fd(), program)) {
                // It is in this chain already, through a link whose pin is gone.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    sys::link_update(link.as_fd(), VethCopies::default().of(&self.maps, direction, true)?.as_fd())
                }
                other => other,
            };
            updated.map_err(older)?;
            fault::after("link updated");
            if folder != self.folder {
                fs::rename(&path, pins::links(&self.folder).join(&name)).map_err(older)?;
                fault::after("link moved");
            }
        }
        self.take_over_filters(folder)
    }

    /// Filters of clsact hold their programs, of the older agent, by themselves. Those inside pods are found by pins of these
    /// programs; when a pin leads to this agent's the filter is stale, and the next pass puts another in its place.
    fn take_over_filters(&mut self, folder: &Path) -> Result<(), EnforceError> {
        let (from, to) = (pins::filters(folder), pins::filters(&self.folder));
        let failed = |source| EnforceError::Older { what: "the filters", path: from.clone(), source };
        let entries = match fs::read_dir(&from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed)?,
        };
        for entry in entries.collect::<io::Result<Vec<_>>>().map_err(failed)? {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some((Pin::Netdev(key), direction)) = Pin::read(&name) {
                let reads = netdev::tc_program(direction, true);
                let program = self.netdev.of(&self.maps, key.slot, reads)?.as_fd();
                let next = to.join(name.clone() + NEXT);
                let pinned = unpin(&next).and_then(|()| sys::obj_pin(program, &next));
                pinned.and_then(|()| fs::rename(&next, to.join(&name))).map_err(failed)?;
            }
            if from != to {
                unpin(&entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }
}
