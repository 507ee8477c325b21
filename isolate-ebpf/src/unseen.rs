//! Frames inside a pod that no packet socket has seen yet: those that XDP is asked about, in generic mode.
//!
//! A frame that is handed over past the host end (`bpf_redirect_peer`) meets XDP, then packet sockets, then tcx
//! (`__netif_receive_skb_core`, net/core/dev.c). What is dropped here nobody in the pod sees. Whatever passes meets the tcx program
//! as well, which has the last word and counts what is exempted.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::generated::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use isolate_common::{Direction, Exemption, Hook, Lookup, Policy, PolicyFlags, Verdict, packet::Source, verdict};

use crate::{
    exempt,
    frame::{Kind, is_answer_of_anybody, is_ip},
    lookup::{count, own_slot, policy},
};

/// A frame, from its Ethernet header on. (Since Linux 5.18; a VLAN tag that the skb keeps aside is not seen here, but by tcx.)
pub(crate) struct Unseen(pub(crate) *mut xdp_md);

impl Source for Unseen {
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let (offset, length) = (u32::try_from(offset).ok()?, u32::try_from(N).ok()?);
        // SAFETY: the context is the program's own, and the buffer as long as it is said to be.
        let read = unsafe { bpf_xdp_load_bytes(self.0, offset, bytes.as_mut_ptr().cast(), length) };
        (read == 0).then_some(bytes)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context is the program's own.
        u32::try_from(unsafe { bpf_xdp_get_buff_len(self.0) }).unwrap_or(u32::MAX)
    }
}

/// For a pod that may have exemptions.
#[inline(always)]
pub(crate) fn pass_exempted(ctx: &XdpContext) -> u32 {
    let (slot, frame) = (own_slot(), Unseen(ctx.ctx));
    if is_answer(&frame, slot) {
        return xdp_action::XDP_PASS;
    }
    decide(slot, frame.length(), |policy| exempt::on_unseen(ctx.ctx, slot, policy))
}

/// For a pod without exemptions.
#[inline(always)]
pub(crate) fn drop_all(ctx: &XdpContext) -> u32 {
    decide(own_slot(), bytes(ctx), |_| None)
}

#[inline(always)]
fn decide(slot: u32, bytes: u32, exempt: impl FnOnce(&Policy) -> Option<Exemption>) -> u32 {
    match verdict(policy(slot), false, exempt) {
        Verdict::NoOpinion | Verdict::Exempt(_) => xdp_action::XDP_PASS,
        Verdict::Drop => {
            count(slot, None, Hook::Netdev, Direction::In, bytes);
            xdp_action::XDP_DROP
        }
    }
}

/// Without a helper, so that kernels before 5.18 take it.
#[inline(always)]
fn bytes(ctx: &XdpContext) -> u32 {
    u32::try_from(ctx.data_end().wrapping_sub(ctx.data())).unwrap_or(u32::MAX)
}

/// An answer to a question for a hardware address, of anybody's, for a pod with exemptions.
#[inline(always)]
fn is_answer(frame: &Unseen, slot: u32) -> bool {
    let kind = match (frame.bytes::<2>(12), frame.length()) {
        (Some([0x08, 0x06]), 42) => Kind::Arp,
        (Some([0x86, 0xdd]), 86) => Kind::Nd,
        _ => return false,
    };
    let Lookup::Found(policy) = policy(slot) else { return false };
    policy.flags.intersects(PolicyFlags::EXEMPTIONS) && is_answer_of_anybody(&kind, frame)
}

/// Whether it is plain Ethernet with an IP packet in it, of the version that its type says.
#[inline(always)]
pub(crate) fn holds_ip(frame: &Unseen) -> bool {
    frame.bytes::<3>(crate::frame::ETHERNET - 2).is_some_and(is_ip)
}
