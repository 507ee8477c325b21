//! The kernel's BPF objects, seen from outside: what is pinned, what still exists, what is attached where.
//!
//! Reads only, and knows none of the agent's code.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
    process::Command,
};

use aya::{
    maps::loaded_maps,
    programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_links, loaded_programs},
};

use crate::{feature, netdev, netns::Netns, program};

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

/// The names of the programs in a netkit chain, by the primary device, first to last.
pub fn netkit_chain(netns: &Netns, device: &str, place: program::Place) -> Vec<String> {
    let index = netdev::index(netns, device);
    let chain = netns.enter(|| program::chain(place, index));
    names_of(chain.unwrap_or_else(|error| panic!("netkit programs of {device}: {error}")))
}

/// The names of the programs that run on a cgroup's packets: into it, and out of it.
pub fn of_cgroup(cgroup: &Path) -> [Vec<String>; 2] {
    let programs = fs::File::open(cgroup).and_then(program::of_cgroup);
    programs.unwrap_or_else(|error| panic!("programs of {}: {error}", cgroup.display())).map(names_of)
}

fn names_of(programs: Vec<u32>) -> Vec<String> {
    let loaded: Vec<_> = loaded_programs().flatten().collect();
    let name = |id: u32| {
        let program = loaded.iter().find(|program| program.id() == id);
        program.and_then(|program| program.name_as_str().map(ToOwned::to_owned)).unwrap_or_default()
    };
    programs.into_iter().map(name).collect()
}

/// The program of a pinned link.
pub fn program_of_link(pin: &Path) -> OwnedFd {
    let link = program::open_pin(pin).unwrap_or_else(|error| panic!("{}: {error}", pin.display()));
    let wanted = field(&fdinfo(&link), "prog_id:").expect("a link's fdinfo names its program");
    let program = loaded_programs().flatten().find(|program| program.id() == wanted).expect("the link holds it");
    open(&program).expect("root may open a program")
}

/// A program of this name, if one is loaded at this moment.
pub fn program_named(name: &str) -> Option<OwnedFd> {
    let program = loaded_programs().flatten().find(|program| program.name_as_str() == Some(name))?;
    // It may have gone meanwhile.
    open(&program).ok()
}

fn open(program: &ProgramInfo) -> io::Result<OwnedFd> {
    let fd = program.fd().map_err(io::Error::other)?;
    fd.as_fd().try_clone_to_owned()
}

fn fdinfo(fd: &OwnedFd) -> String {
    fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap_or_default()
}

fn field(info: &str, name: &str) -> Option<u32> {
    info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// The names of the programs that a frame meets on a side of an interface, first to last: the tcx chain, then the filters.
pub fn programs(netns: &Netns, device: &str, direction: TcAttachType) -> Vec<String> {
    let mut names = if feature::has_tcx() { tcx_chain(netns, device, direction) } else { Vec::new() };
    names.extend(filters(netns, device, direction).into_iter().map(|filter| filter.program));
    names
}

/// A filter of a clsact qdisc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// `bpf`, `u32`, …
    pub kind: String,
    /// Lower ones run first.
    pub priority: u64,
    /// As `tc` shows it.
    pub handle: String,
    /// What whoever attached it calls it.
    pub name: String,
    /// Name of its program, as the kernel has it.
    pub program: String,
}

/// The filters on a side of an interface, in the order in which they run.
pub fn filters(netns: &Netns, device: &str, direction: TcAttachType) -> Vec<Filter> {
    let side = if direction == TcAttachType::Ingress { "ingress" } else { "egress" };
    let output = Command::new("tc")
        .args(["-n", netns.name(), "-json", "filter", "show", "dev", device, side])
        .output()
        .expect("iproute2 is installed");
    // Some versions print nothing at all where there are none.
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let lines = listed.as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let filter = |line: &serde_json::Value| {
        // The line without options stands for the priority.
        let options = line.get("options")?;
        Some(Filter {
            kind: text(&line["kind"]),
            priority: line["pref"].as_u64()?,
            handle: text(options.get("handle").or_else(|| options.get("fh"))?),
            name: text(&options["bpf_name"]),
            program: text(&options["prog"]["name"]),
        })
    };
    lines.iter().filter_map(filter).collect()
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
