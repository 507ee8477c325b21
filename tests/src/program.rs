//! BPF programs of a handful of instructions, written out: what an attacker would attach, how a CNI forwards, and what
//! measurements are compared with. Loads, attaches and runs them, and runs what others have loaded.
//!
//! The product's object carries no test programs, and these need no compiler.

use std::{
    ffi::CString,
    fs, io,
    mem::zeroed,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::Btf;
use aya_obj::{
    btf::BtfKind,
    generated::{BPF_F_BEFORE, XDP_FLAGS_SKB_MODE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type},
};

use crate::{netdev, netns::Netns};

/// Where on an interface a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// tcx ingress.
    TcxIngress,
    /// tcx egress.
    TcxEgress,
    /// What the primary one of two netkit devices sends.
    NetkitPrimary,
    /// What its peer sends.
    NetkitPeer,
    /// XDP, in generic mode.
    Xdp,
}

impl Place {
    fn kind(self) -> (bpf_prog_type, bpf_attach_type) {
        match self {
            Self::TcxIngress => (bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, bpf_attach_type::BPF_TCX_INGRESS),
            Self::TcxEgress => (bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, bpf_attach_type::BPF_TCX_EGRESS),
            Self::NetkitPrimary => (bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, bpf_attach_type::BPF_NETKIT_PRIMARY),
            Self::NetkitPeer => (bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, bpf_attach_type::BPF_NETKIT_PEER),
            Self::Xdp => (bpf_prog_type::BPF_PROG_TYPE_XDP, bpf_attach_type::BPF_XDP),
        }
    }
}

/// Loads a program that answers this number for every packet and attaches it in front of all others, until the link is closed.
pub fn answer_first(place: Place, ifindex: u32, answer: i32) -> io::Result<OwnedFd> {
    attach_first(place, ifindex, &load(place.kind().0, &[put(0, answer), EXIT])?)
}

/// Loads a tc program that answers this number for every packet.
pub fn classifier(answer: i32) -> io::Result<OwnedFd> {
    load(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, &[put(0, answer), EXIT])
}

/// Loads a `cgroup_skb` program that answers this number for every packet.
pub fn cgroup_filter(answer: i32) -> io::Result<OwnedFd> {
    load(bpf_prog_type::BPF_PROG_TYPE_CGROUP_SKB, &[put(0, answer), EXIT])
}

/// Loads an XDP program that answers this number for every frame.
pub fn xdp(answer: i32) -> io::Result<OwnedFd> {
    load(bpf_prog_type::BPF_PROG_TYPE_XDP, &[put(0, answer), EXIT])
}

/// How a CNI with eBPF host routing forwards: what comes in at `from` is put straight into the namespace behind `to`, past the
/// programs of `to` itself (`bpf_redirect_peer`, kernel 5.10). Both are the host ends of veths in `netns`.
pub fn redirect_peer(netns: &Netns, from: &str, to: &str) -> io::Result<OwnedFd> {
    const BPF_FUNC_REDIRECT_PEER: i32 = 155;
    let [from, to] = [from, to].map(|name| netdev::index(netns, name));
    let program = [put(1, to.cast_signed()), put(2, 0), call(BPF_FUNC_REDIRECT_PEER), EXIT];
    let program = load(Place::TcxIngress.kind().0, &program)?;
    netns.enter(|| attach_first(Place::TcxIngress, from, &program))
}

/// `BPF_EXIT`.
const EXIT: bpf_insn = instruction(0x95, 0, 0);

/// A 64-bit move of a number into a register.
const fn put(register: u8, value: i32) -> bpf_insn {
    instruction(0xb7, register, value)
}

/// A call of a helper.
const fn call(helper: i32) -> bpf_insn {
    instruction(0x85, 0, helper)
}

const fn instruction(code: u8, destination: u8, imm: i32) -> bpf_insn {
    // The low half of this byte is the destination register, the high half the source.
    bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: aya_obj::generated::__BindgenBitfieldUnit::new([destination]),
        off: 0,
        imm,
    }
}

fn load(kind: bpf_prog_type, program: &[bpf_insn]) -> io::Result<OwnedFd> {
    let mut attr = none();
    // SAFETY: this command reads this member of the union; each field is a plain integer.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = kind as u32;
    load.insns = program.as_ptr() as u64;
    load.insn_cnt = program.len().try_into().map_err(io::Error::other)?;
    load.license = c"GPL".as_ptr() as u64;
    new_fd(bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr)?)
}

/// Attaches a program to an interface of this thread's namespace, in front of all others, until the link is closed.
pub fn attach_first(place: Place, ifindex: u32, program: &impl AsFd) -> io::Result<OwnedFd> {
    let mut attr = none();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_fd().as_raw_fd().cast_unsigned();
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = place.kind().1 as u32;
    attr.link_create.flags = if place == Place::Xdp { XDP_FLAGS_SKB_MODE } else { BPF_F_BEFORE };
    new_fd(bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?)
}

/// Ids of the programs in a chain of an interface of this thread's namespace, first to last (the first 64).
pub fn chain(place: Place, ifindex: u32) -> io::Result<Vec<u32>> {
    query(place.kind().1, ifindex, 0)
}

