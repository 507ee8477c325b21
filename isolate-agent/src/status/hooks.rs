//! The hooks of one pod: whether each holds, and what is open where one does not.

use std::{borrow::Cow, path::Path};

use super::{Place, Unattachable, power};
use crate::{
    control::protocol::{HookState, HookStatus},
    inventory::{CgroupId, HostVeth, Inside, Interface, Pod},
    observed::{LinkState, NetdevKey, Observed, Slot},
    plan::{has_xdp, netdev_directions},
};
use isolate_common::{Ask, DIRECTIONS, Direction, HOOKS, Hook};

/// One hook of an isolated pod, in one direction.
#[derive(Debug)]
struct HookAt<'a> {
    hook: Hook,
    direction: Direction,
    /// The cgroup directory or the interface; `-` where there is none.
    place: &'a Path,
    state: HookState,
    /// Why it does not hold, or does not apply.
    detail: Option<Cow<'static, str>>,
}

/// Every hook of an isolated pod.
#[derive(Debug)]
pub struct Hooks<'a> {
    /// In the order in which they are shown.
    all: Vec<HookAt<'a>>,
    /// What the pod has left open, in words; empty when it is fully covered.
    pub open: Vec<String>,
}

impl<'a> Hooks<'a> {
    /// The hooks of a pod in this slot, as the kernel was observed.
    pub fn of(pod: &'a Pod, slot: Option<Slot>, observed: &Observed, unattachable: &Unattachable) -> Self {
        let all = all(pod, slot, observed, unattachable);
        let open = open_ways(pod, &all);
        Self { all, open }
    }

    /// Whether each holds wherever it belongs, by [`Hook`], then [`Direction`]; `None` where the pod has no place for it.
    pub fn hold(&self) -> [[Option<bool>; DIRECTIONS.len()]; HOOKS.len()] {
        let mut hold = [[None; DIRECTIONS.len()]; HOOKS.len()];
        for at in &self.all {
            if let HookState::Holding | HookState::Missing = at.state {
                let holds = hold[at.hook as usize][at.direction as usize].get_or_insert(true);
                *holds &= at.state == HookState::Holding;
            }
        }
        hold
    }

    /// The same as a person is shown them.
    pub fn described(&self) -> Vec<HookStatus> {
        let describe = |at: &HookAt<'_>| HookStatus {
            hook: at.hook.name().into(),
            direction: at.direction.name().into(),
            place: at.place.to_string_lossy().into_owned(),
            state: at.state,
            detail: at.detail.clone(),
        };
        self.all.iter().map(describe).collect()
    }
}

fn all<'a>(pod: &'a Pod, slot: Option<Slot>, observed: &Observed, unattachable: &Unattachable) -> Vec<HookAt<'a>> {
    let nowhere = Path::new("-");
    let mut all = Vec::with_capacity(HOOKS.len() * DIRECTIONS.len() * pod.interfaces.len().max(1));
    let mut put = |hook, direction, place, (state, detail): Shown| {
        all.push(HookAt { hook, direction, place, state, detail });
    };
    let directory = pod.cgroup.as_ref().map_or(nowhere, |cgroup| &cgroup.path);
    for direction in DIRECTIONS {
        let state = pod.cgroup.as_ref().map_or_else(
            || missing("the pod has no cgroup in the unified hierarchy (cgroup v1)"),
            |cgroup| cgroup_state(cgroup.id, direction, slot, observed),
        );
        put(Hook::Cgroup, direction, directory, state);
    }
    for hook in [Hook::Veth, Hook::Netdev] {
        for interface in &pod.interfaces {
            let place = match (hook, &interface.host) {
                (Hook::Veth, Some(veth)) => &veth.name,
                _ => &interface.name,
            };
            for direction in DIRECTIONS {
                let state = match (hook, &interface.host) {
                    (Hook::Veth, Some(veth)) => veth_state(veth, direction, observed, unattachable),
                    (Hook::Veth, None) => not_applicable(format!("a {} has no host end", interface.kind)),
                    _ => netdev_state(interface, direction, slot, observed, unattachable),
                };
                put(hook, direction, Path::new(place), state);
            }
        }
        if pod.interfaces.is_empty() {
            for direction in DIRECTIONS {
                put(hook, direction, nowhere, without_interfaces(pod));
            }
        }
    }
    for direction in DIRECTIONS {
        put(Hook::Lsm, direction, directory, lsm_state(pod, direction, observed));
    }
    all
}

