//! The BPF programs: loaded and pinned once, opened from their pins ever after (parsing the object takes longer than
//! all else that a command does).

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
    sync::OnceLock,
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::MapInfo,
    programs::{Program, ProgramInfo},
};
use aya_obj::{EbpfSectionKind, Object, ProgramSection, generated::bpf_prog_type};
use isolate_common::{Ask, Direction, KernelError, names};

use super::{
    EnforceError, MAX_ALLOWED_IN_ALL, Mended,
    maps::Maps,
    pin::{NEXT, unpin},
    pins, sys, upgrade,
};
use crate::{fault, inventory::IfIndex, observed::Slot};

/// The compiled isolate-ebpf; empty in a build that did not have it.
static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/isolate-ebpf"));

/// Host veths that can be keyed for each isolated pod, on the average: most have one, Multus adds a few.
const VETHS_PER_POD: u32 = 2;

/// Probe connections that are known at a time, of all pods together. With more, the kernel forgets the oldest.
const FLOWS: u32 = 8192;

/// Programs that one copy of serves all pods.
const PINNED: [&str; 4] = [names::CGROUP_IN, names::CGROUP_OUT, names::VETH_IN, names::VETH_OUT];

/// Beside the pins: says which object they were loaded from.
const NOTE: &str = "object";

/// Loads the programs with maps for `max_isolated` pods, and with what the maps of an `older` layout hold, and pins all of
/// it below `folder`, whole or not at all.
pub(super) fn install(folder: &Path, max_isolated: u32, older: Option<&Path>) -> Result<(), EnforceError> {
    let max_isolated = older.map(upgrade::capacity).transpose()?.unwrap_or_default().max(max_isolated);
    // Slot 0 is never given out.
    let slots = max_isolated + 1;
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries(names::CGROUP, max_isolated)
        .map_max_entries(names::IFINDEX, max_isolated.saturating_mul(VETHS_PER_POD))
        .map_max_entries(names::POLICY, slots)
        .map_max_entries(names::COUNTERS, slots)
        .map_max_entries(names::WINDOW, slots)
        .map_max_entries(names::LINK, max_isolated.saturating_mul(VETHS_PER_POD))
        .map_max_entries(names::ALLOW, u32::try_from(MAX_ALLOWED_IN_ALL).expect("some thousands"))
        .map_max_entries(names::FLOW, FLOWS)
        .map_max_entries(names::ERRORS, u32::try_from(KernelError::ALL.len()).expect("a handful"));
    let mut object = load(&mut loader)?;

    // Pins are made in a folder beside the final one, which then takes its name: a crash leaves no half of them.
    let draft = folder.with_file_name("draft");
    pins::remove(&draft)?;
    pins::make_folders(&draft)?;
    for name in names::MAPS {
        let map = object.map(name).ok_or_else(|| load_error(format!("the object has no map {name}")))?;
        map.pin(pins::map(&draft, name)).map_err(load_error)?;
    }
    // The netdev programs are loaded for one pod each.
    for name in PINNED {
        let path = pins::program(&draft, name);
        let program = load_program(&mut object, name)?;
        sys::obj_pin(program.as_fd(), &path).map_err(|source| EnforceError::Pin { step: "make", path, source })?;
    }
    install_lsm(&mut object, &draft)?;
    note(&draft)?;
    fault::after("draft made");
    if let Some(older) = older {
        upgrade::copy_state(older, &draft)?;
        fault::after("state copied");
    }
    fs::rename(&draft, folder).map_err(|source| EnforceError::Pin { step: "make", path: folder.to_owned(), source })?;
    fault::after("draft named");
    Ok(())
}

