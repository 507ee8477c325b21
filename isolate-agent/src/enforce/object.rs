//! The BPF programs: loaded and pinned once, opened from their pins ever after (parsing the object takes longer than
//! all else that a command does).

use std::{
    error::Error,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::{
    EbpfLoader,
    programs::{Program, ProgramInfo},
};
use isolate_common::{Direction, Hook, KernelError, names};

use super::{EnforceError, maps::Maps, pins};

/// The compiled isolate-ebpf; empty in a build that did not have it.
static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/isolate-ebpf"));

/// Host veths that can be keyed for each isolated pod, on the average: most have one, Multus adds a few.
const VETHS_PER_POD: u32 = 2;

/// Name of the program for a hook and direction.
pub(super) const fn program_name(hook: Hook, direction: Direction) -> &'static str {
    match (hook, direction) {
        (Hook::Cgroup, Direction::In) => names::CGROUP_IN,
        (Hook::Cgroup, Direction::Out) => names::CGROUP_OUT,
        (Hook::Veth, Direction::In) => names::VETH_IN,
        (Hook::Veth, Direction::Out) => names::VETH_OUT,
    }
}

/// Loads the programs with maps for `max_isolated` pods and pins all of it below `folder`, whole or not at all.
pub(super) fn install(folder: &Path, max_isolated: u32) -> Result<(), EnforceError> {
    if OBJECT.is_empty() {
        return Err(EnforceError::NoObject);
    }
    // Slot 0 is never given out.
    let slots = max_isolated + 1;
    let mut object = EbpfLoader::new()
        .map_max_entries(names::CGROUP, max_isolated)
        .map_max_entries(names::IFINDEX, max_isolated.saturating_mul(VETHS_PER_POD))
        .map_max_entries(names::POLICY, slots)
        .map_max_entries(names::COUNTERS, slots)
        .map_max_entries(names::ERRORS, u32::try_from(KernelError::ALL.len()).expect("a handful"))
        .load(OBJECT)
        .map_err(load_error)?;

    // Pins are made in a folder beside the final one, which then takes its name: a crash leaves no half of them.
    let draft = folder.with_file_name("draft");
    discard(&draft)?;
    for part in ["maps", "programs", "links"] {
        let path = draft.join(part);
        fs::create_dir_all(&path).map_err(|source| EnforceError::Pin { step: "make", path, source })?;
    }
    for name in names::MAPS {
        let map = object.map(name).ok_or_else(|| load_error(format!("the object has no map {name}")))?;
        map.pin(pins::map(&draft, name)).map_err(load_error)?;
    }
    for (name, program) in object.programs_mut() {
        match program {
            Program::SchedClassifier(classifier) => classifier.load(),
            Program::CgroupSkb(filter) => filter.load(),
            _ => return Err(load_error(format!("the object has a program {name} of another type"))),
        }
        .map_err(load_error)?;
        program.pin(pins::program(&draft, name)).map_err(load_error)?;
    }
    fs::rename(&draft, folder).map_err(|source| EnforceError::Pin { step: "make", path: folder.to_owned(), source })
}

fn load_error(error: impl Into<Box<dyn Error + Send + Sync>>) -> EnforceError {
    EnforceError::Load { source: error.into() }
}

fn discard(draft: &Path) -> Result<(), EnforceError> {
    match fs::remove_dir_all(draft) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(EnforceError::Pin { step: "remove", path: draft.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// The pinned programs.
#[derive(Debug)]
pub(super) struct Programs {
    all: [PinnedProgram; 4],
}

/// One of them.
#[derive(Debug)]
pub(super) struct PinnedProgram {
    hook: Hook,
    direction: Direction,
    pub(super) fd: OwnedFd,
    pub(super) id: u32,
}

impl Programs {
    /// Opens the pins and makes sure that these programs use these maps.
    pub(super) fn open(folder: &Path, maps: &Maps) -> Result<Self, EnforceError> {
        let open = |hook, direction| PinnedProgram::open(folder, hook, direction, maps);
        Ok(Self {
            all: [
                open(Hook::Cgroup, Direction::In)?,
                open(Hook::Cgroup, Direction::Out)?,
                open(Hook::Veth, Direction::In)?,
                open(Hook::Veth, Direction::Out)?,
            ],
        })
    }

    /// The program for a hook and direction.
    pub(super) fn of(&self, hook: Hook, direction: Direction) -> &PinnedProgram {
        let found = self.all.iter().find(|program| program.hook == hook && program.direction == direction);
        found.expect("all four are opened together")
    }
}

impl PinnedProgram {
    fn open(folder: &Path, hook: Hook, direction: Direction, maps: &Maps) -> Result<Self, EnforceError> {
        let path = pins::program(folder, program_name(hook, direction));
        let foreign = |why: String| EnforceError::Foreign { what: "program", path: path.clone(), why };
        let info = ProgramInfo::from_pin(&path).map_err(|error| foreign(error.to_string()))?;
        let used = info.map_ids().map_err(|error| foreign(error.to_string()))?.unwrap_or_default();
        if let Some(stranger) = used.iter().find(|id| !maps.ids().contains(id)) {
            return Err(foreign(format!(
                "it uses the map with id {stranger}, which is none of those pinned beside it"
            )));
        }
        let fd = info.fd().map_err(|error| foreign(error.to_string()))?;
        let fd = fd.as_fd().try_clone_to_owned().map_err(|error| foreign(error.to_string()))?;
        Ok(Self { hook, direction, fd, id: info.id() })
    }
}
