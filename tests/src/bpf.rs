//! The kernel's BPF objects, seen from outside: what is pinned, what still exists, what is attached where.
//!
//! Reads only, and knows none of the agent's code.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
};

use aya::{
    maps::loaded_maps,
    programs::{SchedClassifier, TcAttachType, loaded_links, loaded_programs},
};

use crate::{netns::Netns, program};

/// A BPF object, by the id that the kernel gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// A link.
    Link(u32),
    /// A map.
    Map(u32),
    /// A program.
    Program(u32),
}

/// The objects pinned in a folder on a bpffs and below.
pub fn pinned(folder: &Path) -> Vec<Object> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let of_entry = |path: &Path| if path.is_dir() { pinned(path) } else { identify(path).into_iter().collect() };
    entries.flatten().flat_map(|entry| of_entry(&entry.path())).collect()
}

/// Those of the objects that still exist.
pub fn alive(objects: &[Object]) -> Vec<Object> {
    let links: Vec<u32> = loaded_links().flatten().map(|link| link.id()).collect();
    let maps: Vec<u32> = loaded_maps().flatten().map(|map| map.id()).collect();
    let programs: Vec<u32> = loaded_programs().flatten().map(|program| program.id()).collect();
    let exists = |object: &&Object| match object {
        Object::Link(id) => links.contains(id),
        Object::Map(id) => maps.contains(id),
        Object::Program(id) => programs.contains(id),
    };
    objects.iter().filter(exists).copied().collect()
}

/// The names of the programs in the tcx chain of an interface, first to last.
pub fn tcx_chain(netns: &Netns, device: &str, direction: TcAttachType) -> Vec<String> {
    let (_revision, programs) = netns
        .enter(|| SchedClassifier::query_tcx(device, direction))
        .unwrap_or_else(|e| panic!("tcx of {device}: {e}"));
    programs.iter().map(|program| program.name_as_str().unwrap_or_default().to_owned()).collect()
}

/// The program of a pinned link.
pub fn program_of_link(pin: &Path) -> OwnedFd {
    let link = program::open_pin(pin).unwrap_or_else(|error| panic!("{}: {error}", pin.display()));
    let wanted = field(&fdinfo(&link), "prog_id:").expect("a link's fdinfo names its program");
    let program = loaded_programs().flatten().find(|program| program.id() == wanted).expect("the link holds it");
    let fd = program.fd().expect("root may open a program");
    fd.as_fd().try_clone_to_owned().expect("a descriptor can be copied")
}

fn fdinfo(fd: &OwnedFd) -> String {
    fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap_or_default()
}

fn field(info: &str, name: &str) -> Option<u32> {
    info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// What a pin leads to; the kernel tells in `fdinfo`.
fn identify(pin: &Path) -> Option<Object> {
    let fd = program::open_pin(pin).ok()?;
    let info = fdinfo(&fd);
    let kind = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
    let id = |name| field(&info, name);
    // A link's fdinfo names its program as well.
    match kind.to_string_lossy().as_ref() {
        "anon_inode:bpf_link" | "anon_inode:bpf-link" => id("link_id:").map(Object::Link),
        "anon_inode:bpf-map" => id("map_id:").map(Object::Map),
        "anon_inode:bpf-prog" => id("prog_id:").map(Object::Program),
        _ => None,
    }
}
