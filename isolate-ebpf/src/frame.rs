//! Frames on the host end: their Ethernet header, and the questions for hardware addresses that are answered here.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_REDIRECT, TC_ACT_SHOT},
    helpers::{bpf_redirect, bpf_skb_load_bytes},
    macros::map,
    maps::HashMap,
    programs::{SkBuffContext, TcContext},
};
use isolate_common::{
    ARP_FRAME, Direction, LinkFacts, Lookup, Mac, ND_FRAME, PolicyFlags, Question, answer_arp, answer_nd, arp_question,
    is_arp_answer, is_nd_answer, mapped, nd_question,
    packet::{Address, Packet, Source},
};

use crate::{
    exempt::has_rules,
    lookup::{ENTRIES, policy},
    probe::own_mark,
};

#[map]
static ISO_LINK: HashMap<u32, LinkFacts> = HashMap::with_max_entries(ENTRIES, 0);

/// Where the IP packet begins in an Ethernet frame.
pub(crate) const ETHERNET: usize = 14;
/// `skb->protocol`, in the order of the wire.
const ARP: u32 = 0x0806_u16.to_be() as u32;
const IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// `BPF_F_INGRESS`: as if the frame came in there.
const INGRESS: u64 = 1;
/// `PACKET_HOST` (`include/uapi/linux/if_packet.h`).
const FOR_THIS_HOST: u32 = 0;

impl Source for Wire<'_> {
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.load(offset).ok()
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.0.len()
    }
}

/// A frame, from its Ethernet header on.
pub(crate) struct Wire<'a>(pub(crate) &'a TcContext);

impl Source for Socket<'_> {
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.load(offset).ok()
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.0.len()
    }
}

/// A packet, from its IP header on.
pub(crate) struct Socket<'a>(pub(crate) &'a SkBuffContext);

/// Whether the frame is plain Ethernet with an IP packet in it, of the version that its type says.
#[inline(always)]
pub(crate) fn holds_ip(ctx: &TcContext) -> bool {
    let Some(bytes) = Wire(ctx).bytes::<3>(ETHERNET - 2) else { return false };
    // SAFETY: the kernel hands the program a valid __sk_buff.
    let has_vlan = unsafe { (*ctx.skb.skb).vlan_present } != 0;
    is_ip(bytes) && !has_vlan
}

/// Whether an Ethernet type and the byte behind it are those of an IP packet.
#[inline(always)]
pub(crate) const fn is_ip([high, low, version]: [u8; 3]) -> bool {
    matches!(([high, low], version >> 4), ([0x08, 0x00], 4) | ([0x86, 0xdd], 6))
}

/// What is known about the link; none for a pod without exemptions.
#[inline(always)]
pub(crate) fn link(ifindex: u32) -> Option<&'static LinkFacts> {
    // SAFETY: a map value stays readable for the program that looked it up (RCU); the agent replaces it whole.
    ISO_LINK.get_ptr(ifindex).map(|facts| unsafe { &*facts })
}

/// Whether the packet's address on the pod's side is the pod's, and nobody else's. What answers it would go to another one
/// otherwise, with what the pod has put into it.
#[inline(never)]
pub(crate) fn is_from_pod(ifindex: u32, packet: &Packet) -> bool {
    let p = &packet.own;
    let own = if packet.v6 { *p } else { mapped([p[12], p[13], p[14], p[15]]) };
    // An IPv4 address in an IPv6 packet is nobody's.
    let is_of_family = packet.v6 != (u128::from_be_bytes(own) >> 32 == 0xffff);
    link(ifindex).is_some_and(|facts| is_of_family && facts.has_alone(&own))
}

/// Sends a frame of the pod's to the node, whomever it was for: the address in its IP header decides from there, and
/// nobody beside the pod gets to see it. False if it does not come from the pod's own hardware address.
#[inline(never)]
pub(crate) fn hand_to_node(skb: *mut __sk_buff, ifindex: u32) -> bool {
    let ctx = TcContext::new(skb);
    let Some(facts) = link(ifindex) else { return false };
    // Read at once, and into what has a value beforehand: of two reads the compiler makes one condition, and the verifier of
    // Linux 6.1 then follows a way on which the second was not made.
    let mut addresses = [0; 12];
    if !load(&ctx, in_memory(&mut addresses)) {
        return false;
    }
    let [t0, t1, t2, t3, t4, t5, f0, f1, f2, f3, f4, f5] = addresses;
    let (to, from) = ([t0, t1, t2, t3, t4, t5], [f0, f1, f2, f3, f4, f5]);
    if !same(from, facts.pod) || !facts.has_sole_mac() {
        return false;
    }
    same(to, facts.node) || (ctx.store(0, &facts.node, 0).is_ok() && ctx.change_type(FOR_THIS_HOST).is_ok())
}

