//! The pinned programs, opened, and which of the programs on the node are ours.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::{maps::MapInfo, programs::ProgramInfo};
use isolate_common::{Ask, Direction, names};

use super::{EnforceError, Mended, maps::Maps, pins, sys};

/// The pinned programs.
#[derive(Debug)]
pub(super) struct Programs {
    /// By direction, as all of these.
    cgroup: [PinnedProgram; 2],
    veth: [PinnedProgram; 2],
    /// By [`Ask`]; none where the kernel did not take them.
    lsm: Vec<PinnedProgram>,
    policy_map: u32,
    /// Ids of programs that use our policy map, the pinned ones and copies of them; and whether it is one that drops all.
    ours: BTreeMap<u32, bool>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct PinnedProgram {
    name: &'static str,
    pub(super) fd: OwnedFd,
    pub(super) id: u32,
}

impl Programs {
    /// Opens the pins and makes sure that these programs use these maps.
    pub(super) fn open(folder: &Path, maps: &Maps) -> Result<Self, EnforceError> {
        let open = |name| PinnedProgram::open(folder, name, maps);
        let has_lsm = Ask::ALL.iter().all(|ask| pins::program(folder, ask.program()).exists());
        let lsm = Ask::ALL.iter().filter(|_| has_lsm).map(|ask| open(ask.program())).collect::<Result<_, _>>()?;
        Ok(Self {
            lsm,
            cgroup: [open(names::CGROUP_IN)?, open(names::CGROUP_OUT)?],
            veth: [open(names::VETH_IN)?, open(names::VETH_OUT)?],
            policy_map: maps.policy_id(),
            ours: BTreeMap::new(),
        })
    }

    /// The cgroup hook's program.
    pub(super) const fn cgroup(&self, direction: Direction) -> &PinnedProgram {
        &self.cgroup[direction as usize]
    }

    /// The veth hook's program.
    pub(super) const fn veth(&self, direction: Direction) -> &PinnedProgram {
        &self.veth[direction as usize]
    }

    /// The LSM hook's program.
    pub(super) fn lsm(&self, ask: Ask) -> Option<&PinnedProgram> {
        self.lsm.iter().find(|program| program.name == ask.program())
    }

    /// Whether the kernel took the LSM hook's programs.
    pub(super) fn has_lsm(&self) -> bool {
        !self.lsm.is_empty()
    }

    /// Whether a loaded program decides by our policies. Ids are not given out twice.
    pub(super) fn are_ours(&mut self, id: u32) -> bool {
        // The LSM programs have no use for a policy.
        self.drops_all(id).is_some() || self.lsm.iter().any(|program| program.id == id)
    }

    /// Whether one of ours is loaded for a pod without exemptions; none for one that is not ours.
    pub(super) fn drops_all(&mut self, id: u32) -> Option<bool> {
        if let Some(known) = self.ours.get(&id) {
            return Some(*known);
        }
        let program = sys::program_by_id(id).ok()?;
        let facts = sys::program_facts(program.as_fd()).ok()?;
        let drops_all = [names::NETDEV_DROP, names::XDP_DROP].contains(&facts.name.as_str());
        let ours = facts.maps.contains(&self.policy_map).then_some(drops_all)?;
        self.ours.insert(id, ours);
        Some(ours)
    }

    /// Pins again what has no pin any more.
    pub(super) fn mend(&self, folder: &Path) -> Result<Vec<Mended>, EnforceError> {
        let mut mended = Vec::new();
        for program in self.cgroup.iter().chain(&self.veth).chain(&self.lsm) {
            let path = pins::program(folder, program.name);
            if !ProgramInfo::from_pin(&path).is_ok_and(|info| info.id() == program.id) {
                mended.push(pins::again(program.fd.as_fd(), path)?);
            }
        }
        Ok(mended)
    }
}

/// Whether a map is that of the object's constants, of which each load makes its own.
fn holds_constants(id: u32) -> bool {
    MapInfo::from_id(id).is_ok_and(|map| map.name_as_str() == Some(sys::CONSTANTS))
}

impl PinnedProgram {
    fn open(folder: &Path, name: &'static str, maps: &Maps) -> Result<Self, EnforceError> {
        let path = pins::program(folder, name);
        let foreign = |why: String| EnforceError::Foreign { what: "program", path: path.clone(), why };
        let fd = sys::obj_get(&path).map_err(|error| foreign(error.to_string()))?;
        let facts = sys::program_facts(fd.as_fd()).map_err(|error| foreign(error.to_string()))?;
        if let Some(stranger) = facts.maps.iter().find(|id| !maps.has(**id) && !holds_constants(**id)) {
            return Err(foreign(format!(
                "it uses the map with id {stranger}, which is none of those pinned beside it"
            )));
        }
        Ok(Self { name, fd, id: facts.id })
    }
}
