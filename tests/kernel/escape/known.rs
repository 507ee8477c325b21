//! The channels that get through in spite of the isolation, and why. The suite checks that each still does, races aside.

use std::sync::OnceLock;

use isolate_tests::program;

use super::run::Setting;

/// One leak.
pub(super) struct Known {
    pub(super) channel: &'static str,
    pub(super) why: &'static str,
    /// Whether the LSM hook closes it, where the kernel has one.
    pub(super) closed_by_lsm: bool,
}

/// All of them. Take one out when it is closed: the suite fails until you do.
pub(super) const LEAKS: &[Known] = &[
    but_for_lsm(
        "a macvlan on an interface of the node (link-netnsid)",
        "the pod's CAP_NET_ADMIN holds in the node's namespace too, which the pod can name by the id of eth0's other end",
    ),
    but_for_lsm(
        "a VXLAN that the node's namespace sends (link-netnsid)",
        "the same; what leaves is sent by a socket of the kernel in the node's namespace",
    ),
    but_for_lsm(
        "a veth into the node's bridge (target-netnsid), used at once",
        "the same; the agent attaches to its host end as to any of the pod's, but only once it has seen it",
    ),
    but_for_lsm("macvlan: frame past the queueing discipline", NO_HOST_END),
    but_for_lsm("macvlan: frame that a sniffer in the pod sees", NO_HOST_END),
    but_for_lsm("host network: frame", NODES_OWN),
    but_for_lsm("host network: frame past the queueing discipline", NODES_OWN),
    but_for_lsm("host network: frame that a sniffer in the pod sees", NODES_OWN),
    but_for_lsm("host network: a TUN device, and the node forwards", NODES_OWN),
    known("host network: a socket of another cgroup, received by SCM_RIGHTS", NODES_OWN),
    but_for_lsm("macvlan: frame past the queueing discipline, from a socket of before", NO_HOST_END),
    but_for_lsm("macvlan: frame that a sniffer of before sees", NO_HOST_END),
    but_for_lsm("host network: frame from a packet socket of before", NODES_OWN),
    but_for_lsm("host network: frame that a sniffer of before sees", NODES_OWN),
];

const NO_HOST_END: &str = "\
the interface has no host end; the hook inside the pod sees neither what passes the queueing layer by nor what a packet \
socket gets before it";
const NODES_OWN: &str = "\
the node's interfaces are never touched, so only the cgroup hook holds: what no IP socket of the pod's cgroup sends or \
gets passes";

const fn known(channel: &'static str, why: &'static str) -> Known {
    Known { channel, why, closed_by_lsm: false }
}

const fn but_for_lsm(channel: &'static str, why: &'static str) -> Known {
    Known { channel, why, closed_by_lsm: true }
}

/// Why this kernel has no LSM hook.
pub(super) fn lsm_missing() -> Option<&'static str> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    MISSING.get_or_init(program::lsm_missing).as_deref()
}

/// Whether `add` must end with exit code 5 in this setting, and `status` must say what stays open: where there is a leak, and
/// where a socket from before the cut may have a ring that no hook is asked about.
pub(super) fn is_partly_covered(setting: Setting) -> bool {
    match setting {
        Setting::Macvlan | Setting::Ipvlan | Setting::HostNetwork => true,
        // What its CAP_NET_ADMIN can do.
        Setting::Changing => lsm_missing().is_some(),
        _ => false,
    }
}

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

/// Why a channel is known to leak on this kernel.
pub(super) fn reason(channel: &str) -> Option<&'static str> {
    let here = |known: &&Known| known.channel == channel && !(known.closed_by_lsm && lsm_missing().is_none());
    LEAKS.iter().find(here).map(|known| known.why)
}
