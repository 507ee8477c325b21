//! From what is desired, what runs and what the kernel holds to what a person is shown. Pure: no I/O, no clock.

mod power;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use crate::{
    control::protocol::{
        Coverage, Drops, Exempted, HookState, HookStatus, Isolation, Record as RecordState, Unarmed, UnarmedReason,
    },
    desired::{Entry, Record},
    inventory::{CgroupId, HostVeth, IfIndex, Inside, Interface, Inventory, Pod, cri::PodFacts},
    observed::{LinkState, NetdevKey, Observed, Slot},
    plan::{arms, has_xdp, netdev_directions},
    pod::{PodName, PodUid},
    settings::Arm,
};
use isolate_common::{Ask, Counter, DIRECTIONS, Direction, EXEMPTIONS, HOOKS, Hook, SlotCounters};

/// Where the kernel would not let a hook be attached, and what it said.
pub type Unattachable = BTreeMap<Place, String>;

/// An interface that a hook is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The host end of a pod's.
    HostEnd(IfIndex),
    /// One inside a pod.
    Inside(NetdevKey),
}

/// Every hook of an isolated pod.
pub fn hooks(pod: &Pod, slot: Option<Slot>, observed: &Observed, unattachable: &Unattachable) -> Vec<HookStatus> {
    let mut rows = Rows(Vec::with_capacity(HOOKS.len() * DIRECTIONS.len() * pod.interfaces.len().max(1)));
    let directory = pod.cgroup.as_ref().map_or_else(|| "-".into(), |cgroup| cgroup.path.to_string_lossy().into());
    for direction in DIRECTIONS {
        let state = pod.cgroup.as_ref().map_or_else(
            || missing("the pod has no cgroup in the unified hierarchy (cgroup v1)"),
            |cgroup| cgroup_state(cgroup.id, direction, slot, observed),
        );
        rows.push(Hook::Cgroup, direction, &directory, state);
    }
    for hook in [Hook::Veth, Hook::Netdev] {
        for interface in &pod.interfaces {
            let place = match (hook, &interface.host) {
                (Hook::Veth, Some(veth)) => &veth.name,
                _ => &interface.name,
            };
            let place = place.as_str().into();
            for direction in DIRECTIONS {
                let state = match (hook, &interface.host) {
                    (Hook::Veth, Some(veth)) => veth_state(veth, direction, observed, unattachable),
                    (Hook::Veth, None) => not_applicable(format!("a {} has no host end", interface.kind)),
                    _ => netdev_state(interface, direction, slot, observed, unattachable),
                };
                rows.push(hook, direction, &place, state);
            }
        }
        if pod.interfaces.is_empty() {
            for direction in DIRECTIONS {
                rows.push(hook, direction, &"-".into(), without_interfaces(pod));
            }
        }
    }
    for direction in DIRECTIONS {
        rows.push(Hook::Lsm, direction, &directory, lsm_state(pod, direction, observed));
    }
    rows.0
}

