//! The pinned links: attached, observed and detached by interface index and cgroup id.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya_obj::generated::bpf_attach_type::{
    self, BPF_CGROUP_INET_EGRESS, BPF_CGROUP_INET_INGRESS, BPF_TCX_EGRESS, BPF_TCX_INGRESS,
};
use isolate_common::{DIRECTIONS, Direction, Hook};

use super::{
    EnforceError,
    object::{PinnedProgram, Programs},
    pins,
    sys::{self, Place, Target},
};
use crate::{
    inventory::{CgroupId, HostVeth, IfIndex},
    observed::{LinkState, Observed},
    plan::CgroupPlace,
};

/// The folder of pinned links.
#[derive(Debug)]
pub(super) struct Links {
    folder: PathBuf,
}

/// What goes into the pod leaves the host veth, and the other way round.
const fn attach_type(hook: Hook, direction: Direction) -> bpf_attach_type {
    match (hook, direction) {
        (Hook::Cgroup, Direction::In) => BPF_CGROUP_INET_INGRESS,
        (Hook::Cgroup, Direction::Out) => BPF_CGROUP_INET_EGRESS,
        (Hook::Veth, Direction::In) => BPF_TCX_EGRESS,
        (Hook::Veth, Direction::Out) => BPF_TCX_INGRESS,
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
            let Some((hook, place, direction)) = parse_name(&path) else { continue };
            let state = match state(&path, hook, place, direction, programs) {
                Err(source) if source.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|source| EnforceError::Pin { step: "read", path, source })?,
            };
            match hook {
                Hook::Cgroup => {
                    observed.cgroup_links.insert((CgroupId(place), direction), state);
                }
                Hook::Veth => {
                    let ifindex = u32::try_from(place).map(IfIndex);
                    observed.veth_links.extend(ifindex.map(|ifindex| ((ifindex, direction), state)));
                }
            }
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
            let program = programs.of(Hook::Cgroup, direction);
            self.attach(program, Target::Cgroup(directory.as_fd()), Hook::Cgroup, place.id.0, direction)
        };
        let named =
            |source| EnforceError::Attach { hook: Hook::Cgroup, place: place.path.display().to_string(), source };
        attach().map_err(named)?;
        observed.cgroup_links.insert((place.id, direction), LinkState::Holding);
        Ok(())
    }

    pub(super) fn attach_veth(
        &self,
        programs: &Programs,
        veth: &HostVeth,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        let program = programs.of(Hook::Veth, direction);
        let ifindex = veth.ifindex;
        self.attach(program, Target::FirstOn(ifindex.0), Hook::Veth, ifindex.0.into(), direction)
            .map_err(|source| EnforceError::Attach { hook: Hook::Veth, place: veth.name.clone(), source })?;
        observed.veth_links.insert((ifindex, direction), LinkState::Holding);
        Ok(())
    }

    pub(super) fn detach_cgroup(
        &self,
        id: CgroupId,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        self.detach(Hook::Cgroup, id.0, direction)?;
        observed.cgroup_links.remove(&(id, direction));
        Ok(())
    }

    pub(super) fn detach_veth(
        &self,
        ifindex: IfIndex,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        self.detach(Hook::Veth, ifindex.0.into(), direction)?;
        observed.veth_links.remove(&(ifindex, direction));
        Ok(())
    }

    /// Attaches first and replaces a pin of the same name (a defunct one) after, so that nothing is ever open between.
    fn attach(
        &self,
        program: &PinnedProgram,
        target: Target<'_>,
        hook: Hook,
        place: u64,
        direction: Direction,
    ) -> io::Result<()> {
        let link = sys::link_create(program.fd.as_fd(), target, attach_type(hook, direction))?;
        let path = self.pin(hook, place, direction);
        unpin(&path)?;
        sys::obj_pin(link.as_fd(), &path)
    }

    /// A link without its pin and without a descriptor is detached by the kernel.
    fn detach(&self, hook: Hook, place: u64, direction: Direction) -> Result<(), EnforceError> {
        let path = self.pin(hook, place, direction);
        unpin(&path).map_err(|source| EnforceError::Pin { step: "remove", path, source })
    }

    fn pin(&self, hook: Hook, place: u64, direction: Direction) -> PathBuf {
        self.folder.join(format!("{}-{place}-{}", hook.name(), direction.name()))
    }
}

fn unpin(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn parse_name(path: &Path) -> Option<(Hook, u64, Direction)> {
    let mut parts = path.file_name()?.to_str()?.split('-');
    let (hook, place, direction) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
    let hook = isolate_common::HOOKS.into_iter().find(|known| known.name() == hook)?;
    let direction = DIRECTIONS.into_iter().find(|known| known.name() == direction)?;
    parts.next().is_none().then_some((hook, place, direction))
}

fn state(path: &Path, hook: Hook, place: u64, direction: Direction, programs: &Programs) -> io::Result<LinkState> {
    let facts = sys::link_facts(sys::obj_get(path)?.as_fd())?;
    let program = programs.of(hook, direction).id;
    if facts.program != program {
        return Ok(LinkState::Defunct);
    }
    match facts.place {
        Place::Cgroup(id) if hook == Hook::Cgroup && id == place => Ok(LinkState::Holding),
        Place::Interface(ifindex) if hook == Hook::Veth && u64::from(ifindex) == place => {
            match sys::tcx_programs(ifindex, attach_type(hook, direction)) {
                // The device went away between the two looks.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(LinkState::Defunct),
                Err(error) => Err(error),
                Ok(chain) if chain.first() == Some(&program) => Ok(LinkState::Holding),
                Ok(_) => Ok(LinkState::Displaced),
            }
        }
        _ => Ok(LinkState::Defunct),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_are_read_back() {
        let links = Links { folder: "/pins".into() };
        let cgroup = links.pin(Hook::Cgroup, 77, Direction::Out);
        assert_eq!(cgroup, Path::new("/pins/cgroup-77-out"));
        assert_eq!(parse_name(&cgroup), Some((Hook::Cgroup, 77, Direction::Out)));
        for stranger in ["veth-1", "veth-x-in", "lo-1-in", "veth-1-up", "veth-1-in-2", ""] {
            assert_eq!(parse_name(Path::new(stranger)), None, "{stranger}");
        }
    }
}
