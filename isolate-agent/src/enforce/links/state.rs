//! What a pinned link is worth: whether it is attached where its pin says, first in its chain, and with a program that does what its
//! pod needs.

use std::io;

use aya_obj::generated::bpf_attach_type;
use isolate_common::{Direction, Hook};

use super::{
    super::{
        netdev,
        pin::Pin,
        programs::Programs,
        sys::{self, Chain, LinkFacts, Place},
    },
    attach_type, netkit_type,
};
use crate::{
    inventory::{CgroupId, IfIndex},
    observed::{LinkState, NetdevKey, Observed},
};

/// Of a link that `facts` is known of, at a pin.
pub(super) fn state(
    facts: LinkFacts,
    pin: Pin,
    direction: Direction,
    programs: &mut Programs,
    observed: &Observed,
) -> io::Result<LinkState> {
    let attached = match (pin, facts.place) {
        (Pin::Cgroup(CgroupId(id)) | Pin::Lsm(CgroupId(id), _), Place::Cgroup(found)) => id == found,
        (Pin::Veth(IfIndex(index)) | Pin::Netdev(NetdevKey { index, .. }), Place::Interface(found))
        | (Pin::Xdp(NetdevKey { index, .. }), Place::Xdp(found)) => index == found,
        (Pin::Veth(_), Place::Netkit(found)) => netkit_type(direction) == found,
        _ => false,
    };
    match (pin, facts.place) {
        _ if !attached || !programs.are_ours(facts.program) => Ok(LinkState::Defunct),
        (Pin::Veth(IfIndex(index)), Place::Netkit(point)) => in_chain(index, point, |chain| {
            let is_whole = chain.links.len() < sys::LISTED;
            chain.links.iter().position(|id| *id == facts.id).or_else(|| (!is_whole).then_some(sys::LISTED))
        }),
        (Pin::Veth(IfIndex(index)), _) => in_chain(index, attach_type(Hook::Veth, direction), |chain| {
            // It is attached there, though there may be too many before it to be listed.
            Some(chain.programs.iter().position(|id| *id == facts.program).unwrap_or(chain.programs.len()))
        }),
        (Pin::Netdev(key) | Pin::Xdp(key), _)
            if programs.drops_all(facts.program) == Some(true) && netdev::is_exempted(observed, key.slot) =>
        {
            Ok(LinkState::Stale)
        }
        (Pin::Cgroup(_) | Pin::Netdev(_) | Pin::Xdp(_) | Pin::Lsm(..), _) => Ok(LinkState::Holding),
    }
}

fn in_chain(
    ifindex: u32,
    attach_type: bpf_attach_type,
    position: impl FnOnce(&Chain) -> Option<usize>,
) -> io::Result<LinkState> {
    match sys::chain(ifindex, attach_type) {
        // The device went away between the two looks, or is another one by now.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO | libc::EACCES)) => {
            Ok(LinkState::Defunct)
        }
        Err(error) => Err(error),
        Ok(chain) => Ok(match position(&chain) {
            Some(0) => LinkState::Holding,
            Some(_) => LinkState::Displaced,
            None => LinkState::Defunct,
        }),
    }
}
