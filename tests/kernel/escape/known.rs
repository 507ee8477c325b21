//! The channels that get through in spite of the isolation, and why. The suite checks that each still does, races aside.

use super::run::Setting;

/// One leak.
pub(super) struct Known {
    pub(super) channel: &'static str,
    pub(super) why: &'static str,
}

/// All of them. Take one out when it is closed: the suite fails until you do.
pub(super) const LEAKS: &[Known] = &[
    known(
        "frame delivered by bpf_redirect_peer, seen by a sniffer in the pod",
        "delivered past the host end, and a packet socket sees a frame before the hook inside the pod does",
    ),
    known(
        "a macvlan on an interface of the node (link-netnsid)",
        "the pod's CAP_NET_ADMIN holds in the node's namespace too, which the pod can name by the id of eth0's other end",
    ),
    known(
        "a VXLAN that the node's namespace sends (link-netnsid)",
        "the same; what leaves is sent by a socket of the kernel in the node's namespace",
    ),
    known(
        "a veth into the node's bridge (target-netnsid), used at once",
        "the same; the agent attaches to its host end as to any of the pod's, but only once it has seen it",
    ),
    known("macvlan: frame past the queueing discipline", NO_HOST_END),
    known("macvlan: frame that a sniffer in the pod sees", NO_HOST_END),
    known("host network: frame", NODES_OWN),
    known("host network: frame past the queueing discipline", NODES_OWN),
    known("host network: frame that a sniffer in the pod sees", NODES_OWN),
    known("host network: a TUN device, and the node forwards", NODES_OWN),
    known("host network: a socket of another cgroup, received by SCM_RIGHTS", NODES_OWN),
];

const NO_HOST_END: &str = "\
the interface has no host end; the hook inside the pod sees neither what passes the queueing layer by nor what a packet \
socket gets before it";
const NODES_OWN: &str = "\
the node's interfaces are never touched, so only the cgroup hook holds: what no IP socket of the pod's cgroup sends or \
gets passes";

const fn known(channel: &'static str, why: &'static str) -> Known {
    Known { channel, why }
}

/// The settings in which `add` must end with exit code 5 and `status` must say what stays open.
pub(super) const PARTLY_COVERED: &[Setting] =
    &[Setting::Changing, Setting::Macvlan, Setting::Ipvlan, Setting::HostNetwork];

/// Races with the agent: whether they get through is for the machine's speed to say, so they may be found cut as well.
pub(super) const RACES: &[&str] = &[
    "a macvlan on an interface of the node (link-netnsid)",
    "a VXLAN that the node's namespace sends (link-netnsid)",
    "a veth into the node's bridge (target-netnsid), used at once",
];

/// Whether a known leak is a race.
pub(super) fn is_race(channel: &str) -> bool {
    RACES.contains(&channel)
}

/// Why a channel is known to leak.
pub(super) fn reason(channel: &str) -> Option<&'static str> {
    LEAKS.iter().find(|known| known.channel == channel).map(|known| known.why)
}
