//! How fast a cut comes: from the request to the last packet that gets out of the pod, and to the end of the command.

use std::{
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use isolate_tests::{
    agent::{Agent, Daemon, request},
    netdev,
    node::Node,
    program, wait,
};

use crate::{
    crowd::{self, CrowdPod},
    floor::Floor,
    options::Options,
    plot::{Axis, Kind, Plot},
    report::{Report, Section, Table, figure},
    stats::{Series, number},
    stream::{PERIOD, Sink},
};

/// Pods on each node: an ordinary node has some dozens.
const PODS: u32 = 10;
const ARM_ON_DEMAND: [&str; 2] = ["--arm", "on-demand"];

/// Both families, both ways.
const IPTABLES: &str = "iptables -w -I INPUT -j DROP && iptables -w -I OUTPUT -j DROP && ip6tables -w -I INPUT -j DROP && \
                        ip6tables -w -I OUTPUT -j DROP";
const NFT: &str = "nft -f - <<'E'\ntable inet cut {\n chain in { type filter hook input priority 0; policy drop; }\n \
                   chain out { type filter hook output priority 0; policy drop; }\n}\nE\n";

/// A way to cut a pod off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Armed,
    OnDemand,
    CliArmed,
    DirectArmed,
    DirectOnDemand,
    Iptables,
    Nft,
}

const WAYS: [Way; 7] =
    [Way::Armed, Way::OnDemand, Way::CliArmed, Way::DirectArmed, Way::DirectOnDemand, Way::Iptables, Way::Nft];

impl Way {
    const fn id(self) -> &'static str {
        match self {
            Self::Armed => "daemon_armed",
            Self::OnDemand => "daemon_on_demand",
            Self::CliArmed => "cli_armed",
            Self::DirectArmed => "direct_armed",
            Self::DirectOnDemand => "direct_on_demand",
            Self::Iptables => "nsenter_iptables",
            Self::Nft => "nsenter_nft",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Armed => "daemon, armed (control socket)",
            Self::OnDemand => "daemon, on demand (control socket)",
            Self::CliArmed => "isolate-agent add, daemon, armed",
            Self::DirectArmed => "isolate-agent add, no daemon, armed",
            Self::DirectOnDemand => "isolate-agent add, no daemon, not armed",
            Self::Iptables => "nsenter iptables -I, v4+v6, both ways",
            Self::Nft => "nsenter nft -f, inet, both ways",
        }
    }
}

/// A node on which a pod is cut off in one way, again and again. Dropped from top to bottom.
struct Place {
    way: Way,
    _daemon: Option<Daemon>,
    agent: Agent,
    pods: Vec<CrowdPod>,
    sink: Sink,
    node: Node,
}

