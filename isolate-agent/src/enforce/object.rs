//! The BPF programs: loaded and pinned once, opened from their pins ever after (parsing the object takes longer than
//! all else that a command does).

use std::{
    error::Error,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::MapInfo,
    programs::{Program, ProgramInfo},
};
use isolate_common::{Direction, KernelError, names};

use super::{EnforceError, maps::Maps, pins};

/// The compiled isolate-ebpf; empty in a build that did not have it.
static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/isolate-ebpf"));

/// Host veths that can be keyed for each isolated pod, on the average: most have one, Multus adds a few.
const VETHS_PER_POD: u32 = 2;

/// Programs that one copy of serves all pods.
const PINNED: [&str; 4] = [names::CGROUP_IN, names::CGROUP_OUT, names::VETH_IN, names::VETH_OUT];

/// Loads the programs with maps for `max_isolated` pods and pins all of it below `folder`, whole or not at all.
pub(super) fn install(folder: &Path, max_isolated: u32) -> Result<(), EnforceError> {
    // Slot 0 is never given out.
    let slots = max_isolated + 1;
    let mut loader = loader();
    loader
        .map_max_entries(names::CGROUP, max_isolated)
        .map_max_entries(names::IFINDEX, max_isolated.saturating_mul(VETHS_PER_POD))
        .map_max_entries(names::POLICY, slots)
        .map_max_entries(names::COUNTERS, slots)
        .map_max_entries(names::ERRORS, u32::try_from(KernelError::ALL.len()).expect("a handful"));
    let mut object = load(&mut loader)?;

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
    // The netdev programs are loaded for one pod each.
    for (name, program) in object.programs_mut().filter(|(name, _)| PINNED.contains(name)) {
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

/// A loader of the object, for its caller to set sizes and constants.
pub(super) fn loader<'a>() -> EbpfLoader<'a> {
    EbpfLoader::new()
}

/// Parses the object and makes or opens its maps; loads no program yet.
pub(super) fn load(loader: &mut EbpfLoader<'_>) -> Result<Ebpf, EnforceError> {
    if OBJECT.is_empty() {
        return Err(EnforceError::NoObject);
    }
    loader.load(OBJECT).map_err(load_error)
}

pub(super) fn load_error(error: impl Into<Box<dyn Error + Send + Sync>>) -> EnforceError {
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
    /// By direction, as all of these.
    cgroup: [PinnedProgram; 2],
    veth: [PinnedProgram; 2],
}

/// One of them.
#[derive(Debug)]
pub(super) struct PinnedProgram {
    pub(super) fd: OwnedFd,
    pub(super) id: u32,
}

impl Programs {
    /// Opens the pins and makes sure that these programs use these maps.
    pub(super) fn open(folder: &Path, maps: &Maps) -> Result<Self, EnforceError> {
        let open = |name| PinnedProgram::open(folder, name, maps);
        Ok(Self {
            cgroup: [open(names::CGROUP_IN)?, open(names::CGROUP_OUT)?],
            veth: [open(names::VETH_IN)?, open(names::VETH_OUT)?],
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
}

/// Whether a map is that of the object's constants, of which each load makes its own.
fn holds_constants(id: u32) -> bool {
    MapInfo::from_id(id).is_ok_and(|map| map.name_as_str() == Some(".rodata"))
}

impl PinnedProgram {
    fn open(folder: &Path, name: &str, maps: &Maps) -> Result<Self, EnforceError> {
        let path = pins::program(folder, name);
        let foreign = |why: String| EnforceError::Foreign { what: "program", path: path.clone(), why };
        let info = ProgramInfo::from_pin(&path).map_err(|error| foreign(error.to_string()))?;
        let used = info.map_ids().map_err(|error| foreign(error.to_string()))?.unwrap_or_default();
        if let Some(stranger) = used.iter().find(|id| !maps.ids().contains(id) && !holds_constants(**id)) {
            return Err(foreign(format!(
                "it uses the map with id {stranger}, which is none of those pinned beside it"
            )));
        }
        let fd = info.fd().map_err(|error| foreign(error.to_string()))?;
        let fd = fd.as_fd().try_clone_to_owned().map_err(|error| foreign(error.to_string()))?;
        Ok(Self { fd, id: info.id() })
    }
}
