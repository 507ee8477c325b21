//! What grows with the number of pods: arming, isolating all at once, asking, starting, memory, rest, and pods that come and
//! go.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use aya::programs::TcAttachType::{Egress, Ingress};
use isolate_tests::{
    agent::{Agent, Daemon, METRICS, request},
    bpf,
    node::Node,
    wait,
};

use crate::{
    churn, cpu,
    crowd::{self, CrowdPod},
    growth::{self, Measure, Measures},
    options::Options,
    report::{Report, Section},
    start::{LONGEST, Start},
    stream::{Cut, Sink},
};

/// Repetitions of what is quick.
const TIMES: usize = 12;
/// How many of the pods are isolated when a start is measured.
const ISOLATED: usize = 50;
/// What one round over all pods of a stream costs the sender at most, for each pod.
const PER_POD: Duration = Duration::from_micros(6);
const SHORTEST_PERIOD: Duration = Duration::from_micros(200);
/// An answer serves all who ask within 200 ms; what is measured is a fresh one.
const STALE: Duration = Duration::from_millis(250);
const MIB: f64 = 1024.0;

/// Measures nodes of every size.
pub(crate) fn run(options: &Options, report: &mut Report) {
    let mut measures = Measures::default();
    for &count in &options.pods {
        eprintln!("bench: {count} pods …");
        one(options, count, &mut measures);
    }
    for measure in Measure::ALL {
        for (count, series) in measures.of(measure) {
            report.figure(&format!("scale.{}.{count}", measure.id()), measure.unit(), series);
        }
    }
    report.section(Section {
        title: "Growth with the number of pods",
        text: format!(
            "A node with so many pods, each with a namespace, a routed veth, a cgroup and a process; one daemon. *Isolating all* \
             is one request for all of them, timed by the packets of every pod to the last one that got out of any (a round \
             over all pods every {} µs or more), and by the answer. The *start* is that of a daemon on a node that was \
             rebooted: up to {ISOLATED} records, no pins. *Ready* means that every record is enforced, at the host ends by filters; \
             links take their places behind it, and then the other pods are armed. Nobody asks the daemon anything meanwhile: it \
             tells its service manager, and pins what it attaches. Lists and scrapes are with all pods isolated and every hook attached; while some still follow, an answer \
             waits for the attach that is under way. CPU at rest is over {} s. The *order* is the exponent b of a·n^b that fits \
             best from 10 pods on: 1 is linear, 0 is constant.",
            SHORTEST_PERIOD.as_micros(),
            options.rest_secs
        ),
        tables: vec![growth::table(&measures)],
        plots: growth::plots(&measures),
        ..Section::default()
    });
}

