//! A table: what was fixed, what shows now, what others have; and what is to be known of the link.

use std::collections::BTreeMap;

use super::*;
use crate::pod::PodUid;

const LINK: IfIndex = IfIndex(7);
const NODE: Mac = [2, 0, 0, 0, 0, 1];
const OWN: Mac = [2, 0, 0, 0, 0, 7];
const OTHERS: Mac = [2, 0, 0, 0, 0, 8];

fn address(last: u8) -> Address {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

fn addresses(of: &[u8]) -> Vec<Address> {
    of.iter().copied().map(address).collect()
}

fn pod(number: u8, ifindex: IfIndex, mac: Mac, own: &[u8], assigned: &[u8]) -> Pod {
    Pod {
        uid: PodUid::new([number; 16], false),
        cgroup: None,
        host_network: false,
        namespaces: 1,
        namespace_ids: Vec::new(),
        processes: 1,
        interfaces: Vec::new(),
        guard: None,
        links: [(ifindex, Ends { node: NODE, pod: mac, addresses: addresses(own) })].into(),
        assigned: addresses(assigned),
        powers: None,
    }
}

fn fixed(mac: Mac, own: &[u8]) -> LinkFacts {
    let mut facts = LinkFacts { node: NODE, pod: mac, ..LinkFacts::default() };
    facts.addresses.iter_mut().zip(addresses(own)).for_each(|(place, address)| *place = address);
    facts
}

/// The node has address 1; another pod shows 2 and 3, and the runtime gave it 3.
fn inventory(other: Pod) -> Inventory {
    let node = Taken { macs: [NODE].into(), addresses: [address(1)].into() };
    Inventory { pods: BTreeMap::from([(other.uid, other)]), node: Some(node) }
}

fn other() -> Pod {
    pod(2, IfIndex(8), OTHERS, &[2, 3], &[3])
}

/// The addresses known in the end, and those that are the pod's alone; none if its hardware address is not.
fn known(facts: &LinkFacts) -> (Vec<u8>, Option<Vec<u8>>) {
    let places = facts.addresses.iter().filter(|address| **address != NONE);
    let all: Vec<u8> = places.map(|address| address[15]).collect();
    let alone = all.iter().copied().filter(|last| facts.has_alone(&address(*last)));
    (all.clone(), facts.has_sole_mac().then(|| alone.collect()))
}

#[test]
fn what_is_fixed_stays_and_what_others_have_does_not_count() {
    type Row<'a> = (&'a str, Option<&'a [u8]>, &'a [u8], &'a [u8], &'a [u8], &'a [u8]);
    let table: &[Row<'_>] = &[
        // What it is about; fixed before; shown now; given by the runtime; known then; the pod's alone.
        ("first seen", None, &[7, 9], &[], &[7, 9], &[7, 9]),
        ("first seen, the runtime knows better", None, &[7, 9], &[9], &[9], &[9]),
        ("first seen, five of them", None, &[7, 9, 10, 11, 12], &[], &[7, 9, 10, 11], &[7, 9, 10, 11]),
        ("first seen, behind others", None, &[10, 11, 12, 13, 14, 7], &[7], &[7], &[7]),
        ("another one is taken", Some(&[7]), &[7, 9], &[], &[7], &[7]),
        ("its own is given up", Some(&[7]), &[9], &[], &[7], &[7]),
        ("nothing was known yet", Some(&[]), &[7], &[], &[7], &[7]),
        ("the runtime has another one now", Some(&[7]), &[7, 9], &[9], &[9], &[9]),
        ("the runtime has none that it ever had", Some(&[7]), &[7], &[9], &[], &[]),
        ("the node's", Some(&[7, 1]), &[7, 1], &[], &[7, 1], &[7]),
        ("a neighbour's, from before the cut", Some(&[2, 7]), &[7], &[], &[2, 7], &[7]),
        ("a neighbour's, which the runtime gave to this pod", Some(&[2]), &[2], &[2], &[2], &[2]),
        ("the runtime gave it to both", Some(&[3]), &[3], &[3], &[3], &[]),
        ("the runtime gave this pod the node's", Some(&[1]), &[1], &[1], &[1], &[]),
    ];
    for (name, before, now, assigned, all, alone) in table {
        let before = before.map(|own| fixed(OWN, own));
        let pod = pod(1, LINK, OWN, now, assigned);
        let facts = facts(&inventory(other()), &pod, LINK, before.as_ref(), true).expect(name);
        assert_eq!(known(&facts), (all.to_vec(), Some(alone.to_vec())), "{name}");
        let silent = super::facts(&inventory(other()), &pod, LINK, before.as_ref(), false).expect(name);
        assert_eq!(silent, LinkFacts { sole: 0, ..facts }, "{name}, without exemptions");
    }
}

#[test]
fn a_hardware_address_is_fixed_too() {
    let seen = |mac| pod(1, LINK, mac, &[7], &[]);
    let facts = |before: Option<&LinkFacts>, mac| facts(&inventory(other()), &seen(mac), LINK, before, true);
    let before = fixed(OWN, &[7]);
    for stolen in [OTHERS, NODE, [2, 0, 0, 0, 0, 9]] {
        let known = facts(Some(&before), stolen).expect("it was known");
        assert_eq!((known.pod, known.has_alone(&address(7))), (OWN, true));
    }
    for (mac, sole) in [(OWN, true), (OTHERS, false), (NODE, false)] {
        assert_eq!(facts(None, mac).expect("it is seen").has_sole_mac(), sole, "{mac:?}");
    }
}

#[test]
fn a_link_that_cannot_be_seen_keeps_what_was_known() {
    let before = fixed(OWN, &[7]);
    let hidden = Pod { links: BTreeMap::new(), ..pod(1, LINK, OWN, &[], &[]) };
    assert_eq!(facts(&inventory(other()), &hidden, LINK, None, true), None);
    let known = facts(&inventory(other()), &hidden, LINK, Some(&before), true).expect("it was known");
    assert_eq!((known.pod, known.has_alone(&address(7))), (OWN, true));
}

#[test]
fn nobody_is_believed_before_everybody_was_looked_at() {
    let unseen = Inventory { node: None, ..inventory(other()) };
    let web = pod(1, LINK, OWN, &[7], &[]);
    assert_eq!(facts(&unseen, &web, LINK, None, true).expect("it is seen").sole, 0);
    let before = LinkFacts { sole: LinkFacts::HARDWARE | 1, ..fixed(OWN, &[7]) };
    assert_eq!(facts(&unseen, &web, LINK, Some(&before), true), Some(before), "what was found stands");
    let renamed = pod(1, LINK, OWN, &[7, 9], &[9]);
    assert_eq!(facts(&unseen, &renamed, LINK, Some(&before), true).expect("it is seen").sole, 0);
}

/// A debugger's process in this pod's namespace, and pods that have ended, take nothing from it.
#[test]
fn the_same_link_and_pods_without_one_are_no_others() {
    let web = pod(1, LINK, OWN, &[7], &[]);
    let visitor = pod(2, LINK, OWN, &[7], &[]);
    let ended = Pod { links: BTreeMap::new(), ..pod(2, LINK, OTHERS, &[], &[7]) };
    for one in [visitor, ended] {
        let facts = facts(&inventory(one), &web, LINK, None, true).expect("it is seen");
        assert_eq!(known(&facts), (vec![7], Some(vec![7])));
    }
}

#[test]
fn links_without_hardware_addresses_are_told_apart_by_their_addresses() {
    let none = Mac::default();
    let (own, other) = (pod(1, LINK, none, &[7, 2], &[]), pod(2, IfIndex(8), none, &[2], &[]));
    let mut inventory = inventory(other);
    inventory.node.as_mut().expect("it was looked at").macs.insert(none);
    let facts = facts(&inventory, &own, LINK, None, true).expect("it is seen");
    assert_eq!(known(&facts), (vec![7, 2], Some(vec![7])));
}
