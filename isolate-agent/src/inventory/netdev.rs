//! Which interfaces lead out of a pod's namespace, and which of the node's links are their other ends.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use isolate_common::{mapped, packet::Address};

use super::{
    Ends, HostVeth, IfIndex, Inside, Interface, InventoryError, Taken,
    link::{Link, NETKIT},
    netlink::Netlink,
    process::Netns,
};

const VETH: &str = "veth";
/// Addresses kept of one interface, however many a pod makes.
const MAX_ADDRESSES: usize = 1024;

/// Kinds that reach the world only through other links of the namespace in which they, or their lower links, live.
const STANDING_ON_OTHERS: [&str; 26] = [
    "bond",
    "bridge",
    "dummy",
    "erspan",
    "geneve",
    "gre",
    "gretap",
    "ifb",
    "ip6erspan",
    "ip6gre",
    "ip6gretap",
    "ip6tnl",
    "ipip",
    "ipvlan",
    "ipvtap",
    "macvlan",
    "macvtap",
    "netkit",
    "nlmon",
    "sit",
    "team",
    "veth",
    "vlan",
    "vrf",
    "vti",
    "vxlan",
];

/// The interfaces of one of a pod's namespaces that lead out of it.
#[derive(Debug, Default)]
pub(super) struct Exits {
    nsid: i32,
    /// Whether only the runtime says that the namespace is the pod's.
    claimed: bool,
    found: Vec<Exit>,
}