/// A node of one size.
fn one(options: &Options, count: u32, measures: &mut Measures) {
    let node = Node::new();
    crowd::prepare(&node);
    let agent = Agent::new(&node);
    let pods = crowd::start(&node, 0, count);
    let all: Vec<&CrowdPod> = pods.iter().collect();
    let sink = Sink::new(&node);
    let mut put = |measure, value| measures.put(measure, count, value);

    let start = Start::new(&agent, &node);
    start.ready();
    put(Measure::ArmAll, start.armed(&node, pods.len()));
    let daemon = start.daemon;
    thread::sleep(Duration::from_secs(1));
    rest(options, &daemon, &mut put);
    sink.await_flow(&all);

    let period = SHORTEST_PERIOD.max(PER_POD * count);
    let uids: Vec<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
    let Cut { pods: seen, whole, result } = sink.time(&all, period, || isolate(&agent, &uids));
    assert!(result, "not all of {count} pods were isolated");
    put(Measure::CutAll, seen.iter().map(|seen| seen.last_out).fold(0.0, f64::max) / 1e3);
    put(Measure::AddAll, whole / 1e3);
    await_followed(&node, pods.len());
    for _ in 0..TIMES {
        thread::sleep(STALE);
        let start = Instant::now();
        let bytes = scrape(&node).len();
        put(Measure::Scrape, millis(start));
        assert!(bytes > 0);
        thread::sleep(STALE);
        let start = Instant::now();
        let answer = page(&node, "/healthz");
        put(Measure::Described, millis(start));
        assert!(answer.ends_with("ok\n"), "{answer}");
        let start = Instant::now();
        let listed =
            node.netns().enter(|| isolate_tests::agent::output(&mut agent.command_here(&["list", "-o", "json"])));
        put(Measure::List, millis(start));
        assert!(listed.stdout.matches("\"uid\"").count() == pods.len(), "all are listed");
    }
    put(Measure::ResidentIsolated, resident_kib(daemon.pid()) / MIB);
    assert_eq!(daemon.stop(), Some(0));
    let start = Start::new(&agent, &node);
    put(Measure::Restart, start.ready());
    let daemon = start.daemon;
    let start = Instant::now();
    assert!(remove_all(&agent));
    put(Measure::RemoveAll, millis(start));
    sink.await_flow(&all);
    churn::run(options, &node, &agent, &daemon, count, &mut put);

    assert!(isolate(&agent, &uids[..uids.len().min(ISOLATED)]));
    assert_eq!(daemon.stop(), Some(0));
    // A reboot takes the pins and leaves the records.
    fs::remove_dir_all(crate::micro::pins(&node)).expect("pins can be removed");
    // What was pinned is detached behind that, one by one under the RTNL lock; a node that boots has nothing to detach.
    let chain = |pod: &CrowdPod, side| bpf::tcx_chain(node.netns(), &pod.veth, side);
    let is_bare = |pod: &CrowdPod| [Ingress, Egress].into_iter().all(|side| chain(pod, side).is_empty());
    assert!(wait::happens_within(LONGEST, || pods.iter().all(is_bare)), "the pins hold on");
    let start = Start::new(&agent, &node);
    put(Measure::Boot, start.ready());
    put(Measure::BootArmed, start.armed(&node, pods.len()));
    assert!(remove_all(&agent));
}

/// Memory, and what the daemon uses of a core while nothing happens.
fn rest(options: &Options, daemon: &Daemon, put: &mut impl FnMut(Measure, f64)) {
    put(Measure::Resident, resident_kib(daemon.pid()) / MIB);
    let (start, before) = (Instant::now(), cpu::process_nanos(daemon.pid()));
    thread::sleep(Duration::from_secs(options.rest_secs));
    let used = cpu::process_nanos(daemon.pid()) - before;
    put(Measure::RestCpu, used / 1e9 / start.elapsed().as_secs_f64() * 100.0);
}

fn isolate(agent: &Agent, uids: &[&str]) -> bool {
    let stream = UnixStream::connect(agent.socket()).expect("the daemon listens");
    let body = serde_json::json!({ "uids": uids }).to_string();
    request(stream, "POST", "/v1/isolations", body.as_bytes()).0 == 200
}

fn remove_all(agent: &Agent) -> bool {
    let stream = UnixStream::connect(agent.socket()).expect("the daemon listens");
    request(stream, "POST", "/v1/isolations/remove", b"{\"all\": true}").0 == 200
}

/// Waits until so many pods are armed, as the scrape says: that takes less of the daemon than its status does.
pub(crate) fn await_armed(node: &Node, pods: usize) {
    let line = format!("isolate_pods_armed {pods}");
    assert!(wait::happens_within(LONGEST, || scrape(node).lines().any(|found| found == line)), "never armed");
}

/// Waits until what guards isolated pods inside, and follows the answer, is attached.
fn await_followed(node: &Node, pods: usize) {
    let holds =
        |line: &&str| line.starts_with("isolate_hook_attached") && line.contains("netdev") && line.ends_with("} 1");
    assert!(
        wait::happens_within(LONGEST, || scrape(node).lines().filter(holds).count() == pods),
        "not all has followed"
    );
}

/// One scrape, as Prometheus makes it.
fn scrape(node: &Node) -> String {
    page(node, "/metrics")
}

/// One page that the daemon serves, with the answer's head.
fn page(node: &Node, path: &str) -> String {
    let mut stream = node.netns().enter(|| TcpStream::connect(METRICS)).expect("the daemon serves metrics");
    let request = format!("GET {path} HTTP/1.0\r\nHost: agent\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads its request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers in text");
    text
}

fn resident_kib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).expect("the daemon runs")
}

/// Milliseconds since then.
pub(crate) fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
