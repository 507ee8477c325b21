//! Interfaces that come to isolated pods, one and many: cut at once, and no pod can use that up for the others.

use std::{
    fs,
    io::Write as _,
    process::{Child, Stdio},
    thread::{self, JoinHandle},
};

use aya::programs::TcAttachType;
use isolate_tests::{
    bpf,
    channel::{Channel, Path},
    launch, netdev,
    node::Node,
    pod::{Pod, Spec},
    program, wait,
};

use crate::{scene::Scene, suite::trials};

trials![a_new_interface_is_cut_without_a_pass, a_flood_of_interfaces_delays_nobody];

/// What the agent logs of a pod that something has come to.
const AT_ONCE: &str = "what came to an isolated pod is cut";
/// Interfaces that the hostile pod makes at least.
const MANY: u32 = 150;
/// Far more than the agent needs for a pod, far less than an entry for each event would be in the long run.
const MOST_KIB: u64 = 32 << 10;

fn plug(node: &Node, pod: &Pod, host: &str) {
    netdev::ip(
        node.netns(),
        &[
            format!("link add {host} type veth peer name net1 netns {}", pod.netns().name()),
            format!("link set {host} up"),
        ],
    );
    netdev::ip(pod.netns(), &["link set net1 up".to_owned()]);
}

fn wait_for_the_hook(node: &Node, host: &str) {
    wait::until("the new interface is cut", || {
        [TcAttachType::Ingress, TcAttachType::Egress]
            .iter()
            .all(|side| !bpf::programs(node.netns(), host, *side).is_empty())
    });
}

fn logged(log: &str, uid: &str) -> usize {
    log.lines().filter(|line| line.contains(AT_ONCE) && line.contains(uid)).count()
}

fn a_new_interface_is_cut_without_a_pass() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let daemon = agent.daemon();
    agent.add(&[web.uid()]);
    let before = logged(&daemon.log(), web.uid());
    plug(node, web, "late0");
    wait_for_the_hook(node, "late0");
    wait::until("it was cut at once", || logged(&daemon.log(), web.uid()) > before);
    let healthy = logged(&daemon.log(), neighbour.uid());
    plug(node, neighbour, "late1");
    wait_for_the_hook(node, "late1");
    assert_eq!(logged(&daemon.log(), neighbour.uid()), healthy, "a healthy pod is no hurry");
    agent.remove(&[web.uid()]);
    Path::shown(Channel::LINK, web.end(), neighbour.end());
}

fn a_flood_of_interfaces_delays_nobody() {
    let scene = Scene::with(&Spec { capabilities: &[launch::NET_ADMIN], ..Spec::default() });
    let Scene { agent, web: hostile, neighbour, node } = &scene;
    let (other, next) = (node.pod(&Spec::default()), node.pod(&Spec::default()));
    let daemon = agent.daemon();
    let code = agent.run(&["add", hostile.uid()]).code;
    assert!(code == 0 || code == 5, "{code}");
    agent.add(&[other.uid()]);
    let memory = resident_kib(daemon.pid());

    let flood = Flood::start(node, hostile);
    let first = fresh_index(hostile);
    wait::until("interfaces come and go", || fresh_index(hostile) > first + MANY);
    let before = logged(&daemon.log(), other.uid());
    let mut names = (0..).map(|number| format!("late{number}"));
    wait::until("one is cut at once", || {
        // On a slow machine a pass, of which the flood makes many, may come first.
        let name = names.next().expect("there is no end of numbers");
        plug(node, &other, &name);
        wait_for_the_hook(node, &name);
        netdev::ip(node.netns(), &[format!("link del {name}")]);
        logged(&daemon.log(), other.uid()) > before
    });
    let path = Path::shown(Channel::ORDINARY, next.end(), neighbour.end());
    agent.add(&[next.uid()]);
    path.assert_cut();
    let during = fresh_index(hostile);
    wait::until("the flood goes on", || fresh_index(hostile) > during);
    let grown = resident_kib(daemon.pid()).saturating_sub(memory);
    assert!(grown < MOST_KIB, "the daemon has grown by {grown} KiB");
    drop(flood);

    plug(node, hostile, "late");
    wait_for_the_hook(node, "late");
    agent.remove(&[next.uid()]);
    path.assert_flows();
}

/// Indexes are given out in order, so this tells how many interfaces there have been.
fn fresh_index(pod: &Pod) -> u32 {
    netdev::ip(pod.netns(), &["link add count0 type veth peer name count1".to_owned()]);
    let index = netdev::index(pod.netns(), "count0");
    netdev::ip(pod.netns(), &["link del count0".to_owned()]);
    index
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("a process has a resident set")
}

/// A process of the pod that makes and removes interfaces as fast as it can; dropping it ends it.
struct Flood {
    child: Child,
    feeder: Option<JoinHandle<()>>,
}

impl Flood {
    /// Where the LSM hook refuses an isolated pod that, the node does it in the pod's place.
    fn start(node: &Node, pod: &Pod) -> Self {
        let may = program::lsm_missing().is_some();
        let mut command = if may { pod.command("ip") } else { launch::command("ip", pod.netns(), &node.service()) };
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("iproute2 is installed");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let lines = b"link add flood0 type veth peer name flood1\nlink del flood0\n";
        // Until nobody reads any more.
        let feeder = thread::spawn(move || while stdin.write_all(lines).is_ok() {});
        Self { child, feeder: Some(feeder) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("clean-up: flood: {error}");
        }
        if let Some(feeder) = self.feeder.take()
            && feeder.join().is_err()
        {
            eprintln!("clean-up: the flood's feeder panicked");
        }
    }
}
