//! The LSM hook: what an isolated pod's processes may not ask the kernel for. Attached to an isolated pod's cgroup only, so
//! there is nothing to look up but whom to count it for.
//!
//! For a socket the kernel asks the programs of the cgroup that made it, for everything else those of the process's own
//! (`bpf_lsm_find_cgroup_shim`, `kernel/bpf/bpf_lsm.c`).

use aya_ebpf::{macros::lsm_cgroup, programs::LsmContext};
use isolate_common::{Ask, Hook};

use crate::lookup::{count, slot_of_process};

/// What an `lsm_cgroup` program returns: 0 has the kernel answer `EPERM`.
const ALLOW: i32 = 1;
const DENY: i32 = 0;

const AF_PACKET: u16 = 17;
const AF_XDP: u16 = 44;
const CAP_NET_ADMIN: i32 = 12;

/// Offset of `sk` in `struct socket`, and of `skc_family` in `struct sock`, which begins with a `struct sock_common`
/// (include/linux/net.h, include/net/sock.h). The verifier checks them against the running kernel's BTF: elsewhere the first
/// would be no pointer to a socket, and the programs would not load.
const SOCKET_SK: usize = 24;
const SOCK_FAMILY: usize = 16;

#[lsm_cgroup(hook = "socket_create")]
fn iso_lsm_create(ctx: LsmContext) -> i32 {
    let (family, by_kernel): (i32, i32) = (ctx.arg(0), ctx.arg(3));
    let is_packet = family == i32::from(AF_PACKET) || family == i32::from(AF_XDP);
    answer(Ask::Create, is_packet && by_kernel == 0)
}

#[lsm_cgroup(hook = "socket_sendmsg")]
fn iso_lsm_send(ctx: LsmContext) -> i32 {
    answer(Ask::Send, is_packet(&ctx))
}

#[lsm_cgroup(hook = "socket_recvmsg")]
fn iso_lsm_receive(ctx: LsmContext) -> i32 {
    answer(Ask::Receive, is_packet(&ctx))
}

#[lsm_cgroup(hook = "capable")]
fn iso_lsm_capable(ctx: LsmContext) -> i32 {
    let capability: i32 = ctx.arg(2);
    answer(Ask::Capable, capability == CAP_NET_ADMIN)
}

/// Whether the hook's first argument, a `struct socket`, is a packet socket. One that has no `struct sock` any more sends and
/// receives nothing.
#[inline(always)]
#[expect(clippy::cast_ptr_alignment, reason = "members of the kernel's own structures are aligned")]
fn is_packet(ctx: &LsmContext) -> bool {
    let socket: *const u8 = ctx.arg(0);
    // SAFETY: the kernel hands over a valid socket, and the verifier checks the offset. Volatile, so that the load stays one of
    // this offset from the argument.
    let sock = unsafe { socket.add(SOCKET_SK).cast::<*const u8>().read_volatile() };
    if sock.is_null() {
        return false;
    }
    // SAFETY: as above; a pointer that does not hold any more reads 0.
    let family = unsafe { sock.add(SOCK_FAMILY).cast::<u16>().read_volatile() };
    family == AF_PACKET || family == AF_XDP
}

#[inline(always)]
fn answer(ask: Ask, refused: bool) -> i32 {
    if !refused {
        return ALLOW;
    }
    if let Some(slot) = slot_of_process() {
        count(slot, None, Hook::Lsm, ask.direction(), 0);
    }
    DENY
}
