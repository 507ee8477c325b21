//! The kernel's BPF objects, seen from outside: what is pinned, what still exists, what is attached where.
//!
//! Reads only, and knows none of the agent's code.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::{
    maps::loaded_maps,
    programs::{SchedClassifier, TcAttachType, loaded_links, loaded_programs},
};

use crate::netns::Netns;

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

/// What a pin leads to; the kernel tells in `fdinfo`.
fn identify(pin: &Path) -> Option<Object> {
    let fd = open(pin).ok()?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let kind = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
    let id = |field: &str| info.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok());
    // A link's fdinfo names its program as well.
    match kind.to_string_lossy().as_ref() {
        "anon_inode:bpf_link" | "anon_inode:bpf-link" => id("link_id:").map(Object::Link),
        "anon_inode:bpf-map" => id("map_id:").map(Object::Map),
        "anon_inode:bpf-prog" => id("prog_id:").map(Object::Program),
        _ => None,
    }
}

/// `BPF_OBJ_GET` for a pin of any kind, which aya offers only where the kind is known.
fn open(pin: &Path) -> io::Result<OwnedFd> {
    const BPF_OBJ_GET: libc::c_long = 7;
    /// The beginning of `union bpf_attr` for this command.
    #[repr(C)]
    struct Attr {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(pin.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let attr = Attr { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the attribute and the path that it points to live until the call returns, and the size is the attribute's.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attr, size_of::<Attr>()) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel returned this descriptor just now; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