/// Measures every way, in turns.
pub(crate) fn run(options: &Options, report: &mut Report) {
    let places: Vec<Place> = WAYS.into_iter().map(Place::new).collect();
    let mut samples = vec![Samples::default(); places.len()];
    // On the node of the iptables way, whose agent is at rest.
    let Place { node, sink, pods, agent, .. } = &places[WAYS.len() - 2];
    let mut floor = Floor::new(node.folder());
    for _ in 0..options.cut_rounds {
        for (place, samples) in places.iter().zip(&mut samples) {
            place.round(samples);
        }
        node.netns().enter(|| floor.round(sink, &pods[0], agent.command_here(&["--version"])));
    }
    floor.tell(report);
    let link = tcx_attach(&places[WAYS.len() - 1], options.cut_rounds.min(50));
    report.figure("cut.tcx_attach", "ms", &link);
    let of = |way| &samples[WAYS.into_iter().position(|known| known == way).expect("every way is measured")];
    let mut table =
        Table::new(&["way", "last packet out: p50", "p99", "max", "whole command: p50", "p99", "of iptables"]);
    let mut lines = Vec::new();
    for (way, samples) in WAYS.into_iter().zip(&samples) {
        let (out, whole) = (samples.last_out.summary(), samples.whole.summary());
        let ratio = samples.whole.over(&of(Way::Iptables).whole);
        let cells =
            [out.median, out.p99, out.max, whole.median, whole.p99].map(|micros| format!("{} µs", figure(micros)));
        table.row([way.name().to_owned()].into_iter().chain(cells).chain([format!("{:.2}", ratio.median())]));
        let name = format!("cut.{}", way.id());
        report.figure(&format!("{name}.last_out"), "µs", &samples.last_out);
        report.figure(&format!("{name}.first_held"), "µs", &samples.first_held);
        report.figure(&format!("{name}.whole"), "µs", &samples.whole);
        report.figure(&format!("{name}.whole_over_iptables"), "1", &ratio);
        if !samples.enforced.samples().is_empty() {
            report.figure(&format!("{name}.enforced"), "µs", &samples.enforced);
        }
        lines.push((way.name().to_owned(), distribution(&samples.last_out)));
    }
    report.section(Section {
        title: "How fast the cut comes",
        text: format!(
            "A pod sends a numbered datagram every {} µs; the last one that arrives says when it was cut off, counted from the \
             moment before the request is sent (control socket) or the command is started. {} rounds, in turns; {PODS} pods on \
             each node. *Whole command* ends with the answer: then the record is on disk, every hook is attached (on demand with a \
             daemon, at the host end by a filter: a tcx link, for which the kernel waits for RCU, takes {} ms each on an idle interface, \
             and follows), and the pod has been looked at again. The iptables way is one shell in the pod's namespace with four `-I`; the nft way one \
             table with two chains. After every answer no packet got out, in any way.",
            PERIOD.as_micros(),
            options.cut_rounds,
            figure(link.summary().median)
        ),
        tables: vec![table],
        plots: vec![Plot {
            name: "cut-latency".to_owned(),
            title: "From the request to the last packet that got out".to_owned(),
            kind: Kind::Lines {
                x: Axis { title: "microseconds", logarithmic: true },
                y: Axis { title: "share of the rounds, %", logarithmic: false },
                lines,
            },
        }],
        ..Section::default()
    });
}

/// How long attaching an empty program to an idle interface takes, in milliseconds: the floor of each attach.
fn tcx_attach(place: &Place, times: u32) -> Series {
    const NEXT: i32 = -1;
    let ifindex = netdev::index(place.node.netns(), &place.pods[PODS as usize - 1].veth);
    let one = |_| {
        let start = Instant::now();
        let link = program::answer_first(program::Place::TcxIngress, ifindex, NEXT);
        let took = start.elapsed().as_secs_f64() * 1e3;
        drop(link.expect("the kernel has tcx"));
        took
    };
    place.node.netns().enter(|| (0..times).map(one).collect())
}

/// What an answer of the control socket says of how soon the pod was cut off, in microseconds.
fn enforced_after(answer: &str) -> Option<f64> {
    let answer: serde_json::Value = serde_json::from_str(answer).ok()?;
    answer["results"][0]["enforced_after_us"].as_f64()
}

/// Points of the cumulative distribution, in percent.
fn distribution(series: &Series) -> Vec<(f64, f64)> {
    let mut sorted = series.samples().to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    let step = count.div_ceil(200).max(1);
    sorted
        .iter()
        .enumerate()
        .step_by(step)
        .map(|(at, micros)| (micros.max(1.0), number(at + 1) / number(count) * 100.0))
        .collect()
}

#[derive(Clone, Debug, Default)]
struct Samples {
    last_out: Series,
    first_held: Series,
    whole: Series,
    /// What the agent says of itself, where it does.
    enforced: Series,
}