/// How a hook is shown: its state, and why.
type Shown = (HookState, Option<Cow<'static, str>>);

struct Rows(Vec<HookStatus>);

impl Rows {
    fn push(&mut self, hook: Hook, direction: Direction, place: &Arc<str>, (state, detail): Shown) {
        let (hook, direction) = (hook.name().into(), direction.name().into());
        self.0.push(HookStatus { hook, direction, place: Arc::clone(place), state, detail });
    }
}

fn missing(why: impl Into<Cow<'static, str>>) -> Shown {
    (HookState::Missing, Some(why.into()))
}

fn not_applicable(why: impl Into<Cow<'static, str>>) -> Shown {
    (HookState::NotApplicable, Some(why.into()))
}

fn without_interfaces(pod: &Pod) -> Shown {
    if pod.host_network {
        not_applicable("the pod uses the node's interfaces, which are never touched")
    } else if pod.namespaces == 0 {
        missing("no process of the pod runs, so its interfaces are not known")
    } else {
        missing("the namespaces that its processes live in lead nowhere; it may have left its own")
    }
}

fn netdev_state(
    interface: &Interface,
    direction: Direction,
    slot: Option<Slot>,
    observed: &Observed,
    unattachable: &Unattachable,
) -> Shown {
    if netdev_directions(interface).all(|needed| needed != direction) {
        return not_applicable("what goes out here comes by the host end");
    }
    let (Some(&Inside { namespace, index, .. }), Some(slot)) = (interface.inside.as_ref(), slot) else {
        return missing("the interface was not there a moment ago");
    };
    let key = NetdevKey { slot, namespace, index };
    let link = observed.netdev_links.get(&(key, direction));
    let is_new = link.is_none() || (has_xdp(interface) && xdp_link(key, observed).is_none());
    let error = unattachable.get(&Place::Inside(key));
    if interface.host.is_some() && is_new && observed.host_ends_suffice && error.is_none() {
        let why = "no program on this node hands frames over past the host end; it is attached within seconds";
        return (HookState::Pending, Some(why.into()));
    }
    match link_state(link, error) {
        (HookState::Holding, _) if direction == Direction::In && has_xdp(interface) => match xdp_link(key, observed) {
            Some(LinkState::Holding) => (HookState::Holding, None),
            Some(LinkState::Refused) => missing(SEEN[0]),
            _ => missing(SEEN[1]),
        },
        state => state,
    }
}

/// Isolated pods that share an interface share its one XDP program.
fn xdp_link(key: NetdevKey, observed: &Observed) -> Option<&LinkState> {
    let is_there = |other: &NetdevKey| (other.namespace, other.index) == (key.namespace, key.index);
    let others = || observed.xdp_links.iter().find(|(other, _)| is_there(other)).map(|(_, link)| link);
    observed.xdp_links.get(&key).or_else(others)
}

/// The worst of what the hook refuses in this direction.
fn lsm_state(pod: &Pod, direction: Direction, observed: &Observed) -> Shown {
    let Some(cgroup) = &pod.cgroup else {
        return not_applicable("the pod has no cgroup in the unified hierarchy (cgroup v1)");
    };
    if !observed.has_lsm {
        return not_applicable("the kernel took no BPF LSM programs (`isolate-agent doctor` says why)");
    }
    let asks = Ask::ALL.into_iter().filter(|ask| ask.direction() == direction);
    let mut states = asks.map(|ask| link_state(observed.lsm_links.get(&(cgroup.id, ask)), None));
    states.find(|(state, _)| *state == HookState::Missing).unwrap_or((HookState::Holding, None))
}

fn cgroup_state(id: CgroupId, direction: Direction, slot: Option<Slot>, observed: &Observed) -> Shown {
    if slot.is_none() || observed.cgroup_keys.get(&id) != slot.as_ref() {
        return missing("the cgroup has no key in the map");
    }
    link_state(observed.cgroup_links.get(&(id, direction)), None)
}

fn veth_state(veth: &HostVeth, direction: Direction, observed: &Observed, unattachable: &Unattachable) -> Shown {
    // A veth that two isolated pods share leads to either.
    if !observed.veth_keys.get(&veth.ifindex).is_some_and(|slot| observed.policies.contains_key(slot)) {
        return missing("the interface has no key in the map");
    }
    link_state(observed.veth_links.get(&(veth.ifindex, direction)), unattachable.get(&Place::HostEnd(veth.ifindex)))
}

fn link_state(link: Option<&LinkState>, error: Option<&String>) -> Shown {
    match link {
        Some(LinkState::Holding | LinkState::Interim) => (HookState::Holding, None),
        Some(LinkState::Displaced) => missing("another program runs first and can let packets past it"),
        Some(LinkState::Behind) => {
            missing("another program runs first and can let packets past it, and it cannot be put before that one")
        }
        Some(LinkState::Stale) => missing("it was taken away; it is put back within seconds"),
        Some(LinkState::Defunct | LinkState::Refused) => missing("it is attached to nothing any more"),
        None => missing(error.cloned().map_or(Cow::Borrowed("it is not attached"), Cow::Owned)),
    }
}

/// Said of a netdev hook that drops what comes in, but not before a packet socket has seen it.
const SEEN: [&str; 2] = [
    "it drops what comes in, but a packet socket of the pod sees it before: the kernel takes no XDP program of ours there (the \
     agent's log says why; once another program is taken off the interface, restart the agent, which tries again)",
    "it drops what comes in, but a packet socket of the pod sees it before: our XDP program was taken away; it is put back within \
     seconds",
];

/// Whether a hook drops all there is, though not before a packet socket of the pod sees it.
pub fn drops_what_is_seen(status: &HookStatus) -> bool {
    status.detail.as_deref().is_some_and(|detail| SEEN.contains(&detail))
}

/// What of packet sockets the LSM hook is not asked about.
const RINGS: &str = "\
a packet socket from before the cut is read through its mapped ring, and an AF_XDP one sends from its ring by poll(2)";

/// What a pod with these hooks has left open; empty when it is fully covered.
pub fn open_ways(pod: &Pod, hooks: &[HookStatus]) -> Vec<String> {
    let mut open = Vec::new();
    for status in hooks.iter().filter(|status| status.state == HookState::Missing) {
        let has_host_end = pod.host_veths().next().is_some();
        let leaves = match (&*status.hook, &*status.direction) {
            ("cgroup", "in") => "packets that reach its sockets other than through a veth, loopback included",
            ("cgroup", _) => "packets that its sockets send other than through a veth, loopback included",
            ("lsm", "in") => "what its packet sockets receive past the other hooks",
            ("lsm", _) => {
                "packet sockets past the other hooks, and devices that CAP_NET_ADMIN makes in the node's namespace"
            }
            ("netdev", _) if drops_what_is_seen(status) => {
                "reading frames that the CNI hands over past the host end (bpf_redirect_peer)"
            }
            ("netdev", _) if has_host_end => "frames that the CNI hands over past the host end (bpf_redirect_peer)",
            (_, "in") => "frames into it that reach no socket (ARP, packet sockets, answers of its kernel)",
            (_, _) => "frames out of it that no IP socket sends (ARP, packet sockets, answers of its kernel)",
        };
        let why = status.detail.as_deref().unwrap_or("it does not hold");
        open.push(format!("{} hook, {}, at {}: {why}; open: {leaves}", status.hook, status.direction, status.place));
    }
    let refuses = |status: &HookStatus| status.hook == Hook::Lsm.name() && status.state == HookState::Holding;
    let lsm_holds = hooks.iter().filter(|status| refuses(status)).count() == DIRECTIONS.len();
    for interface in pod.without_host_end() {
        let (name, kind) = (&interface.name, &interface.kind);
        open.push(if lsm_holds {
            format!("interface {name} ({kind}) has no host end: {RINGS}")
        } else {
            format!(
                "interface {name} ({kind}) has no host end: frames that a packet socket sends past the queueing layer \
                 (PACKET_QDISC_BYPASS, AF_XDP) pass no hook, and one that receives sees frames before the hook does"
            )
        });
    }
    if pod.host_network {
        open.push(if lsm_holds {
            format!(
                "the pod uses the node's network: its IP sockets are cut, and packet sockets are refused; {RINGS}, and \
                 a TUN device or a socket of another cgroup that a process has works on"
            )
        } else {
            "the pod uses the node's network: its IP sockets are cut, its packet sockets (AF_PACKET, AF_XDP) are not"
                .to_owned()
        });
    }
    open.extend(power::open_ways(pod, lsm_holds));
    open
}

/// One isolated pod, in full.
#[expect(clippy::too_many_arguments, reason = "each is one source of what is shown")]
pub fn isolation(
    uid: &PodUid,
    entry: &Entry,
    facts: Option<&PodFacts>,
    pod: Option<&Pod>,
    slot: Option<Slot>,
    observed: &Observed,
    unattachable: &Unattachable,
    counters: Option<&SlotCounters>,
) -> Isolation {
    let hooks = pod.map_or_else(Vec::new, |pod| hooks(pod, slot, observed, unattachable));
    let open = pod.map_or_else(Vec::new, |pod| open_ways(pod, &hooks));
    let coverage = match pod {
        None => Coverage::Absent,
        Some(_) if open.is_empty() => Coverage::Full,
        Some(_) => Coverage::Partial,
    };
    let record = entry.record();
    let (since, by, reason) = match entry {
        Entry::Saved(record) | Entry::Unsaved(record) => (record.since, record.by.clone(), record.reason.clone()),
        Entry::Unreadable { why, since } => {
            (*since, "unknown".to_owned(), Some(format!("its record cannot be read: {why}")))
        }
    };
    let name = name(facts, entry.record());
    Isolation {
        uid: uid.to_string(),
        namespace: name.map(|name| name.namespace().to_owned()),
        name: name.map(|name| name.name().to_owned()),
        labels: facts.map(|facts| facts.labels.clone()).unwrap_or_default(),
        ips: facts.map_or_else(Vec::new, |facts| facts.ips.iter().map(ToString::to_string).collect()),
        present: pod.is_some(),
        host_network: pod.is_some_and(|pod| pod.host_network),
        reason,
        by,
        since,
        keep_loopback: record.is_some_and(|record| record.keep_loopback),
        probe_ports: record.map(|record| record.probe_ports.iter().copied().collect()).unwrap_or_default(),
        allow: record.map(|record| record.allow.iter().map(ToString::to_string).collect()).unwrap_or_default(),
        until: record.and_then(|record| record.limit.as_ref()).map(|limit| limit.until),
        record: match entry {
            Entry::Saved(_) => RecordState::Saved,
            Entry::Unsaved(_) => RecordState::Unsaved,
            Entry::Unreadable { .. } => RecordState::Unreadable,
        },
        coverage,
        open,
        hooks,
        exempted: counters.map_or_else(Vec::new, exempted),
        drops: counters.map_or_else(Vec::new, drops),
    }
}

/// What a pod was called when it was isolated, or what the runtime calls it. Pods are not renamed: a runtime that says
/// something else later must not have another one released by that name.
pub fn name<'a>(facts: Option<&'a PodFacts>, record: Option<&'a Record>) -> Option<&'a PodName> {
    record.and_then(|record| record.pod.as_ref()).or_else(|| facts.and_then(PodFacts::name))
}

/// Left out where nothing ever passed.
fn exempted(counters: &SlotCounters) -> Vec<Exempted> {
    let mut exempted = Vec::new();
    for exemption in EXEMPTIONS {
        for hook in HOOKS {
            for direction in DIRECTIONS {
                let Counter { packets, bytes } = counters.exempted(exemption, hook, direction);
                let [exemption, hook, direction] = [exemption.name(), hook.name(), direction.name()].map(Cow::Borrowed);
                if packets > 0 {
                    exempted.push(Exempted { exemption, hook, direction, packets, bytes });
                }
            }
        }
    }
    exempted
}

fn drops(counters: &SlotCounters) -> Vec<Drops> {
    let mut drops = Vec::with_capacity(HOOKS.len() * DIRECTIONS.len());
    for hook in HOOKS {
        for direction in DIRECTIONS {
            let counter = counters.of(hook, direction);
            let (hook, direction) = (hook.name().into(), direction.name().into());
            drops.push(Drops { hook, direction, packets: counter.packets, bytes: counter.bytes });
        }
    }
    drops
}

/// Pods that are not armed, and why; and how many are.
pub fn arming(
    inventory: &Inventory,
    names: &BTreeMap<PodUid, PodFacts>,
    observed: &Observed,
    arm: Arm,
    unattachable: &Unattachable,
) -> (usize, Vec<Unarmed>) {
    let unarmed: Vec<Unarmed> = inventory
        .pods
        .values()
        .filter_map(|pod| {
            let (reason, detail) = why_unarmed(pod, observed, arm, unattachable)?;
            let name = name(names.get(&pod.uid), None).map(ToString::to_string);
            Some(Unarmed { uid: pod.uid.to_string(), pod: name, reason, detail })
        })
        .collect();
    (inventory.pods.len() - unarmed.len(), unarmed)
}

fn why_unarmed(
    pod: &Pod,
    observed: &Observed,
    arm: Arm,
    unattachable: &Unattachable,
) -> Option<(UnarmedReason, String)> {
    if pod.host_veths().next().is_none() {
        let (reason, detail) = if pod.host_network {
            (UnarmedReason::HostNetwork, "it uses the node's interfaces, which are never touched")
        } else if pod.namespaces == 0 {
            (UnarmedReason::NoProcess, "no process of it runs")
        } else {
            (UnarmedReason::NoHostEnd, "none of its interfaces has a host end")
        };
        return Some((reason, detail.to_owned()));
    }
    // A side that drops by itself gets its hook at the cut.
    let open = |veth: &&HostVeth| {
        let stands = |direction| observed.veth_links.get(&(veth.ifindex, direction)).is_some_and(|link| link.stands());
        DIRECTIONS.into_iter().any(|direction| !stands(direction) && arms(Arm::All, veth, direction))
    };
    let veth = pod.host_veths().find(open)?;
    Some(match (unattachable.get(&Place::HostEnd(veth.ifindex)), arm) {
        (Some(error), _) => (UnarmedReason::AttachFailed, error.clone()),
        (None, Arm::OnDemand) => (UnarmedReason::OnDemand, "the agent attaches only what is isolated".to_owned()),
        (None, Arm::All) => (UnarmedReason::Pending, format!("{} is about to be armed", veth.name)),
    })
}
