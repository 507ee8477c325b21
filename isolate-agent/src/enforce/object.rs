//! The BPF object: loaded and pinned once, its programs opened from their pins ever after (parsing it takes longer than all else that
//! a command does).

use std::{
    error::Error,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
};

use aya::{Btf, Ebpf, EbpfLoader, programs::Program};
use isolate_common::{Ask, KernelError, names};

use super::{
    EnforceError, MAX_ALLOWED_IN_ALL, copies,
    maps::Maps,
    pin::{NEXT, unpin},
    pins, sys, upgrade,
};
use crate::fault;

/// The compiled isolate-ebpf; empty in a build that did not have it.
pub(super) static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/isolate-ebpf"));

/// Host veths that can be keyed for each isolated pod, on the average: most have one, Multus adds a few.
const VETHS_PER_POD: u32 = 2;

/// Probe connections that are known at a time, of all pods together. With more, the kernel forgets the oldest.
const FLOWS: u32 = 8192;

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
    pin_programs(&mut object, &draft, &Maps::open(&draft)?)?;
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
    pin_programs(&mut object, folder, maps)?;
    // aya makes and pins a new map where it finds no pin: such a program would know of no isolation.
    if let Some((path, _)) = maps.unpinned(folder).next() {
        return Err(load_error(format!("{} was removed a moment ago", path.display())));
    }
    Ok(())
}

/// Loads the programs one copy of which serves all pods, and pins them in the place of those that may be pinned already. The netdev
/// programs are loaded for one pod each.
fn pin_programs(object: &mut Ebpf, folder: &Path, maps: &Maps) -> Result<(), EnforceError> {
    for name in [names::CGROUP_IN, names::CGROUP_OUT] {
        pin_over(folder, name, load_program(object, name)?.as_fd())?;
    }
    for (name, program) in [names::VETH_IN, names::VETH_OUT].into_iter().zip(copies::of_veth_hook(maps)?) {
        pin_over(folder, name, program.as_fd())?;
    }
    install_lsm(object, folder)
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