impl Exits {
    /// The id that the namespace has in the node's.
    pub(super) const fn nsid(&self) -> i32 {
        self.nsid
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Exit {
    interface: Interface,
    /// Who is at the two sides of its host end.
    ends: Option<Ends>,
    /// The namespace that it leads to.
    to: Option<i32>,
}

/// Looks through `namespaces`. They stay open meanwhile, so the ids in the answers mean these namespaces and no
/// others.
///
/// The host ends come from the node's own list, however few the namespaces: a pod can keep an interface out of the
/// list of its own namespace (with so many alternative names that its message fits no buffer, the kernel leaves it out
/// and reports success) or make that list fail, and neither may hide its host end or the other pods.
pub(super) fn exits<'a>(
    netlink: &mut Netlink,
    namespaces: impl Iterator<Item = (&'a Netns, bool)>,
) -> Result<Vec<Exits>, InventoryError> {
    let mut inside = Vec::new();
    for (namespace, closely) in namespaces {
        let nsid = netlink.nsid(&namespace.fd)?;
        let links = netlink.links(Some(nsid)).unwrap_or_else(|error| {
            tracing::warn!(%error, "the interfaces in a pod's namespace cannot be listed");
            vec![Link::unknown()]
        });
        // Only to answer for them: a pod whose addresses cannot be had is isolated all the same.
        let addresses = if closely { netlink.addresses(Some(nsid)) } else { Ok(Vec::new()) }.unwrap_or_else(|error| {
            tracing::warn!(%error, "the addresses in a pod's namespace cannot be listed");
            Vec::new()
        });
        inside.push((namespace, nsid, links, addresses));
    }
    if inside.is_empty() {
        return Ok(Vec::new());
    }
    let links = netlink.links(None)?;
    let node = NodeLinks::of(&links);
    let exits = |(namespace, nsid, links, addresses): &(&Netns, i32, Vec<Link>, Vec<(u32, IpAddr)>)| {
        let place = |index| Inside { namespace: namespace.inode(), index, way: namespace.way.clone() };
        let mut found = join(*nsid, links, &node, place);
        for exit in &mut found {
            exit.interface.claimed = namespace.is_claimed();
            exit.ends = ends(exit, links, &node, addresses);
        }
        Exits { nsid: *nsid, claimed: namespace.is_claimed(), found }
    };
    Ok(inside.iter().map(exits).collect())
}

/// The node's own links, by what every namespace asks of them: with one host end each, a look at all for each of them would be
/// a square.
struct NodeLinks<'a> {
    by_index: HashMap<u32, &'a Link>,
    /// The ends of pairs, by the namespace that the other end is in.
    ends: HashMap<i32, Vec<&'a Link>>,
}

impl<'a> NodeLinks<'a> {
    fn of(links: &'a [Link]) -> Self {
        let mut ends: HashMap<i32, Vec<&Link>> = HashMap::new();
        for end in links.iter().filter(|link| is_paired(link)) {
            if let Some(nsid) = end.peer_nsid {
                ends.entry(nsid).or_default().push(end);
            }
        }
        Self { by_index: links.iter().map(|link| (link.index, link)).collect(), ends }
    }
}

/// Who is at the two sides of a host end: the bridge that it is a port of or it itself, and the pod with its addresses.
fn ends(exit: &Exit, inside: &[Link], node: &NodeLinks<'_>, addresses: &[(u32, IpAddr)]) -> Option<Ends> {
    let end = node.by_index.get(&exit.interface.host.as_ref()?.ifindex.0)?;
    let bridge = end.master.and_then(|master| node.by_index.get(&master)).filter(|master| is_kind(master, "bridge"));
    let index = exit.interface.inside.as_ref()?.index;
    let own = addresses.iter().filter(|(of, _)| *of == index).take(MAX_ADDRESSES);
    Some(Ends {
        node: bridge.map_or(end.mac, |bridge| bridge.mac)?,
        pod: inside.iter().find(|link| link.index == index)?.mac?,
        addresses: own.map(|(_, address)| of_either_family(address)).collect(),
    })
}

/// Who is at the two sides of a pod's host ends, by the index of these.
pub(super) fn links(of: &[Exits]) -> BTreeMap<IfIndex, Ends> {
    let exits = of.iter().flat_map(|exits| &exits.found);
    exits.filter_map(|exit| Some((exit.interface.host.as_ref()?.ifindex, exit.ends.clone()?))).collect()
}

/// What is the node's own.
pub(super) fn taken(netlink: &mut Netlink) -> Result<Taken, InventoryError> {
    let macs = netlink.links(None)?.into_iter().filter_map(|link| link.mac).collect();
    let own = netlink.addresses(None)?.into_iter().map(|(_, address)| address);
    let addresses = own.chain(netlink.routers()?).map(|address| of_either_family(&address)).collect();
    Ok(Taken { macs, addresses })
}

pub(super) fn of_either_family(address: &IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The interfaces of a pod, from all its namespaces: those that lead from one of them to another stay inside it.
pub(super) fn interfaces(of: Vec<Exits>) -> Vec<Interface> {
    let own: HashSet<i32> = of.iter().filter(|exits| !exits.claimed).map(|exits| exits.nsid).collect();
    let leads_out = |exit: &Exit| exit.interface.host.is_some() || exit.to.is_none_or(|to| !own.contains(&to));
    of.into_iter().flat_map(|exits| exits.found).filter(leads_out).map(|exit| exit.interface).collect()
}

/// The node's own links say which host veths a namespace has; the pod's, among which it can put what it likes, only
/// add names and what has no host end. Of two netkit devices only the primary one is a host end: programs are attached through
/// it, and a pod that has it itself is cut inside.
fn join(nsid: i32, inside: &[Link], node: &NodeLinks<'_>, place: impl Fn(u32) -> Inside) -> Vec<Exit> {
    let mut ends = node.ends.get(&nsid).cloned().unwrap_or_default();
    let mut exits = Vec::new();
    for link in inside.iter().filter(|link| !link.loopback) {
        let end = ends.iter().position(|end| end.kind == link.kind && end.peer == Some(link.index));
        let end = end.map(|at| ends.swap_remove(at));
        let kind = link.kind.as_deref();
        let stays = link.peer_nsid.is_none() && kind.is_some_and(|kind| STANDING_ON_OTHERS.contains(&kind));
        if end.is_some() || !stays {
            let kind = kind.unwrap_or("unknown").to_owned();
            let interface = Interface {
                name: link.name.clone(),
                kind,
                host: end.and_then(host_end),
                inside: (link.index != 0).then(|| place(link.index)),
                claimed: false,
            };
            exits.push(Exit { interface, ends: None, to: link.peer_nsid });
        }
    }
    exits.extend(ends.into_iter().map(|end| Exit {
        interface: Interface {
            name: "?".to_owned(),
            kind: end.kind.clone().unwrap_or_default(),
            host: host_end(end),
            inside: None,
            claimed: false,
        },
        ends: None,
        to: None,
    }));
    exits
}

/// Whether it is one of two devices of which each gets what the other sends.
fn is_paired(link: &Link) -> bool {
    is_kind(link, VETH) || is_kind(link, NETKIT)
}

fn is_kind(link: &Link, kind: &str) -> bool {
    link.kind.as_deref() == Some(kind)
}

fn host_end(link: &Link) -> Option<HostVeth> {
    let has_hooks = link.netkit.is_some() || is_kind(link, VETH);
    has_hooks.then(|| HostVeth { ifindex: IfIndex(link.index), name: link.name.clone(), netkit: link.netkit.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Netkit, Way};

    fn link(index: u32, name: &str, kind: Option<&str>, peer: Option<(u32, Option<i32>)>) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            peer: peer.map(|(index, _)| index),
            peer_nsid: peer.and_then(|(_, nsid)| nsid),
            loopback: name == "lo",
            ..Link::default()
        }
    }

    fn place(index: u32) -> Inside {
        Inside { namespace: 1, index, way: Way::Process(1) }
    }

    fn names(exits: &[Exit]) -> Vec<(&str, &str, Option<u32>)> {
        let row = |exit: &'_ Exit| exit.interface.host.as_ref().map(|host| host.ifindex.0);
        exits.iter().map(|exit| (exit.interface.name.as_str(), exit.interface.kind.as_str(), row(exit))).collect()
    }

    #[test]
    fn ends_are_matched_by_namespace_and_index() {
        let node = [
            link(1, "lo", None, None),
            link(2, "ens3", None, None),
            link(10, "veth-a", Some("veth"), Some((2, Some(5)))),
            link(11, "veth-a1", Some("veth"), Some((3, Some(5)))),
            link(12, "veth-b", Some("veth"), Some((2, Some(6)))),
            link(13, "late", Some("veth"), Some((9, Some(5)))),
            link(14, "vlan-in-pod", Some("macvlan"), Some((2, Some(5)))),
        ];
        let inside = [
            link(1, "lo", None, None),
            link(2, "eth0", Some("veth"), Some((10, Some(0)))),
            link(3, "net1", Some("veth"), Some((11, Some(0)))),
        ];
        let exits = join(5, &inside, &NodeLinks::of(&node), place);
        assert_eq!(names(&exits), [("eth0", "veth", Some(10)), ("net1", "veth", Some(11)), ("?", "veth", Some(13))]);
    }

    #[test]
    fn a_namespace_that_cannot_be_listed_hides_no_host_end_and_is_not_covered() {
        let node = [link(10, "veth-a", Some("veth"), Some((2, Some(5))))];
        let exits = join(5, &[Link::unknown()], &NodeLinks::of(&node), place);
        assert_eq!(names(&exits), [("?", "unknown", None), ("?", "veth", Some(10))]);
    }

    #[test]
    fn what_stands_on_the_pods_own_links_is_left_out() {
        let inside = [
            link(2, "net1", Some("macvlan"), Some((2, Some(0)))),
            link(3, "sriov", None, None),
            link(4, "nk", Some("netkit"), Some((7, Some(0)))),
            link(5, "tunl0", Some("ipip"), None),
            link(6, "tunl9", Some("ipip"), Some((0, Some(0)))),
            link(7, "docker0", Some("bridge"), None),
            link(8, "va", Some("veth"), Some((9, None))),
            link(9, "vb", Some("veth"), Some((8, None))),
            link(10, "wg0", Some("wireguard"), None),
        ];
        let listed = join(5, &inside, &NodeLinks::of(&[]), place);
        let listed: Vec<_> = listed.iter().map(|exit| exit.interface.name.as_str()).collect();
        assert_eq!(listed, ["net1", "sriov", "nk", "tunl9", "wg0"]);
    }

    #[test]
    fn a_netkit_pair_has_a_host_end_where_the_primary_one_is() {
        let netkit = |index, name, peer, netkit| Link { netkit, ..link(index, name, Some("netkit"), Some(peer)) };
        let drops_out = Netkit { blackhole: [false, true] };
        let node = [
            netkit(10, "lxc1", (2, Some(5)), Some(drops_out.clone())),
            netkit(11, "peer", (3, Some(5)), None),
            link(12, "veth-a", Some("veth"), Some((3, Some(5)))),
        ];
        let inside = [
            netkit(2, "eth0", (10, Some(0)), None),
            netkit(3, "eth1", (11, Some(0)), Some(Netkit::default())),
            netkit(4, "pair0", (5, None), None),
            netkit(5, "pair1", (4, None), Some(Netkit::default())),
        ];
        let exits = join(5, &inside, &NodeLinks::of(&node), place);
        assert_eq!(names(&exits), [("eth0", "netkit", Some(10)), ("eth1", "netkit", None), ("?", "veth", Some(12))]);
        assert_eq!(
            names(&join(5, &[], &NodeLinks::of(&node[1..2]), place)),
            [("?", "netkit", None)],
            "a list that hides it"
        );
        assert_eq!(exits[0].interface.host.as_ref().and_then(|host| host.netkit.clone()), Some(drops_out));
    }

    #[test]
    fn a_veth_to_a_container_nested_in_the_pod_stays_inside() {
        let outer = join(5, &[link(4, "vethd", Some("veth"), Some((2, Some(6))))], &NodeLinks::of(&[]), place);
        let nested = join(6, &[link(2, "eth0", Some("veth"), Some((4, Some(5))))], &NodeLinks::of(&[]), place);
        assert_eq!((outer.len(), nested.len()), (1, 1));
        let exits = |nsid, found| Exits { nsid, claimed: false, found };
        assert_eq!(interfaces(vec![exits(5, outer), exits(6, nested)]), []);
    }
}