#[inline(always)]
fn same(one: Mac, other: Mac) -> bool {
    let mut differs = 0;
    let mut index = 0;
    while index < 6 {
        differs |= one[index] ^ other[index];
        index += 1;
    }
    differs == 0
}

/// Whether it is an answer that [`answer`] has made, on its way to who asked.
#[inline(always)]
pub(crate) fn is_own_answer(ctx: &TcContext, ifindex: u32, direction: Direction) -> bool {
    // SAFETY: the kernel hands the program a valid __sk_buff.
    let mark = unsafe { (*ctx.skb.skb).mark };
    mark != 0 && own_mark() == Some(mark) && is_answer(ctx.skb.skb, ifindex, direction)
}

#[inline(never)]
fn is_answer(skb: *mut __sk_buff, ifindex: u32, direction: Direction) -> bool {
    let ctx = &TcContext::new(skb);
    let Some(facts) = link(ifindex) else { return false };
    let mac = match direction {
        Direction::In => facts.node,
        Direction::Out => facts.pod,
    };
    let is_answer = is_answer_of(ctx, mac);
    if is_answer {
        ctx.set_mark(0);
    }
    is_answer
}

/// Whether it is such an answer, seen inside the pod of `slot`: the mark does not get there.
#[inline(always)]
pub(crate) fn is_answer_inside(ctx: &TcContext, slot: u32) -> bool {
    if kind_of(ctx).is_none() {
        return false;
    }
    let Lookup::Found(policy) = policy(slot) else { return false };
    policy.flags.intersects(PolicyFlags::EXEMPTIONS) && is_some_answer(ctx.skb.skb)
}

/// One of anybody's: who sends it to the pod past the host end is of the node.
#[inline(never)]
fn is_some_answer(skb: *mut __sk_buff) -> bool {
    let wire = &Wire(&TcContext::new(skb));
    kind_of(wire.0).is_some_and(|kind| is_answer_of_anybody(&kind, wire))
}

/// Whether a frame of that kind is an answer.
#[inline(always)]
pub(crate) fn is_answer_of_anybody(kind: &Kind, frame: &impl Source) -> bool {
    match kind {
        Kind::Arp => matches!(frame.bytes(ETHERNET), Some([0, 1, 8, 0, 6, 4, 0, 2])),
        Kind::Nd => matches!(frame.bytes(54), Some([136, 0])) && matches!(frame.bytes(78), Some([2, 1])),
    }
}

/// A frame that has the length and the type of a question or an answer.
pub(crate) enum Kind {
    Arp,
    Nd,
}

#[inline(always)]
fn kind_of(ctx: &TcContext) -> Option<Kind> {
    // SAFETY: the kernel hands the program a valid __sk_buff.
    let (protocol, has_vlan) = unsafe { ((*ctx.skb.skb).protocol, (*ctx.skb.skb).vlan_present != 0) };
    match (protocol, ctx.len()) {
        _ if has_vlan => None,
        (ARP, 42) => Some(Kind::Arp),
        (IPV6, 86) => Some(Kind::Nd),
        _ => None,
    }
}

#[inline(always)]
fn is_answer_of(ctx: &TcContext, mac: Mac) -> bool {
    match kind_of(ctx) {
        Some(Kind::Arp) => {
            let mut frame = [0; ARP_FRAME];
            load(ctx, &mut frame) && is_arp_answer(in_memory(&mut frame), mac)
        }
        Some(Kind::Nd) => {
            let mut frame = [0; ND_FRAME];
            load(ctx, &mut frame) && is_nd_answer(in_memory(&mut frame), mac)
        }
        None => false,
    }
}

