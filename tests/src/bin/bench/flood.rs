//! Isolated pods under flood: what each packet costs that is dropped, by every way of dropping it.

use std::{
    fs::File,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd as _, OwnedFd},
    process::Command,
};

use isolate_tests::{
    agent::Agent,
    netdev,
    node::Node,
    program::{self, Place},
};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::{
    cpu,
    crowd::{self, CrowdPod, NODE},
    options::Options,
    plot::{Kind, Plot},
    report::{Report, Section, Table, figure, spread},
    stats::{Series, number},
};

/// Packets of one sample; sent in portions, with the receiver's buffer emptied in between.
const PACKETS: usize = 8_192;
const PORTION: usize = 128;

/// A way to drop what goes into a pod or comes out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Nothing,
    IptablesLegacy,
    IptablesNft,
    NftNetdev,
    TcU32,
    Bare,
    BareCgroup,
    Isolate,
}

/// Which way the flood goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    In,
    Out,
}

/// What it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Udp18,
    Udp1400,
    Tcp1400,
}

const WAYS: [Way; 8] = [
    Way::Nothing,
    Way::IptablesLegacy,
    Way::IptablesNft,
    Way::NftNetdev,
    Way::TcU32,
    Way::BareCgroup,
    Way::Bare,
    Way::Isolate,
];
const LOADS: [Load; 3] = [Load::Udp18, Load::Udp1400, Load::Tcp1400];

impl Way {
    const fn id(self) -> &'static str {
        match self {
            Self::Nothing => "no_rule",
            Self::IptablesLegacy => "iptables_legacy",
            Self::IptablesNft => "iptables_nft",
            Self::NftNetdev => "nft_netdev",
            Self::TcU32 => "tc_u32",
            Self::Bare => "bare_tcx",
            Self::BareCgroup => "bare_cgroup",
            Self::Isolate => "isolate",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no rule",
            Self::IptablesLegacy => "iptables-legacy",
            Self::IptablesNft => "iptables-nft",
            Self::NftNetdev => "nft netdev, host veth",
            Self::TcU32 => "tc u32, host veth",
            Self::Bare => "bare tcx drop, host veth",
            Self::BareCgroup => "bare cgroup drop",
            Self::Isolate => "isolate",
        }
    }

    /// Whether it is a way of dropping this flow.
    const fn is_for(self, flow: Flow) -> bool {
        matches!((self, flow), (Self::BareCgroup, Flow::Out)) || !matches!(self, Self::BareCgroup)
    }

    /// The floor: a program that only drops, where isolate drops first.
    const fn floor(flow: Flow) -> Self {
        match flow {
            Flow::In => Self::Bare,
            Flow::Out => Self::BareCgroup,
        }
    }
}

impl Flow {
    const fn id(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

impl Load {
    const fn id(self) -> &'static str {
        match self {
            Self::Udp18 => "udp18",
            Self::Udp1400 => "udp1400",
            Self::Tcp1400 => "tcp1400",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Udp18 => "UDP, 18 bytes",
            Self::Udp1400 => "UDP, 1400 bytes",
            Self::Tcp1400 => "TCP segments, 1400 bytes",
        }
    }
}

/// A pod that is cut off in one way, and what keeps it so.
struct Cut {
    way: Way,
    pod: CrowdPod,
    _links: Vec<OwnedFd>,
}

/// Measures every way in both directions with every load.
pub(crate) fn run(options: &Options, report: &mut Report) {
    let node = Node::new();
    crowd::prepare(&node);
    let agent = Agent::new(&node);
    let daemon = agent.daemon();
    let pods = crowd::start(&node, 0, u32::try_from(WAYS.len()).expect("a handful"));
    let mut missing = Vec::new();
    let cuts: Vec<Cut> = WAYS
        .into_iter()
        .zip(pods)
        .filter_map(|(way, pod)| match cut(&node, &agent, way, &pod) {
            Ok(links) => Some(Cut { way, pod, _links: links }),
            Err(why) => {
                missing.push(format!("{}: {why}", way.name()));
                None
            }
        })
        .collect();
    let outside = Outside::new(&node);
    for flow in [Flow::In, Flow::Out] {
        let ways: Vec<&Cut> = cuts.iter().filter(|cut| cut.way.is_for(flow)).collect();
        let mut tables = Vec::new();
        let mut plots = Vec::new();
        for load in LOADS {
            let mut samples = vec![(Series::default(), Series::default()); ways.len()];
            for _ in 0..options.flood_rounds {
                for (cut, (sender, node_side)) in ways.iter().zip(&mut samples) {
                    let (own, all) = sample(&outside, cut, flow, load);
                    sender.push(own);
                    node_side.push(all);
                }
            }
            let named: Vec<(Way, &(Series, Series))> = ways.iter().map(|cut| cut.way).zip(&samples).collect();
            tables.push(table(report, flow, load, &named));
            plots.push(plot(flow, load, &named));
        }
        report.section(Section {
            title: title(flow),
            text: text(flow, options, &missing),
            tables,
            plots,
            ..Section::default()
        });
    }
    drop(daemon);
}

const fn title(flow: Flow) -> &'static str {
    match flow {
        Flow::In => "Isolated pods: a flood into the pod",
        Flow::Out => "Isolated pods: a flood out of the pod",
    }
}

