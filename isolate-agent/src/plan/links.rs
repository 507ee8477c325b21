//! What the programs are told of a host veth: whose hardware address and addresses count there. Pure.
//!
//! The host end answers for an isolated pod with exemptions, and lets leave what comes from its address. So a pod must not
//! be able to say what its addresses are: they are fixed at the cut, for as long as the interface is cut for it. Later only
//! the container runtime's word counts, which the pod has no say in. And nothing counts that another one has.

use isolate_common::{ADDRESSES, LinkFacts, Mac, packet::Address};

use crate::inventory::{Ends, IfIndex, Inventory, Pod, Taken};

const NONE: Address = [0; 16];

/// What is to be known of a host veth of `pod`, where `known` was fixed before; none if nothing can be said yet. Without
/// exemptions it is only fixed, and nobody is answered.
pub(super) fn facts(
    inventory: &Inventory,
    pod: &Pod,
    ifindex: IfIndex,
    known: Option<&LinkFacts>,
    exempted: bool,
) -> Option<LinkFacts> {
    let seen = pod.links.get(&ifindex);
    let fixed = match (known, seen) {
        (Some(known), seen) => LinkFacts { node: seen.map_or(known.node, |seen| seen.node), ..*known },
        (None, Some(Ends { node, pod, .. })) => LinkFacts { node: *node, pod: *pod, ..LinkFacts::default() },
        (None, None) => return None,
    };
    let facts = LinkFacts { addresses: addresses(&fixed, seen, &pod.assigned), sole: 0, ..fixed };
    let sole = match (&inventory.node, known) {
        (Some(node), _) => sole(&facts, &Others { inventory, node, pod, ifindex }),
        // Nobody looked: what was found before stands.
        (None, Some(known)) if known.addresses == facts.addresses => known.sole,
        (None, _) => 0,
    };
    Some(LinkFacts { sole: if exempted { sole } else { 0 }, ..facts })
}

/// Those that the runtime has given, of those that the link has or had; else those that it had first.
fn addresses(fixed: &LinkFacts, seen: Option<&Ends>, assigned: &[Address]) -> [Address; ADDRESSES] {
    let first = || fixed.addresses.iter().filter(|address| **address != NONE);
    let now = seen.into_iter().flat_map(|seen| &seen.addresses);
    let mut found: Vec<Address> = if !assigned.is_empty() {
        first().chain(now).filter(|address| assigned.contains(address)).copied().collect()
    } else if first().next().is_some() {
        first().copied().collect()
    } else {
        now.copied().collect()
    };
    let mut kept = std::collections::BTreeSet::new();
    found.retain(|address| kept.insert(*address));
    let mut addresses = [NONE; ADDRESSES];
    addresses.iter_mut().zip(found).for_each(|(place, address)| *place = address);
    addresses
}

/// The marks of what is nobody else's.
fn sole(facts: &LinkFacts, others: &Others<'_>) -> u32 {
    // Between netkit devices of mode l3 there are none, and nobody asks for them.
    if facts.pod != Mac::default() && others.have_mac(facts.pod) {
        return 0;
    }
    let places = facts.addresses.iter().enumerate();
    let alone = places.filter(|(_, address)| **address != NONE && !others.have(address));
    alone.fold(LinkFacts::HARDWARE, |sole, (place, _)| sole | 1 << place)
}

/// Everybody but one pod's link.
struct Others<'a> {
    inventory: &'a Inventory,
    node: &'a Taken,
    pod: &'a Pod,
    ifindex: IfIndex,
}

impl<'a> Others<'a> {
    /// Other pods with interfaces. (The runtime goes on listing addresses of those that have ended.)
    fn pods(&self) -> impl Iterator<Item = &'a Pod> {
        let uid = self.pod.uid;
        self.inventory.pods.values().filter(move |pod| pod.uid != uid && !pod.links.is_empty())
    }

    /// What others show. A pod with a process in this one's namespace shows the same link.
    fn ends(&self) -> impl Iterator<Item = &'a Ends> {
        let ifindex = self.ifindex;
        self.pods().flat_map(|pod| &pod.links).filter(move |(of, _)| **of != ifindex).map(|(_, ends)| ends)
    }

    fn have_mac(&self, mac: Mac) -> bool {
        self.node.macs.contains(&mac) || self.ends().any(|ends| ends.pod == mac)
    }

    /// What a pod says of itself is nothing against what the runtime says of this one.
    fn have(&self, address: &Address) -> bool {
        let said = || self.ends().any(|ends| ends.addresses.contains(address));
        self.node.addresses.contains(address)
            || self.pods().any(|pod| pod.assigned.contains(address))
            || (!self.pod.assigned.contains(address) && said())
    }
}

#[cfg(test)]
mod tests;
