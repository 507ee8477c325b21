//! The bpf(2) calls that aya has no form for: links by ifindex, pins without a program object, what a link holds on to.
//!
//! The only place with the raw system call; links are in [`link`]. Every function says in its name which command it is.

mod link;

use std::{
    ffi::{CStr, CString, c_char},
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::Pod;
use aya_obj::generated::{
    BPF_F_RDONLY_PROG, bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_map_type, bpf_prog_info, bpf_prog_type,
};

pub(super) use self::link::{LinkFacts, Place, Target, link_create, link_detach, link_facts, link_update};
use crate::fault;

/// The kernel's word for a command that this kind of map does not have; `errno(3)` does not know it.
pub(super) const ENOTSUPP: i32 = 524;

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a whole bpf_attr that was zeroed before the fields of `command` were set, and every pointer in
    // it points to memory that outlives the call (the callers below borrow it for as long).
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain integers and arrays of them: all zeroes is a value of each, and the kernel wants it so.
    unsafe { std::mem::zeroed() }
}

fn as_fd_field(fd: RawFd) -> u32 {
    fd.cast_unsigned()
}

fn new_fd(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// `BPF_OBJ_GET`: opens what is pinned at `path`.
pub(super) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    new_fd(bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?)
}

/// `BPF_OBJ_PIN`: pins `fd` at `path`, which must not exist. Names on bpffs must not hold a dot.
pub(super) fn obj_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    fault::at("pin")?;
    let path = c_path(path)?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = as_fd_field(fd.as_raw_fd());
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// `BPF_MAP_LOOKUP_BATCH`: the `count` values of an array from index `first` on, of each its `each` in turn: those of all possible
/// CPUs if the array is per CPU, else one. One call where thousands of slots would take thousands of them. Since Linux 5.6; per
/// CPU since 5.13 (commit f008d732ab18), ENOTSUPP before. A value's size must be a multiple of 8 bytes if there are several.
pub(super) fn array_values<T: Pod + Default>(
    map: BorrowedFd<'_>,
    first: u32,
    count: u32,
    each: usize,
) -> io::Result<Vec<T>> {
    let length = usize::try_from(count).map_err(io::Error::other)?;
    let (mut keys, mut values, mut next) = (vec![0_u32; length], vec![T::default(); length * each], 0_u32);
    let mut attr = zeroed();
    attr.batch.map_fd = as_fd_field(map.as_raw_fd());
    // The index before the first one, where there is one.
    let before = first.checked_sub(1);
    attr.batch.in_batch = before.as_ref().map_or(0, |before| std::ptr::from_ref(before) as u64);
    attr.batch.out_batch = (&raw mut next) as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = count;
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
        // It has come to the end of the map (generic_map_lookup_batch, kernel/bpf/syscall.c).
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    // SAFETY: the kernel has filled this member in.
    let found = unsafe { attr.batch.count };
    if found == count { Ok(values) } else { Err(io::Error::other(format!("{found} of {count} values were read"))) }
}

/// What the map of an object's constants is called, here as by aya.
pub(super) const CONSTANTS: &str = ".rodata";

/// `BPF_MAP_CREATE` and the calls that make it a constant: an array of one value, as the constants of an object are kept.
pub(super) fn constants(value: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: this command reads this member of the union; each field is a plain integer.
    let map = unsafe { &mut attr.__bindgen_anon_1 };
    map.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    map.key_size = 4;
    map.value_size = u32::try_from(value.len()).map_err(io::Error::other)?;
    map.max_entries = 1;
    map.map_flags = BPF_F_RDONLY_PROG;
    set_name(&mut map.map_name, CONSTANTS);
    let map = new_fd(bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr)?)?;

    let key = 0_u32;
    let mut attr = zeroed();
    // SAFETY: this command reads this member of the union; each field is a plain integer.
    let entry = unsafe { &mut attr.__bindgen_anon_2 };
    entry.map_fd = as_fd_field(map.as_raw_fd());
    entry.key = (&raw const key) as u64;
    entry.__bindgen_anon_1.value = value.as_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr)?;

    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = as_fd_field(map.as_raw_fd());
    bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr)?;
    Ok(map)
}

/// `BPF_PROG_LOAD` of a program for interfaces. `name` is what `bpftool` shows, at most 15 bytes.
pub(super) fn prog_load(
    name: &str,
    kind: bpf_prog_type,
    instructions: &[bpf_insn],
    license: &CStr,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: this command reads this member of the union; each field is a plain integer.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = kind as u32;
    if kind == bpf_prog_type::BPF_PROG_TYPE_XDP {
        load.expected_attach_type = bpf_attach_type::BPF_XDP as u32;
    }
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    load.license = license.as_ptr() as u64;
    set_name(&mut load.prog_name, name);
    new_fd(bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr)?)
}