fn text(flow: Flow, options: &Options, missing: &[String]) -> String {
    let how = match flow {
        Flow::In => {
            "The sender is on the node. iptables drops in the pod's namespace, in INPUT; the others drop on the host end of the \
             veth. The floor for isolate is the bare tcx program: both drop there."
        }
        Flow::Out => {
            "The sender is a socket of the pod. iptables drops in the pod's namespace, in OUTPUT, before the packet is routed; \
             the cgroup programs drop where the packet leaves the IP layer; the others on the host end of the veth, after it \
             has crossed it. The floor for isolate is the bare cgroup program: both drop there."
        }
    };
    let mut text = format!(
        "One core sends {PACKETS} packets a sample, {} rounds, each way on a pod of its own, in turns. *ns per packet* is all \
         that this core spends for a packet: on a veth the sender's thread does the node's softirq work too. *over the \
         floor* and *of iptables* are ratios within a round. Counting is on. {how}",
        options.flood_rounds
    );
    for why in missing {
        text = text + "\n\nNot on this kernel: " + why + ".";
    }
    text
}

fn table(report: &mut Report, flow: Flow, load: Load, named: &[(Way, &(Series, Series))]) -> Table {
    let of = |way: Way| named.iter().find(|(named, _)| *named == way).map(|(_, series)| &series.1);
    let mut table =
        Table::new(&[load.name(), "ns per packet", "spread", "sender's thread", "of iptables-nft", "over the floor"]);
    for (way, (sender, all)) in named {
        let ratio = |other: Option<&Series>| {
            other.map_or_else(|| "–".to_owned(), |other| format!("{:.2}", all.over(other).median()))
        };
        let (summary, own) = (all.summary(), sender.median());
        table.row([
            way.name().to_owned(),
            figure(summary.median),
            spread(summary),
            figure(own),
            ratio(of(Way::IptablesNft)),
            ratio(of(Way::floor(flow))),
        ]);
        let name = format!("flood.{}.{}.{}", flow.id(), load.id(), way.id());
        report.figure(&name, "ns", all);
        report.figure(&format!("{name}.sender"), "ns", sender);
        if *way == Way::floor(flow)
            && let Some(iptables) = of(Way::IptablesNft)
        {
            report.figure(&format!("{name}.over_{}", Way::IptablesNft.id()), "1", &all.over(iptables));
        }
        if *way == Way::Isolate {
            for other in [Way::IptablesLegacy, Way::IptablesNft, Way::floor(flow)] {
                if let Some(series) = of(other) {
                    report.figure(&format!("{name}.over_{}", other.id()), "1", &all.over(series));
                }
            }
        }
    }
    table
}

fn plot(flow: Flow, load: Load, named: &[(Way, &(Series, Series))]) -> Plot {
    let bars =
        named.iter().map(|(way, (_, all))| (way.name().to_owned(), all.median(), *way == Way::Isolate)).collect();
    let direction = if flow == Flow::In { "into" } else { "out of" };
    Plot {
        name: format!("flood-{}-{}", flow.id(), load.id()),
        title: format!("Flood {direction} the pod, {}: ns per packet", load.name()),
        kind: Kind::Bars { unit: "ns", bars },
    }
}

/// Cuts a pod off in one way; says why if this kernel cannot.
fn cut(node: &Node, agent: &Agent, way: Way, pod: &CrowdPod) -> Result<Vec<OwnedFd>, String> {
    let ifindex = netdev::index(node.netns(), &pod.veth);
    match way {
        Way::Nothing => Ok(Vec::new()),
        Way::IptablesLegacy => iptables(pod, "iptables-legacy"),
        Way::IptablesNft => iptables(pod, "iptables-nft"),
        Way::NftNetdev => {
            let veth = &pod.veth;
            let rules = format!(
                "table netdev bench {{\n chain in {{ type filter hook egress device {veth} priority 0; policy drop; }}\n \
                 chain out {{ type filter hook ingress device {veth} priority 0; policy drop; }}\n}}\n"
            );
            crowd::inside_netns(node.netns().file(), "nft", &["-f", "-"], rules.as_bytes())?;
            Ok(Vec::new())
        }
        Way::TcU32 => tc_u32(node, &pod.veth).map(|()| Vec::new()),
        Way::Bare => {
            const SHOT: i32 = 2;
            let attach = |place| program::answer_first(place, ifindex, SHOT).map_err(|error| error.to_string());
            node.netns().enter(|| [Place::TcxEgress, Place::TcxIngress].into_iter().map(attach).collect())
        }
        Way::BareCgroup => {
            let program = program::cgroup_filter(0).map_err(|error| error.to_string())?;
            let directory = File::open(pod.cgroup()).map_err(|error| error.to_string())?;
            let link =
                program::attach_to_cgroup_egress(directory.as_fd(), &program).map_err(|error| error.to_string())?;
            Ok(vec![link])
        }
        Way::Isolate => {
            agent.add(&[&pod.uid]);
            Ok(Vec::new())
        }
    }
}

