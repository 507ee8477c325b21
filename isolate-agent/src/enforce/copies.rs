//! Programs that are loaded without aya: those of the veth hook that are pinned, and copies: in front where the pinned ones are in the
//! chain already, and with constants of their own.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    sync::OnceLock,
};

use aya_obj::{EbpfSectionKind, Object, ProgramSection, generated::bpf_prog_type};
use isolate_common::{Direction, names};

use super::{
    EnforceError,
    maps::Maps,
    object::{OBJECT, load_error},
    sys,
};
use crate::{inventory::IfIndex, observed::Slot};

/// The packet tells it.
const NO_HOST_END: IfIndex = IfIndex(0);

/// The copies that were loaded last.
#[derive(Debug, Default)]
pub(super) struct VethCopies {
    last: Option<[OwnedFd; 2]>,
}

impl VethCopies {
    /// A copy of the program for a direction; a fresh one is in no chain yet.
    pub(super) fn of(&mut self, maps: &Maps, direction: Direction, fresh: bool) -> Result<&OwnedFd, EnforceError> {
        if fresh || self.last.is_none() {
            self.last = Some(of_veth_hook(maps)?);
        }
        let copies = self.last.as_ref().expect("it was set above");
        Ok(&copies[direction as usize])
    }
}

/// A copy of the veth hook's programs, in and out, whose packets tell the host end.
pub(super) fn of_veth_hook(maps: &Maps) -> Result<[OwnedFd; 2], EnforceError> {
    load(maps, Slot::NOBODYS, NO_HOST_END, [names::VETH_IN, names::VETH_OUT])
}

/// A copy of one of the netdev hook's programs for the pod in a slot.
pub(super) fn of_slot(maps: &Maps, slot: Slot, name: &'static str) -> Result<OwnedFd, EnforceError> {
    load(maps, slot, NO_HOST_END, [name]).map(|[program]| program)
}

/// A copy of the veth hook's program for what goes into a pod, which knows the pod's host end.
pub(super) fn of_host_end(maps: &Maps, ifindex: IfIndex) -> Result<OwnedFd, EnforceError> {
    load(maps, Slot::NOBODYS, ifindex, [names::VETH_IN]).map(|[program]| program)
}

/// Loads copies of the interfaces' programs, with the pinned maps; those of the netdev hook for the pod in `slot`, those of the veth hook
/// for a host end, if its packets do not tell it.
///
/// Not with aya's loader, which reads and parses the BTF of the whole kernel each time, and none of these programs is
/// relocated by it: that would be most of the time that isolating a pod takes.
fn load<const N: usize>(
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
            // The programs' only variable: in its place they read what the gate holds.
            (None, EbpfSectionKind::Data) if map.data().len() == size_of::<u32>() => {
                maps.fd(names::GATE).expect("all are opened together").as_raw_fd()
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