/// The last byte stays zero.
fn set_name(field: &mut [c_char; 16], name: &str) {
    for (to, from) in field.iter_mut().take(15).zip(name.bytes()) {
        *to = from.cast_signed();
    }
}

/// `BPF_MAP_LOOKUP_ELEM`; `value` has as many bytes as the map's values, per-CPU maps' once for each possible CPU.
pub(super) fn map_lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = as_fd_field(map.as_raw_fd());
    attr.__bindgen_anon_2.key = key.as_ptr() as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr).map(drop)
}

/// `BPF_MAP_UPDATE_ELEM`, likewise.
pub(super) fn map_update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = as_fd_field(map.as_raw_fd());
    attr.__bindgen_anon_2.key = key.as_ptr() as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// `BPF_MAP_GET_NEXT_KEY`: the key after this one, or the first; whether there is one.
pub(super) fn map_next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = as_fd_field(map.as_raw_fd());
    attr.__bindgen_anon_2.key = key.map_or(0, |key| key.as_ptr() as u64);
    attr.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
    match bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        other => other.map(|_| true),
    }
}

/// What a program says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProgramFacts {
    /// Its id; no other program ever gets it.
    pub(super) id: u32,
    /// Its type, a `bpf_prog_type`.
    pub(super) kind: u32,
    /// What the kernel keeps of its name.
    pub(super) name: String,
    /// Ids of the maps that it uses.
    pub(super) maps: Vec<u32>,
}

/// `BPF_PROG_GET_NEXT_ID`: the id of the loaded program after this one (needs `CAP_SYS_ADMIN`).
pub(super) fn next_program(id: u32) -> io::Result<Option<u32>> {
    let mut attr = zeroed();
    attr.__bindgen_anon_6.__bindgen_anon_1.start_id = id;
    match bpf(bpf_cmd::BPF_PROG_GET_NEXT_ID, &mut attr) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
        // SAFETY: the kernel has filled this member in.
        Ok(_) => Ok(Some(unsafe { attr.__bindgen_anon_6.next_id })),
    }
}

/// `BPF_PROG_GET_FD_BY_ID`: opens a loaded program (needs `CAP_SYS_ADMIN`).
pub(super) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    new_fd(bpf(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr)?)
}

/// `BPF_OBJ_GET_INFO_BY_FD` on a program.
pub(super) fn program_facts(program: BorrowedFd<'_>) -> io::Result<ProgramFacts> {
    /// More than any program of ours uses.
    const MOST_MAPS: usize = 64;
    let mut maps = [0_u32; MOST_MAPS];
    // SAFETY: plain integers; the kernel overwrites what it knows of.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    info.map_ids = maps.as_mut_ptr() as u64;
    info.nr_map_ids = u32::try_from(MOST_MAPS).expect("a handful");
    let mut attr = zeroed();
    attr.info.bpf_fd = as_fd_field(program.as_raw_fd());
    attr.info.info_len = u32::try_from(size_of::<bpf_prog_info>()).expect("some hundred bytes");
    attr.info.info = (&raw mut info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    let used = usize::try_from(info.nr_map_ids).map_err(io::Error::other)?.min(MOST_MAPS);
    let name: Vec<u8> = info.name.iter().map(|byte| byte.cast_unsigned()).take_while(|byte| *byte != 0).collect();
    let (name, maps) = (String::from_utf8_lossy(&name).into_owned(), maps[..used].to_vec());
    Ok(ProgramFacts { id: info.id, kind: info.type_, name, maps })
}

/// As many as are listed of a chain.
pub(super) const LISTED: usize = 64;

/// What stands in one chain of an interface, in the order in which it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// Ids of the programs.
    pub(super) programs: Vec<u32>,
    /// Ids of their links; 0 for a program that is attached without one.
    pub(super) links: Vec<u32>,
}

/// `BPF_PROG_QUERY` on a chain of tcx or of netkit.
pub(super) fn chain(ifindex: u32, attach_type: bpf_attach_type) -> io::Result<Chain> {
    let (mut programs, mut links) = ([0_u32; LISTED], [0_u32; LISTED]);
    let mut attr = zeroed();
    attr.query.attach_type = attach_type as u32;
    attr.query.__bindgen_anon_1.target_ifindex = ifindex;
    attr.query.prog_ids = programs.as_mut_ptr() as u64;
    attr.query.link_ids = links.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.count = u32::try_from(LISTED).expect("a handful");
    match bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) {
        // With more than fit, the kernel has copied as many as do (bpf_mprog_query, kernel/bpf/mprog.c).
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {}
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    let programs: Vec<u32> = programs.into_iter().take_while(|id| *id != 0).collect();
    let links = links[..programs.len()].to_vec();
    Ok(Chain { programs, links })
}