fn iptables(pod: &CrowdPod, program: &str) -> Result<Vec<OwnedFd>, String> {
    for chain in ["INPUT", "OUTPUT"] {
        pod.try_inside(program, &["-w", "-I", chain, "-j", "DROP"], b"")?;
    }
    Ok(Vec::new())
}

/// `action drop` is in the gact module; a kernel without it can still hand packets to a device that eats them.
fn tc_u32(node: &Node, veth: &str) -> Result<(), String> {
    let tc = |arguments: String| {
        let words: Vec<&str> = arguments.split(' ').collect();
        let output = Command::new("tc").args(["-n", node.netns().name()]).args(&words).output();
        let output = output.map_err(|error| format!("tc: {error}"))?;
        let error = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
        if output.status.success() { Ok(()) } else { Err(format!("`tc {arguments}`: {error}")) }
    };
    tc(format!("qdisc add dev {veth} clsact"))?;
    for hook in ["ingress", "egress"] {
        tc(format!("filter add dev {veth} {hook} protocol all prio 1 u32 match u32 0 0 action drop"))?;
    }
    Ok(())
}

/// Who sends from outside.
struct Outside {
    udp: UdpSocket,
    raw: OwnedFd,
}

impl Outside {
    fn new(node: &Node) -> Self {
        let udp = node.netns().enter(|| UdpSocket::bind((NODE, crowd::PORT))).expect("the address is the node's");
        let raw = node.netns().enter(|| socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::TCP)));
        udp.set_nonblocking(true).expect("a socket can be set so");
        Self { udp, raw: raw.expect("root may make a raw socket") }
    }
}

/// One sample: time per packet of the sender's thread, and with what the core did elsewhere for it.
fn sample(outside: &Outside, cut: &Cut, flow: Flow, load: Load) -> (f64, f64) {
    let (udp, raw, to, sink): (_, _, SocketAddr, _) = match flow {
        Flow::In => (&outside.udp, &outside.raw, cut.pod.end(), &cut.pod.udp),
        Flow::Out => (&cut.pod.udp, &cut.pod.raw, (NODE, crowd::PORT).into(), &outside.udp),
    };
    sink.set_nonblocking(true).expect("a socket can be set so");
    let (sender, elsewhere, received) = cpu::pinned(|| {
        let softirq = cpu::SoftirqThread::find();
        let elsewhere = || cpu::SoftirqThread::nanos(softirq.as_ref());
        let (mut spent, mut received) = (0.0, 0);
        let payload = [0_u8; 1400];
        let segment = segment();
        let before = elsewhere();
        for _ in 0..PACKETS / PORTION {
            let start = cpu::thread_nanos();
            // That a drop is told to the sender as an error is part of its cost.
            for _ in 0..PORTION {
                match load {
                    Load::Udp18 => drop(udp.send_to(&payload[..18], to)),
                    Load::Udp1400 => drop(udp.send_to(&payload, to)),
                    Load::Tcp1400 => drop(sendto(raw, &segment, SendFlags::empty(), &to)),
                }
            }
            spent += cpu::thread_nanos() - start;
            let mut buffer = [0_u8; 2048];
            while sink.recv(&mut buffer).is_ok() {
                received += 1;
            }
        }
        (spent, elsewhere() - before, received)
    });
    let open = cut.way == Way::Nothing && load != Load::Tcp1400;
    assert!(if open { received > 0 } else { received == 0 }, "{:?} {flow:?} {load:?}: {received} arrived", cut.way);
    (sender / number(PACKETS), (sender + elsewhere) / number(PACKETS))
}

/// A TCP segment of no stream of the receiver's, without a checksum: its stack throws it away, if it gets it.
fn segment() -> Vec<u8> {
    const ACK: u8 = 0x10;
    let ports = [crowd::PORT.to_be_bytes(), crowd::PORT.to_be_bytes()].concat();
    let mut segment = [&ports[..], &[0, 0, 0, 1], &[0, 0, 0, 1], &[0x50, ACK, 0x20, 0], &[0, 0, 0, 0]].concat();
    segment.resize(20 + 1380, 0);
    segment
}