/// A number that tells this agent's object from others. It need not be the same for other builds of the same object: then
/// they replace each other's programs, which changes nothing.
fn digest() -> String {
    let mut hasher = DefaultHasher::new();
    OBJECT.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Whether the pinned programs are of this agent's object.
pub(super) fn is_pinned(folder: &Path) -> bool {
    fs::read_link(folder.join(NOTE)).is_ok_and(|noted| noted == Path::new(&digest()))
}

/// Notes that all programs are of this agent's object. A link is the one thing on bpffs that can hold a text.
pub(super) fn note(folder: &Path) -> Result<(), EnforceError> {
    let (path, next) = (folder.join(NOTE), folder.join(NOTE.to_owned() + NEXT));
    let noted = unpin(&next).and_then(|()| symlink(digest(), &next)).and_then(|()| fs::rename(&next, &path));
    noted.map_err(|source| EnforceError::Pin { step: "make", path, source })?;
    fault::after("object noted");
    Ok(())
}

/// Pins programs of this agent's object, with the maps that are pinned, over those of another.
pub(super) fn replace(folder: &Path, maps: &Maps) -> Result<(), EnforceError> {
    let pinned: Vec<(&str, PathBuf)> = names::MAPS.iter().map(|name| (*name, pins::map(folder, name))).collect();
    let mut loader = EbpfLoader::new();
    for (name, pin) in &pinned {
        loader.map_pin_path(name, pin.as_path());
    }
    let mut object = load(&mut loader)?;
    for name in PINNED {
        let program = load_program(&mut object, name)?;
        pin_over(folder, name, program.as_fd())?;
    }
    install_lsm(&mut object, folder)?;
    // aya makes and pins a new map where it finds no pin: such a program would know of no isolation.
    if let Some((path, _)) = maps.unpinned(folder).next() {
        return Err(load_error(format!("{} was removed a moment ago", path.display())));
    }
    Ok(())
}

/// Pins a program in the place of one that may be pinned already.
fn pin_over(folder: &Path, name: &str, program: BorrowedFd<'_>) -> Result<(), EnforceError> {
    let path = pins::program(folder, name);
    let next = pins::program(folder, &(name.to_owned() + NEXT));
    let pinned = unpin(&next).and_then(|()| sys::obj_pin(program, &next)).and_then(|()| fs::rename(&next, &path));
    pinned.map_err(|source| EnforceError::Pin { step: "make", path, source })?;
    fault::after("program pinned");
    Ok(())
}

/// Loads and pins the LSM programs, all or none: the rest of the product works without them.
fn install_lsm(object: &mut Ebpf, folder: &Path) -> Result<(), EnforceError> {
    if !is_lsm_active() {
        tracing::info!("no LSM hook: bpf is not among the active LSMs");
        return Ok(());
    }
    let loaded = Btf::from_sys_fs().map_err(load_error).and_then(|btf| {
        let load = |ask: Ask| Ok((ask, load_lsm(object, ask, &btf)?));
        Ask::ALL.into_iter().map(load).collect::<Result<Vec<_>, EnforceError>>()
    });
    let loaded = loaded.unwrap_or_else(|error| {
        tracing::info!(%error, "no LSM hook: packet sockets and CAP_NET_ADMIN of isolated pods are not refused");
        Vec::new()
    });
    loaded.into_iter().try_for_each(|(ask, program)| pin_over(folder, ask.program(), program.as_fd()))
}

/// Why the kernel takes no LSM programs, or takes them and never runs them. Attaches nothing.
pub fn lsm_refusal() -> Option<String> {
    // The verifier's words, which may be many, come after the first line.
    let text = |error: EnforceError| {
        let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        cause.split(". Verifier output").next().unwrap_or_default().to_owned()
    };
    let load = || {
        let mut object = load(&mut EbpfLoader::new())?;
        let btf = Btf::from_sys_fs().map_err(load_error)?;
        Ask::ALL.into_iter().try_for_each(|ask| load_lsm(&mut object, ask, &btf).map(drop))
    };
    if is_lsm_active() { load().err().map(text) } else { Some("bpf is not among the active LSMs".to_owned()) }
}

/// Whether BPF is among the LSMs that the kernel asks. Where the list cannot be read, loading must tell.
fn is_lsm_active() -> bool {
    fs::read_to_string("/sys/kernel/security/lsm").map_or(true, |list| list.trim().split(',').any(|lsm| lsm == "bpf"))
}

fn load_lsm(object: &mut Ebpf, ask: Ask, btf: &Btf) -> Result<OwnedFd, EnforceError> {
    let name = ask.program();
    let Some(Program::LsmCgroup(program)) = object.program_mut(name) else {
        return Err(load_error(format!("the object has no LSM program {name}")));
    };
    program.load(ask.lsm_hook(), btf).map_err(load_error)?;
    let fd = program.fd().map_err(load_error)?;
    fd.as_fd().try_clone_to_owned().map_err(load_error)
}

/// Loads copies of the interfaces' programs, with the pinned maps; those of the netdev hook for the pod in `slot`, those of the veth hook
/// for a host end, if its packets do not tell it.
///
/// Not with aya's loader, which reads and parses the BTF of the whole kernel each time, and none of these programs is
/// relocated by it: that would be most of the time that isolating a pod takes.
pub(super) fn copies<const N: usize>(
    maps: &Maps,
    slot: Slot,
    host_end: IfIndex,
    names: [&str; N],
) -> Result<[OwnedFd; N], EnforceError> {
    let mut object = parsed()?;
    // Putting functions together takes long, and is done for each program that is left.
    object.programs.retain(|name, _| names.contains(&name.as_str()));
    let (slot, host_end) = (slot.0.to_ne_bytes(), host_end.0.to_ne_bytes());
    let constants = [(names::NETDEV_SLOT, &slot), (names::HOST_END, &host_end)];
    let constants = constants.map(|(name, value)| (name, (value.as_slice(), true)));
    object.patch_map_data(constants.into()).map_err(load_error)?;
    let mut constants = Vec::new();
    let mut used = Vec::new();
    for (name, map) in &object.maps.clone() {
        let fd = match (maps.fd(name), map.section_kind()) {
            (Some(pinned), _) => pinned.as_raw_fd(),
            (None, EbpfSectionKind::Rodata) => {
                constants.push(sys::constants(map.data()).map_err(load_error)?);
                constants.last().expect("it was pushed just now").as_raw_fd()
            }
            (None, _) => return Err(load_error(format!("the object's map {name} is not among those that are pinned"))),
        };
        used.push((name.clone(), fd, map.clone()));
    }
    let text = object.functions.keys().map(|(section, _)| *section).collect();
    let used = used.iter().map(|(name, fd, map)| (name.as_str(), *fd, map));
    object.relocate_maps(used, &text).map_err(load_error)?;
    object.relocate_calls(&text).map_err(load_error)?;
    let mut copies = Vec::with_capacity(N);
    for name in names {
        let found = object.programs.get(name).and_then(|program| {
            let kind = match program.section {
                ProgramSection::SchedClassifier => bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS,
                ProgramSection::Xdp { .. } => bpf_prog_type::BPF_PROG_TYPE_XDP,
                _ => return None,
            };
            Some((program, kind))
        });
        let (program, kind) =
            found.ok_or_else(|| load_error(format!("the object has no program {name} for interfaces")))?;
        let instructions = &object.functions[&program.function_key()].instructions;
        copies.push(sys::prog_load(name, kind, instructions, &program.license).map_err(load_error)?);
    }
    Ok(copies.try_into().expect("one for each name"))
}

/// The object, to make copies of its programs of: parsed once, and without its debugging information, which no copy uses.
fn parsed() -> Result<Object, EnforceError> {
    static PARSED: OnceLock<Object> = OnceLock::new();
    if let Some(object) = PARSED.get() {
        return Ok(object.clone());
    }
    if OBJECT.is_empty() {
        return Err(EnforceError::NoObject);
    }
    let mut object = Object::parse(OBJECT).map_err(load_error)?;
    (object.btf, object.btf_ext) = (None, None);
    // Its map is pinned nowhere.
    if let Some(guard) = object.programs.remove(names::GUARD) {
        object.functions.remove(&guard.function_key());
        object.maps.remove(names::PROBES);
    }
    Ok(PARSED.get_or_init(|| object).clone())
}

/// Loads the program that stops probes from `source`, with maps of its own.
pub(super) fn guard(source: [u8; 6]) -> Result<(Ebpf, OwnedFd), EnforceError> {
    let mut loader = EbpfLoader::new();
    loader.override_global(names::PROBE_SOURCE, &source, true);
    let mut object = load(&mut loader)?;
    let program = load_program(&mut object, names::GUARD)?;
    Ok((object, program))
}

fn load_program(object: &mut Ebpf, name: &str) -> Result<OwnedFd, EnforceError> {
    let program = object.program_mut(name).ok_or_else(|| load_error(format!("the object has no program {name}")))?;
    match program {
        Program::SchedClassifier(classifier) => classifier.load(),
        Program::CgroupSkb(filter) => filter.load(),
        _ => return Err(load_error(format!("the object has a program {name} of another type"))),
    }
    .map_err(load_error)?;
    let fd = program.fd().map_err(load_error)?;
    fd.as_fd().try_clone_to_owned().map_err(load_error)
}

/// Parses the object and makes or opens its maps; loads no program yet.
fn load(loader: &mut EbpfLoader<'_>) -> Result<Ebpf, EnforceError> {
    if OBJECT.is_empty() {
        return Err(EnforceError::NoObject);
    }
    loader.load(OBJECT).map_err(load_error)
}

pub(super) fn load_error(error: impl Into<Box<dyn Error + Send + Sync>>) -> EnforceError {
    EnforceError::Load { source: error.into() }
}

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
    MapInfo::from_id(id).is_ok_and(|map| map.name_as_str() == Some(".rodata"))
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
