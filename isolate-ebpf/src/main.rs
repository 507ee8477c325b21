//! The BPF programs: entry points only. Maps and what is read from them are in [`lookup`].
//!
//! They read no packet: an isolated pod's is dropped whatever it holds, so none can confuse them. Only for a pod that has
//! exemptions is it read, in [`exempt`].
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(clippy::inline_always, reason = "a call per packet is a cost, and old verifiers follow none with a context")]
#![expect(clippy::needless_pass_by_value, reason = "the program macros hand over the context")]

mod exempt;
mod frame;
mod guard;
mod lookup;
mod lsm;
mod probe;
mod report;
mod unseen;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::{cgroup_skb, classifier, xdp},
    programs::{SkBuffContext, TcContext, XdpContext},
};
use isolate_common::{Direction, Exemption, Hook, Lookup, Policy, Verdict, verdict};

use crate::lookup::{Attribution, count, host_end, is_gate_shut, own_slot, policy, slot_of_cgroup, slot_of_ifindex};

/// What a `cgroup_skb` program returns to let a packet go on; 0 drops it (on egress the sender sees EPERM).
const CGROUP_PASS: i32 = 1;
const CGROUP_DROP: i32 = 0;

/// Loopback is the first interface of every network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h), and no other
/// interface can have its number there.
const LOOPBACK_IFINDEX: u32 = 1;

/// Frames into the pod. `TC_ACT_UNSPEC` is -1, which tcx calls `TCX_NEXT` and netkit `NETKIT_NEXT`: the next program decides.
/// `TC_ACT_SHOT` is their "drop" as well (`netkit_init`, drivers/net/netkit.c, builds with no other numbers).
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

/// The same for a pod without exemptions: no frame is read, which the verifier is done with in no time.
#[classifier]
fn iso_netdev_drop(ctx: TcContext) -> i32 {
    inside(&ctx, Direction::In, |_, _| None)
}

/// Frames that come in on an interface inside the pod's namespace, before any packet socket sees them. Not as `xdp.frags`: what the
/// kernel copies for such a program has forgotten how long its Ethernet header is (`skb_pp_cow_data`, net/core/skbuff.c, Linux 6.18),
/// and tcx is shown it without.
#[xdp]
fn iso_xdp_in(ctx: XdpContext) -> u32 {
    unseen::pass_exempted(&ctx)
}

/// The same for a pod without exemptions.
#[xdp]
fn iso_xdp_drop(ctx: XdpContext) -> u32 {
    unseen::drop_all(&ctx)
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
    if is_gate_shut() {
        return TC_ACT_UNSPEC;
    }
    let known = host_end();
    // SAFETY: the kernel hands the program a valid __sk_buff.
    let ifindex = known.unwrap_or_else(|| unsafe { (*ctx.skb.skb).ifindex });
    let attribution = slot_of_ifindex(ifindex);
    if matches!(attribution, Attribution::Slot(_)) && frame::is_own_answer(ctx, ifindex, direction) {
        return TC_ACT_UNSPEC;
    }
    let exempt = |policy: &Policy, slot| exempt::on_veth(ctx, ifindex, slot, policy, direction);
    match decide(attribution, Hook::Veth, direction, ctx.len(), false, exempt) {
        Verdict::NoOpinion | Verdict::Exempt(_) => TC_ACT_UNSPEC,
        Verdict::Drop => match attribution {
            // What is sent back from there would be sent in the pod's namespace.
            Attribution::Slot(_) if known.is_some() => TC_ACT_SHOT,
            Attribution::Slot(slot) => frame::answer(ctx, ifindex, slot, direction),
            Attribution::Nobody | Attribution::Unknown => TC_ACT_SHOT,
        },
    }
}

/// Loaded for and attached to one isolated pod only.
#[inline(always)]
fn netdev(ctx: &TcContext, direction: Direction) -> i32 {
    if matches!(direction, Direction::In) && frame::is_answer_inside(ctx, own_slot()) {
        return TC_ACT_UNSPEC;
    }
    inside(ctx, direction, |policy, slot| exempt::on_netdev(ctx, slot, policy, direction))
}

#[inline(always)]
fn inside(ctx: &TcContext, direction: Direction, exempt: impl FnOnce(&Policy, u32) -> Option<Exemption>) -> i32 {
    match decide(Attribution::Slot(own_slot()), Hook::Netdev, direction, ctx.len(), false, exempt) {
        Verdict::NoOpinion | Verdict::Exempt(_) => TC_ACT_UNSPEC,
        Verdict::Drop => TC_ACT_SHOT,
    }
}

/// Attached to an isolated pod's cgroup only.
#[inline(always)]
fn cgroup(ctx: &SkBuffContext, direction: Direction) -> i32 {
    // SAFETY: the kernel hands the program a valid __sk_buff. Without a device the field reads 0, which is no loopback.
    let on_loopback = unsafe { (*ctx.skb.skb).ifindex } == LOOPBACK_IFINDEX;
    let exempt = |policy: &Policy, slot| exempt::on_cgroup(ctx, slot, policy, direction);
    match decide(slot_of_cgroup(ctx), Hook::Cgroup, direction, ctx.len(), on_loopback, exempt) {
        Verdict::NoOpinion | Verdict::Exempt(_) => CGROUP_PASS,
        Verdict::Drop => CGROUP_DROP,
    }
}

#[inline(always)]
fn decide(
    attribution: Attribution,
    hook: Hook,
    direction: Direction,
    bytes: u32,
    on_loopback: bool,
    exempt: impl FnOnce(&Policy, u32) -> Option<Exemption>,
) -> Verdict {
    match attribution {
        Attribution::Nobody => verdict(Lookup::NotIsolated, on_loopback, |_| None),
        Attribution::Unknown => verdict(Lookup::Broken, on_loopback, |_| None),
        Attribution::Slot(slot) => {
            let decided = verdict(policy(slot), on_loopback, |policy| exempt(policy, slot));
            match decided {
                Verdict::NoOpinion => {}
                Verdict::Exempt(exemption) => count(slot, Some(exemption), hook, direction, bytes),
                Verdict::Drop => count(slot, None, hook, direction, bytes),
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
