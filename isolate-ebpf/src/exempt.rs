//! What passes although its pod is isolated, at each hook. Asked about pods that have exemptions, and no others.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    macros::map,
    maps::lpm_trie::{Key, LpmTrie},
    programs::{SkBuffContext, TcContext},
};
use isolate_common::{AllowKey, AllowRules, Direction, Exemption, Policy, PolicyFlags, packet::Packet};

use crate::{
    frame::{ETHERNET, Socket, Wire, hand_to_node, holds_ip, is_from_pod},
    lookup::ENTRIES,
    probe,
    unseen::{self, Unseen},
};

#[map]
static ISO_ALLOW: LpmTrie<AllowKey, AllowRules> = LpmTrie::with_max_entries(ENTRIES, 0);

/// On the host end, which every frame crosses: here probe connections are opened and counted.
#[inline(always)]
pub(crate) fn on_veth(
    ctx: &TcContext,
    ifindex: u32,
    slot: u32,
    policy: &Policy,
    direction: Direction,
) -> Option<Exemption> {
    let mut packet = Packet::default();
    if !read_frame(ctx.skb.skb, &mut packet, direction) {
        return None;
    }
    let exemption = if is_allowed(slot, policy, &packet, direction) {
        Exemption::Allow
    } else if policy.flags.contains(PolicyFlags::KEEP_PROBES)
        && probe::passes(ctx.skb.skb, slot, policy, &packet, direction)
    {
        Exemption::Probe
    } else {
        return None;
    };
    match (direction, exemption) {
        (Direction::In, _) => Some(exemption),
        (Direction::Out, Exemption::Allow) if !is_from_pod(ifindex, &packet) => None,
        (Direction::Out, _) => hand_to_node(ctx.skb.skb, ifindex).then_some(exemption),
    }
}

/// Inside the pod. What goes out here comes by no host end, so nothing would hold it to the node: it is dropped.
#[inline(always)]
pub(crate) fn on_netdev(ctx: &TcContext, slot: u32, policy: &Policy, direction: Direction) -> Option<Exemption> {
    let mut packet = Packet::default();
    match direction {
        Direction::In if read_frame(ctx.skb.skb, &mut packet, direction) => fitting(slot, policy, &packet, direction),
        _ => None,
    }
}

/// The same, before a packet socket sees the frame.
#[inline(always)]
pub(crate) fn on_unseen(xdp: *mut xdp_md, slot: u32, policy: &Policy) -> Option<Exemption> {
    let mut packet = Packet::default();
    if read_unseen(xdp, &mut packet) { fitting(slot, policy, &packet, Direction::In) } else { None }
}

/// At the pod's sockets.
#[inline(always)]
pub(crate) fn on_cgroup(ctx: &SkBuffContext, slot: u32, policy: &Policy, direction: Direction) -> Option<Exemption> {
    let mut packet = Packet::default();
    if read_packet(ctx.skb.skb, &mut packet, direction) { fitting(slot, policy, &packet, direction) } else { None }
}

/// Functions of their own where much is on the stack: of 512 bytes each takes what it needs only while it runs.
#[inline(never)]
fn read_frame(skb: *mut __sk_buff, packet: &mut Packet, direction: Direction) -> bool {
    let ctx = TcContext::new(skb);
    if !holds_ip(&ctx) {
        return false;
    }
    let read = Packet::read(&Wire(&ctx), ETHERNET, direction);
    read.inspect(|read| *packet = *read).is_some()
}

#[inline(never)]
fn read_unseen(xdp: *mut xdp_md, packet: &mut Packet) -> bool {
    let frame = &Unseen(xdp);
    if !unseen::holds_ip(frame) {
        return false;
    }
    let read = Packet::read(frame, ETHERNET, Direction::In);
    read.inspect(|read| *packet = *read).is_some()
}

#[inline(never)]
fn read_packet(skb: *mut __sk_buff, packet: &mut Packet, direction: Direction) -> bool {
    let ctx = SkBuffContext::new(skb);
    let read = Packet::read(&Socket(&ctx), 0, direction);
    read.inspect(|read| *packet = *read).is_some()
}

#[inline(always)]
fn fitting(slot: u32, policy: &Policy, packet: &Packet, direction: Direction) -> Option<Exemption> {
    if is_allowed(slot, policy, packet, direction) {
        Some(Exemption::Allow)
    } else if policy.flags.contains(PolicyFlags::KEEP_PROBES) && probe::fits(slot, policy, packet, direction) {
        Some(Exemption::Probe)
    } else {
        None
    }
}

#[inline(never)]
fn is_allowed(slot: u32, policy: &Policy, packet: &Packet, direction: Direction) -> bool {
    if !policy.flags.contains(PolicyFlags::ALLOW) {
        return false;
    }
    let (bits, key) = AllowKey::of(slot, packet);
    ISO_ALLOW.get(Key::new(bits, key)).is_some_and(|rules| rules.allow(packet, direction))
}

/// Whether anything is allowed with the other side of the packet.
#[inline(never)]
pub(crate) fn has_rules(slot: u32, packet: &Packet) -> bool {
    let (bits, key) = AllowKey::of(slot, packet);
    ISO_ALLOW.get(Key::new(bits, key)).is_some()
}