/// How a hook is shown: its state, and why.
type Shown = (HookState, Option<Cow<'static, str>>);

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

/// Whether a hook of which this is said drops all there is, though not before a packet socket of the pod sees it.
pub fn drops_what_is_seen(detail: Option<&str>) -> bool {
    detail.is_some_and(|detail| SEEN.contains(&detail))
}

/// What of packet sockets the LSM hook is not asked about.
const RINGS: &str = "\
a packet socket from before the cut is read through its mapped ring, and an AF_XDP one sends from its ring by poll(2)";

fn open_ways(pod: &Pod, hooks: &[HookAt<'_>]) -> Vec<String> {
    let mut open = Vec::new();
    for HookAt { hook, direction, place, detail, .. } in hooks.iter().filter(|at| at.state == HookState::Missing) {
        let detail = detail.as_deref();
        let has_host_end = pod.host_veths().next().is_some();
        let leaves = match (hook, direction) {
            (Hook::Cgroup, Direction::In) => {
                "packets that reach its sockets other than through a veth, loopback included"
            }
            (Hook::Cgroup, Direction::Out) => {
                "packets that its sockets send other than through a veth, loopback included"
            }
            (Hook::Lsm, Direction::In) => "what its packet sockets receive past the other hooks",
            (Hook::Lsm, Direction::Out) => {
                "packet sockets past the other hooks, and devices that CAP_NET_ADMIN makes in the node's namespace"
            }
            (Hook::Netdev, _) if drops_what_is_seen(detail) => {
                "reading frames that the CNI hands over past the host end (bpf_redirect_peer)"
            }
            (Hook::Netdev, _) if has_host_end => "frames that the CNI hands over past the host end (bpf_redirect_peer)",
            (_, Direction::In) => "frames into it that reach no socket (ARP, packet sockets, answers of its kernel)",
            (_, Direction::Out) => {
                "frames out of it that no IP socket sends (ARP, packet sockets, answers of its kernel)"
            }
        };
        let (why, place) = (detail.unwrap_or("it does not hold"), place.display());
        open.push(format!("{} hook, {}, at {place}: {why}; open: {leaves}", hook.name(), direction.name()));
    }
    let refuses = |at: &&HookAt<'_>| at.hook == Hook::Lsm && at.state == HookState::Holding;
    let lsm_holds = hooks.iter().filter(refuses).count() == DIRECTIONS.len();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_holds_where_it_does_at_every_interface() {
        let at =
            |hook, direction, place, state| HookAt { hook, direction, place: Path::new(place), state, detail: None };
        let all = vec![
            at(Hook::Cgroup, Direction::In, "-", HookState::NotApplicable),
            at(Hook::Veth, Direction::In, "veth0", HookState::Holding),
            at(Hook::Veth, Direction::Out, "veth0", HookState::Holding),
            at(Hook::Veth, Direction::In, "veth1", HookState::Missing),
            at(Hook::Veth, Direction::Out, "veth1", HookState::Holding),
            at(Hook::Netdev, Direction::In, "eth0", HookState::Pending),
        ];
        let hold = Hooks { all, open: Vec::new() }.hold();
        let mut expected = [[None; DIRECTIONS.len()]; HOOKS.len()];
        expected[Hook::Veth as usize] = [Some(false), Some(true)];
        assert_eq!(hold, expected);
    }
}