impl Place {
    fn new(way: Way) -> Self {
        let node = Node::new();
        crowd::prepare(&node);
        let agent = Agent::new(&node);
        let pods = crowd::start(&node, 0, PODS);
        let daemon = match way {
            Way::Armed | Way::CliArmed => Some(agent.daemon()),
            Way::OnDemand => Some(agent.clone().with_daemon_option(ARM_ON_DEMAND[0], ARM_ON_DEMAND[1]).daemon()),
            // What a daemon has armed stays so when it is gone.
            Way::DirectArmed => {
                let daemon = agent.daemon();
                await_armed(&agent, pods.len());
                daemon.kill();
                None
            }
            Way::DirectOnDemand | Way::Iptables | Way::Nft => None,
        };
        if matches!(way, Way::Armed | Way::CliArmed) {
            await_armed(&agent, pods.len());
        }
        let sink = Sink::new(&node);
        sink.await_flow(&[&pods[0]]);
        Self { way, _daemon: daemon, agent, pods, sink, node }
    }

    fn round(&self, samples: &mut Samples) {
        let pod = &self.pods[0];
        let cut = self.node.netns().enter(|| self.sink.time(&[pod], PERIOD, || self.cut(pod)));
        let answer = cut.result.unwrap_or_else(|| panic!("{:?} failed", self.way));
        if let Some(enforced) = enforced_after(&answer) {
            samples.enforced.push(enforced);
        }
        samples.last_out.push(cut.pods[0].last_out);
        samples.first_held.push(cut.pods[0].first_held);
        samples.whole.push(cut.whole);
        self.node.netns().enter(|| self.undo(pod));
        self.sink.await_flow(&[pod]);
    }

    /// Cuts the pod off; what was answered, if that succeeded.
    fn cut(&self, pod: &CrowdPod) -> Option<String> {
        match self.way {
            Way::Armed | Way::OnDemand => {
                let stream = UnixStream::connect(self.agent.socket()).expect("the daemon listens");
                let body = format!("{{\"uids\": [\"{}\"]}}", pod.uid);
                let (status, answer) = request(stream, "POST", "/v1/isolations", body.as_bytes());
                (status == 200).then_some(answer)
            }
            Way::CliArmed | Way::DirectArmed | Way::DirectOnDemand => {
                ends_well(self.agent.command_here(&["add", &pod.uid])).then(String::new)
            }
            Way::Iptables => nsenter(pod, IPTABLES).then(String::new),
            Way::Nft => nsenter(pod, NFT).then(String::new),
        }
    }

    /// The pins of what is attached.
    fn links(&self) -> impl Iterator<Item = PathBuf> {
        let links = std::fs::read_dir(crate::micro::pins(&self.node).join("links"));
        links.expect("the agent keeps its links there").flatten().map(|link| link.path())
    }

    fn undo(&self, pod: &CrowdPod) {
        match self.way {
            Way::Armed | Way::OnDemand | Way::CliArmed => {
                let stream = UnixStream::connect(self.agent.socket()).expect("the daemon listens");
                assert_eq!(request(stream, "DELETE", &format!("/v1/isolations/{}", pod.uid), b"").0, 200);
                if self.way == Way::OnDemand {
                    // It detaches after the answer, under the RTNL lock, and the next round is somebody else's.
                    wait::until("nothing is attached any more", || self.links().next().is_none());
                }
            }
            Way::DirectArmed => assert!(ends_well(self.agent.command_here(&["remove", &pod.uid]))),
            Way::DirectOnDemand => {
                assert!(ends_well(self.agent.command_here(&["remove", &pod.uid])));
                // It stays armed; here it is not to be.
                for link in self.links() {
                    std::fs::remove_file(link).expect("a pin can be removed");
                }
            }
            Way::Iptables => {
                assert!(nsenter(pod, "iptables -w -F; ip6tables -w -F"));
            }
            Way::Nft => assert!(nsenter(pod, "nft delete table inet cut")),
        }
    }
}

/// Waits until the daemon has armed so many pods.
pub(crate) fn await_armed(agent: &Agent, pods: usize) {
    wait::until("every pod is armed", || {
        agent.run(&["status", "-o", "json"]).expect(0).json()["pods_armed"].as_u64() == Some(pods as u64)
    });
}

fn nsenter(pod: &CrowdPod, script: &str) -> bool {
    let mut command = Command::new("nsenter");
    command.args(["-t", &pod.pid().to_string(), "-n", "sh", "-c", script]);
    ends_well(command)
}

pub(crate) fn ends_well(mut command: Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
