//! Runs the channels of one setting: on a healthy pod, on one that is cut off, and after the release.

use std::env;

use isolate_tests::{
    frame::Mark,
    launch, netdev, netkit,
    pod::{Link, Spec},
};

use super::{
    Escape, FAMILIES, Halt,
    cut::Cut,
    stage::{Stage, State},
};

/// What pod the channels are tried on. All channels of one share a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// One veth, a port of the node's bridge.
    Bridged,
    /// The same, for attackers who change the pod's network and nodes that add to it.
    Changing,
    /// A veth with routes.
    Routed,
    /// A pair of netkit devices with routes.
    Netkit,
    /// A pair of netkit devices with hardware addresses, the host end a port of the node's bridge.
    NetkitBridged,
    /// Two veths on two bridges.
    TwoInterfaces,
    /// One veth without IPv4.
    V6Only,
    /// A macvlan.
    Macvlan,
    /// An ipvlan.
    Ipvlan,
    /// The node's network.
    HostNetwork,
}

/// What became of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing got through.
    Cut,
    /// It got through.
    Open,
    /// The kernel has no such thing: the probe, and what it gave.
    NotOffered(String),
    /// The agent does not isolate such a pod in this way.
    Refused,
    /// It does not work on a pod that nobody isolates, so it can tell nothing.
    Blind(String),
}

/// One channel under one cut.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) family: &'static str,
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
}

impl Setting {
    pub(super) const ALL: [Self; 10] = [
        Self::Bridged,
        Self::Changing,
        Self::Routed,
        Self::Netkit,
        Self::NetkitBridged,
        Self::TwoInterfaces,
        Self::V6Only,
        Self::Macvlan,
        Self::Ipvlan,
        Self::HostNetwork,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bridged => "bridged",
            Self::Changing => "changing",
            Self::Routed => "routed",
            Self::Netkit => "netkit",
            Self::NetkitBridged => "netkit_bridged",
            Self::TwoInterfaces => "two_interfaces",
            Self::V6Only => "v6_only",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::HostNetwork => "host_network",
        }
    }

    pub(super) fn spec(self) -> Spec {
        let (link, interfaces) = match self {
            Self::Bridged | Self::Changing | Self::V6Only => (Link::Bridged, 1),
            Self::TwoInterfaces => (Link::Bridged, 2),
            Self::Routed => (Link::Routed, 1),
            Self::Netkit => (Link::Netkit, 1),
            Self::NetkitBridged => (Link::NetkitBridged, 1),
            Self::Macvlan => (Link::Macvlan, 1),
            Self::Ipvlan => (Link::Ipvlan, 1),
            Self::HostNetwork => (Link::HostNetwork, 1),
        };
        let capabilities = if self.may_change_its_network() { &[launch::NET_ADMIN][..] } else { &[] };
        Spec { link, interfaces, capabilities, ..Spec::default() }
    }

    /// Whether the pod asked for `NET_ADMIN`: those have it in which an attacker makes devices.
    pub(super) fn may_change_its_network(self) -> bool {
        matches!(self, Self::Changing | Self::Macvlan | Self::HostNetwork)
    }

    /// The capabilities of an attacker who may load programs as well.
    pub(super) fn with_bpf(self) -> &'static [u32] {
        if self.may_change_its_network() { &[launch::NET_ADMIN, launch::BPF] } else { &[launch::BPF] }
    }

    /// Why no such pod can be made here.
    fn missing(self) -> Option<String> {
        match self {
            Self::Macvlan => netdev::missing("macvlan"),
            Self::Ipvlan => netdev::missing("ipvlan"),
            Self::Netkit | Self::NetkitBridged => netkit::missing(),
            _ => None,
        }
    }

    /// Whether there is no link that the pod shares with anybody but the node's kernel.
    pub(super) fn is_routed(self) -> bool {
        matches!(self, Self::Routed | Self::Netkit)
    }

    /// Whether its interfaces have ends on the node.
    pub(super) fn has_host_end(self) -> bool {
        !matches!(self, Self::Macvlan | Self::Ipvlan | Self::HostNetwork)
    }

    fn channels(self) -> Vec<(&'static str, &'static Escape)> {
        let all = FAMILIES.into_iter().flat_map(|(family, all)| all.iter().map(move |escape| (family, escape)));
        all.filter(|(_, escape)| escape.setting == self).collect()
    }
}

/// Runs all channels of a setting under a cut.
pub(super) fn perform(setting: Setting, cut: Cut) -> Vec<Row> {
    let channels = setting.channels();
    let row = |(family, escape): (&'static str, &'static Escape), verdict| Row { family, name: escape.name, verdict };
    if let Some(missing) = setting.missing() {
        return channels.into_iter().map(|channel| row(channel, Verdict::NotOffered(missing.clone()))).collect();
    }
    if cut == Cut::AgentKeepingProbes && !setting.has_host_end() {
        return channels.into_iter().map(|channel| row(channel, Verdict::Refused)).collect();
    }
    let mut stage = Stage::build(setting, cut);
    let run = |stage: &Stage| channels.iter().map(|(_, escape)| tried(escape, stage)).collect::<Vec<_>>();
    let before = run(&stage);
    stage.cut_off();
    let during = run(&stage);
    stage.release();
    let after = run(&stage);
    let verdicts =
        before.into_iter().zip(during).zip(after).map(|((before, during), after)| judge(before, during, after));
    channels.iter().zip(verdicts).map(|(channel, verdict)| row(*channel, verdict)).collect()
}

/// While nothing cuts it, a channel has another try or two: a first packet may be lost while a link comes up.
fn tried(escape: &Escape, stage: &Stage) -> Result<bool, Halt> {
    let tries = if stage.state() == State::Cut { 1 } else { 3 };
    let mut outcome = Ok(false);
    for _ in 0..tries {
        stage.begin();
        outcome = (escape.attempt)(stage, &Mark::new());
        if env::var_os("ISOLATE_TRACE").is_some() {
            eprintln!("{:?}: {}: {outcome:?}", stage.state(), escape.name);
        }
        if matches!(outcome, Ok(true) | Err(Halt::Missing(_))) {
            break;
        }
    }
    outcome
}

fn judge(before: Result<bool, Halt>, during: Result<bool, Halt>, after: Result<bool, Halt>) -> Verdict {
    let blind = |when: &str, tried: Result<bool, Halt>| match tried {
        Err(Halt::Missing(why) | Halt::Failed(why)) => format!("{when}: {why}"),
        Ok(_) => format!("{when}: nothing arrived"),
    };
    match (before, during, after) {
        (Err(Halt::Missing(why)), ..) => Verdict::NotOffered(why),
        (Ok(true), Ok(true), _) => Verdict::Open,
        (Ok(true), _, Ok(true)) => Verdict::Cut,
        (Ok(true), _, after) => Verdict::Blind(blind("after the release", after)),
        (before, ..) => Verdict::Blind(blind("before the cut", before)),
    }
}