/// Ids of the `cgroup_skb` programs that run on a cgroup's packets, its ancestors' included: into it, and out of it (the first 64 of
/// each).
pub fn of_cgroup(cgroup: impl AsFd) -> io::Result<[Vec<u32>; 2]> {
    /// `BPF_F_QUERY_EFFECTIVE` of include/uapi/linux/bpf.h.
    const EFFECTIVE: u32 = 1;
    let cgroup = cgroup.as_fd().as_raw_fd().cast_unsigned();
    let of = |kind| query(kind, cgroup, EFFECTIVE);
    Ok([of(bpf_attach_type::BPF_CGROUP_INET_INGRESS)?, of(bpf_attach_type::BPF_CGROUP_INET_EGRESS)?])
}

/// `BPF_PROG_QUERY`; `target` is an interface or the file descriptor of a cgroup, as the kind has it: one field for both.
fn query(kind: bpf_attach_type, target: u32, flags: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; 64];
    let mut attr = none();
    attr.query.attach_type = kind as u32;
    attr.query.__bindgen_anon_1.target_ifindex = target;
    attr.query.query_flags = flags;
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.count = 64;
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    Ok(ids.into_iter().take_while(|id| *id != 0).collect())
}

/// Attaches a `cgroup_skb` program to what a cgroup's sockets send, until the link is closed.
pub fn attach_to_cgroup_egress(cgroup: impl AsFd, program: &impl AsFd) -> io::Result<OwnedFd> {
    let mut attr = none();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_fd().as_raw_fd().cast_unsigned();
    attr.link_create.__bindgen_anon_2.target_fd = cgroup.as_fd().as_raw_fd().cast_unsigned();
    attr.link_create.attach_type = bpf_attach_type::BPF_CGROUP_INET_EGRESS as u32;
    new_fd(bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?)
}

/// `BPF_OBJ_GET`: opens what is pinned there, whatever it is.
pub fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut attr = none();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    new_fd(bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?)
}

/// `BPF_PROG_TEST_RUN`: runs a program `repeat` times on a frame that came in on an interface of this thread's namespace;
/// returns its answer.
pub fn test_run(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32, repeat: u32) -> io::Result<u32> {
    test_run_from(program, frame, [0, ifindex], repeat)
}

/// The same for a frame that first came in on another interface, by its number (0 for one that was made here).
pub fn test_run_from(program: BorrowedFd<'_>, frame: &[u8], indexes: [u32; 2], repeat: u32) -> io::Result<u32> {
    /// Offset of `ingress_ifindex` and of `ifindex`, behind it, in `struct __sk_buff`.
    const INDEXES_AT: usize = 36;
    let mut context = [0_u8; 192];
    context[INDEXES_AT..INDEXES_AT + 8].copy_from_slice(&indexes.map(u32::to_ne_bytes).concat());
    run(program, frame, &context, repeat)
}

/// The same for an XDP program, which is told of no interface.
pub fn test_run_xdp(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<u32> {
    run(program, frame, &[], repeat)
}

fn run(program: BorrowedFd<'_>, frame: &[u8], context: &[u8], repeat: u32) -> io::Result<u32> {
    let mut attr = none();
    attr.test.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.test.data_in = frame.as_ptr() as u64;
    attr.test.data_size_in = frame.len().try_into().map_err(io::Error::other)?;
    attr.test.repeat = repeat;
    attr.test.ctx_in = if context.is_empty() { 0 } else { context.as_ptr() as u64 };
    attr.test.ctx_size_in = u32::try_from(context.len()).map_err(io::Error::other)?;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: the kernel has filled this member in.
    Ok(unsafe { attr.test.retval })
}

/// Why this kernel takes no LSM programs for cgroups: what loading the smallest one gave. Attaches nothing.
pub fn lsm_missing() -> Option<String> {
    let load = || {
        let btf = Btf::from_sys_fs().map_err(io::Error::other)?;
        let hook = btf.id_by_type_name_kind("bpf_lsm_socket_create", BtfKind::Func).map_err(io::Error::other)?;
        let mut attr = none();
        // SAFETY: this command reads this member of the union; each field is a plain integer.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        let program = [put(0, 1), EXIT];
        load.prog_type = bpf_prog_type::BPF_PROG_TYPE_LSM as u32;
        load.expected_attach_type = bpf_attach_type::BPF_LSM_CGROUP as u32;
        load.attach_btf_id = hook;
        load.insns = program.as_ptr() as u64;
        load.insn_cnt = program.len().try_into().map_err(io::Error::other)?;
        load.license = c"GPL".as_ptr() as u64;
        new_fd(bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr)?)
    };
    let active = fs::read_to_string("/sys/kernel/security/lsm").map(|list| list.contains("bpf"));
    match (load(), active) {
        // Such a kernel takes them and never runs them.
        (Ok(_), Ok(false)) => Some("bpf is not among the active LSMs".to_owned()),
        (Ok(_), _) => None,
        (Err(error), _) => Some(error.to_string()),
    }
}

fn none() -> bpf_attr {
    // SAFETY: a union of plain integers and arrays of them: all zeroes is a value of each.
    unsafe { zeroed() }
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: the attribute was zeroed before the fields of the command were set, and what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn new_fd(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
