//! The BPF programs: entry points only. Maps and what is read from them are in [`lookup`].
//!
//! They parse nothing: an isolated pod's packet is dropped whatever it holds, so no packet can confuse them.
#![no_std]
#![no_main]
#![expect(clippy::inline_always, reason = "a call per packet is a cost, and old verifiers follow none with a context")]
#![expect(clippy::needless_pass_by_value, reason = "the program macros hand over the context")]

mod guard;
mod lookup;
mod lsm;
mod report;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::{cgroup_skb, classifier},
    programs::{SkBuffContext, TcContext},
};
use isolate_common::{Direction, GATE_SHUT, Hook, Lookup, Verdict, verdict};

use crate::lookup::{Attribution, count, gate, own_slot, policy, slot_of_cgroup, slot_of_ifindex};

/// What a `cgroup_skb` program returns to let a packet go on; 0 drops it (on egress the sender sees EPERM).
const CGROUP_PASS: i32 = 1;
const CGROUP_DROP: i32 = 0;

/// Loopback is the first interface of every network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h), and no other
/// interface can have its number there.
const LOOPBACK_IFINDEX: u32 = 1;

/// Frames into the pod. `TC_ACT_UNSPEC` is -1, which tcx calls `TCX_NEXT`: the next program decides.
#[classifier]
fn iso_veth_in(ctx: TcContext) -> i32 {
    veth(&ctx, Direction::In)
}

/// Frames out of the pod.
#[classifier]
fn iso_veth_out(ctx: TcContext) -> i32 {
    veth(&ctx, Direction::Out)
}

/// Frames that come in on an interface inside the pod's namespace.
#[classifier]
fn iso_netdev_in(ctx: TcContext) -> i32 {
    netdev(&ctx, Direction::In)
}

/// Frames that go out on an interface inside the pod's namespace.
#[classifier]
fn iso_netdev_out(ctx: TcContext) -> i32 {
    netdev(&ctx, Direction::Out)
}

/// Packets for the pod's sockets.
#[cgroup_skb(ingress)]
fn iso_cgroup_in(ctx: SkBuffContext) -> i32 {
    cgroup(&ctx, Direction::In)
}

/// Packets from the pod's sockets.
#[cgroup_skb(egress)]
fn iso_cgroup_out(ctx: SkBuffContext) -> i32 {
    cgroup(&ctx, Direction::Out)
}

/// Behind one of the programs above while it is being verified: drops the probes that it let through, and counts them.
#[classifier]
fn iso_guard(ctx: TcContext) -> i32 {
    if guard::is_probe(&ctx) { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

/// Attached to every armed pod's host veth, so the way of a healthy pod's packet is short: the gate, then one look-up.
#[inline(always)]
fn veth(ctx: &TcContext, direction: Direction) -> i32 {
    if gate() == GATE_SHUT {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: the kernel hands the program a valid __sk_buff.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    match decide(slot_of_ifindex(ifindex), Hook::Veth, direction, ctx.len(), false) {
        Verdict::NoOpinion => TC_ACT_UNSPEC,
        Verdict::Drop => TC_ACT_SHOT,
    }
}

/// Loaded for and attached to one isolated pod only.
#[inline(always)]
fn netdev(ctx: &TcContext, direction: Direction) -> i32 {
    match decide(Attribution::Slot(own_slot()), Hook::Netdev, direction, ctx.len(), false) {
        Verdict::NoOpinion => TC_ACT_UNSPEC,
        Verdict::Drop => TC_ACT_SHOT,
    }
}

/// Attached to an isolated pod's cgroup only.
#[inline(always)]
fn cgroup(ctx: &SkBuffContext, direction: Direction) -> i32 {
    // SAFETY: the kernel hands the program a valid __sk_buff. Without a device the field reads 0, which is no loopback.
    let on_loopback = unsafe { (*ctx.skb.skb).ifindex } == LOOPBACK_IFINDEX;
    match decide(slot_of_cgroup(ctx), Hook::Cgroup, direction, ctx.len(), on_loopback) {
        Verdict::NoOpinion => CGROUP_PASS,
        Verdict::Drop => CGROUP_DROP,
    }
}

#[inline(always)]
fn decide(attribution: Attribution, hook: Hook, direction: Direction, bytes: u32, on_loopback: bool) -> Verdict {
    match attribution {
        Attribution::Nobody => verdict(Lookup::NotIsolated, on_loopback),
        Attribution::Unknown => verdict(Lookup::Broken, on_loopback),
        Attribution::Slot(slot) => {
            let decided = verdict(policy(slot), on_loopback);
            if matches!(decided, Verdict::Drop) {
                count(slot, hook, direction, bytes);
            }
            decided
        }
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