/// Answers a question for a hardware address back to where it came from, and drops everything else.
///
/// The pod is told the node's, whatever it asks for; the node, and who is allowed, is told the pod's.
#[inline(always)]
pub(crate) fn answer(ctx: &TcContext, ifindex: u32, slot: u32, direction: Direction) -> i32 {
    let Some(kind) = kind_of(ctx) else { return TC_ACT_SHOT };
    let Lookup::Found(policy) = policy(slot) else { return TC_ACT_SHOT };
    if !policy.flags.intersects(PolicyFlags::EXEMPTIONS) {
        return TC_ACT_SHOT;
    }
    let (Some(facts), Some(mark)) = (link(ifindex), own_mark()) else { return TC_ACT_SHOT };
    let (skb, mut question) = (ctx.skb.skb, Question::default());
    let asked = match kind {
        Kind::Arp => ask_arp(skb, &mut question),
        Kind::Nd => ask_nd(skb, &mut question),
    };
    let v6 = matches!(kind, Kind::Nd);
    let answers = match direction {
        Direction::In => facts.has_alone(&question.target) && may_ask(ctx, slot, v6, question.asker),
        Direction::Out => !facts.has(&question.target),
    };
    if !asked || !answers {
        return TC_ACT_SHOT;
    }
    let answered = match kind {
        Kind::Arp => answered_arp(skb, facts, direction),
        Kind::Nd => answered_nd(skb, facts, direction),
    };
    if !answered {
        return TC_ACT_SHOT;
    }
    ctx.set_mark(mark);
    let back = match direction {
        Direction::In => INGRESS,
        Direction::Out => 0,
    };
    // SAFETY: plain numbers.
    let verdict = unsafe { bpf_redirect(ifindex, back) };
    if verdict == i64::from(TC_ACT_REDIRECT) { TC_ACT_REDIRECT } else { TC_ACT_SHOT }
}

/// Whether it may be known where the pod is: to the node, and to who is allowed.
#[inline(always)]
fn may_ask(ctx: &TcContext, slot: u32, v6: bool, asker: Address) -> bool {
    // SAFETY: the kernel hands the program a valid __sk_buff.
    let made_here = unsafe { (*ctx.skb.skb).ingress_ifindex } == 0;
    made_here || has_rules(slot, &Packet { v6, peer: asker, ..Packet::default() })
}

/// Reads a frame's first bytes where they are to stay: they fit on the stack once.
#[inline(always)]
fn load<const N: usize>(ctx: &TcContext, bytes: &mut [u8; N]) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "a frame's first bytes are some hundred at most")]
    let length = N as u32;
    // SAFETY: the context is the program's own, and the buffer as long as it is said to be.
    unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, bytes.as_mut_ptr().cast(), length) == 0 }
}

/// Keeps the compiler from taking the bytes apart: it would give each of them eight bytes of a stack of 512.
#[inline(always)]
fn in_memory<T>(value: &mut T) -> &mut T {
    core::hint::black_box(value)
}

#[inline(never)]
fn ask_arp(skb: *mut __sk_buff, question: &mut Question) -> bool {
    arp_question(&Wire(&TcContext::new(skb))).inspect(|asked| *question = *asked).is_some()
}

#[inline(never)]
fn ask_nd(skb: *mut __sk_buff, question: &mut Question) -> bool {
    nd_question(&Wire(&TcContext::new(skb))).inspect(|asked| *question = *asked).is_some()
}

#[inline(never)]
fn answered_arp(skb: *mut __sk_buff, facts: &LinkFacts, direction: Direction) -> bool {
    let ctx = &TcContext::new(skb);
    let mut bytes = [0; ARP_FRAME];
    let frame = in_memory(&mut bytes);
    if !load(ctx, frame) {
        return false;
    }
    answer_arp(frame, facts.of(direction));
    ctx.store(0, frame, 0).is_ok()
}

#[inline(never)]
fn answered_nd(skb: *mut __sk_buff, facts: &LinkFacts, direction: Direction) -> bool {
    let ctx = &TcContext::new(skb);
    let mut bytes = [0; ND_FRAME];
    let frame = in_memory(&mut bytes);
    if !load(ctx, frame) {
        return false;
    }
    answer_nd(frame, facts.of(direction), matches!(direction, Direction::Out));
    ctx.store(0, frame, 0).is_ok()
}
