//! kubelet's probe connections: who may open one, whether a packet fits into it, and what has passed.

use core::ptr;

use aya_ebpf::{
    EbpfContext as _,
    bindings::__sk_buff,
    helpers::{bpf_ktime_get_ns, generated::bpf_skb_cgroup_id},
    macros::map,
    maps::{Array, LruHashMap},
    programs::TcContext,
};
use isolate_common::{
    Direction, Flow, FlowKey, NodeFacts, Passed, Policy, Window, calls, packet::Packet, state, window_at,
};

use crate::lookup::{ENTRIES, host_end};

#[map]
static ISO_NODE: Array<NodeFacts> = Array::with_max_entries(1, 0);
#[map]
static ISO_FLOW: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(ENTRIES, 0);
#[map]
static ISO_WINDOW: Array<Window> = Array::with_max_entries(ENTRIES, 0);

/// What the programs mark their own frames with; none before the agent has drawn it.
#[inline(always)]
pub(crate) fn own_mark() -> Option<u32> {
    ISO_NODE.get(0).map(|node| node.mark).filter(|mark| *mark != 0)
}

/// Whether the packet fits into a probe connection that was opened at the host end. Changes nothing: it is counted there.
#[inline(never)]
pub(crate) fn fits(slot: u32, policy: &Policy, packet: &Packet, direction: Direction) -> bool {
    if !policy.is_probed(packet.own_port) {
        return false;
    }
    let Some(flow) = flow(slot, packet) else { return false };
    // SAFETY: a map value stays readable for the program that looked it up (RCU); its fields are read one by one.
    unsafe { (*flow).after(packet, direction, now()) }.is_some()
}

/// Whether a frame on the host end passes as part of a probe connection; counts it if so.
#[inline(never)]
pub(crate) fn passes(skb: *mut __sk_buff, slot: u32, policy: &Policy, packet: &Packet, direction: Direction) -> bool {
    let ctx = &TcContext::new(skb);
    if !policy.is_probed(packet.own_port) {
        return false;
    }
    if let Direction::In = direction {
        // SAFETY: the kernel hands the program a valid __sk_buff.
        let made_here = unsafe { (*ctx.skb.skb).ingress_ifindex } == 0;
        // The kernel itself ends connections whose socket is gone; all else must come from kubelet. A netkit device has
        // forgotten by now where a packet came in.
        let needs_kubelet = calls(packet) || packet.payload != 0 || host_end().is_some();
        if !made_here || (needs_kubelet && !is_from_kubelet(ctx)) {
            return false;
        }
        if calls(packet) && !is_repeated_call(slot, packet) {
            let called = Flow::called(now());
            if ISO_FLOW.insert(FlowKey::of(slot, packet), called, 0).is_err() {
                return false;
            }
        }
    }
    let Some(flow) = flow(slot, packet) else { return false };
    // SAFETY: as in `fits`.
    let Some(after) = (unsafe { (*flow).after(packet, direction, now()) }) else { return false };
    let bytes = u64::from(ctx.len());
    // SAFETY: the map's value; concurrent programs add to it with instructions of their own.
    let passed = unsafe { add(&raw mut (*flow).passed, direction, bytes) };
    if !Flow::is_within_budget(&passed, direction) || !window_has_room(slot, direction, bytes) {
        return false;
    }
    // SAFETY: the map's value; a word is written whole.
    unsafe { ptr::write_volatile(&raw mut (*flow).state, after) };
    true
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn is_from_kubelet(ctx: &TcContext) -> bool {
    let Some(node) = ISO_NODE.get(0) else { return false };
    // SAFETY: the context is the program's own; without a socket the helper gives 0.
    let sender = unsafe { bpf_skb_cgroup_id(ctx.as_ptr().cast()) };
    node.kubelet != 0 && sender == node.kubelet
}

#[inline(always)]
fn flow(slot: u32, packet: &Packet) -> Option<*mut Flow> {
    ISO_FLOW.get_ptr_mut(FlowKey::of(slot, packet))
}

/// Whether kubelet has called already and waits for the answer.
#[inline(always)]
fn is_repeated_call(slot: u32, packet: &Packet) -> bool {
    // SAFETY: as in `fits`.
    flow(slot, packet).is_some_and(|flow| unsafe { (*flow).after(packet, Direction::In, now()) } == Some(state::CALLED))
}

#[inline(always)]
fn window_has_room(slot: u32, direction: Direction, bytes: u64) -> bool {
    let Some(window) = ISO_WINDOW.get_ptr_mut(slot) else { return false };
    let number = window_at(now());
    // SAFETY: the map's value. Of two CPUs that begin a window at the same moment the later forgets what the earlier has
    // just counted: a frame a CPU in ten seconds.
    let passed = unsafe {
        if ptr::read_volatile(&raw const (*window).number) != number {
            ptr::write_volatile(&raw mut (*window).passed, Passed::default());
            ptr::write_volatile(&raw mut (*window).number, number);
        }
        add(&raw mut (*window).passed, direction, bytes)
    };
    Window::is_within_budget(&passed, direction)
}

/// Counts a frame, and returns what has passed with it. Other CPUs' frames are never lost: what is read afterwards is at
/// least what this one made it.
///
/// # Safety
/// `passed` must point into a map value.
#[inline(always)]
unsafe fn add(passed: *mut Passed, direction: Direction, bytes: u64) -> Passed {
    let at = direction as usize;
    // SAFETY: the caller's.
    unsafe {
        atomic_add(&raw mut (*passed).packets[at], 1);
        atomic_add(&raw mut (*passed).bytes[at], bytes);
        let mut now = Passed::default();
        now.packets[at] = ptr::read_volatile(&raw const (*passed).packets[at]);
        now.bytes[at] = ptr::read_volatile(&raw const (*passed).bytes[at]);
        now
    }
}

/// The kernel's `BPF_ATOMIC` without a result, for which the BPF target has no `core::sync::atomic`.
///
/// # Safety
/// `to` must point into a map value.
#[inline(always)]
#[cfg(target_arch = "bpf")]
unsafe fn atomic_add(to: *mut u64, value: u64) {
    // SAFETY: the caller's.
    unsafe { core::arch::asm!("lock *(u64 *)({to} + 0) += {value}", to = in(reg) to, value = in(reg) value) };
}

/// For whoever checks this on the host.
#[inline(always)]
#[cfg(not(target_arch = "bpf"))]
unsafe fn atomic_add(to: *mut u64, value: u64) {
    // SAFETY: the caller's.
    unsafe { *to += value };
}
