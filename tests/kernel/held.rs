//! A filter holds a host end until its link is attached: nothing is open before, between or after. Where it would not come first,
//! there is a link at once.

use std::{fs, process::Command, thread, time::Duration};

use aya::programs::TcAttachType::{self, Egress, Ingress};
use isolate_common::names::VETH_IN;
use isolate_tests::{
    agent::Agent,
    bpf,
    channel::{Channel, Path},
    flood::Flood,
    launch, netdev,
    node::Node,
    pod::{Pod, Spec},
    process::Process,
    program::{self, Place},
    wait,
};

use crate::{arming::is_armed, clsact::has_qdisc, scene::Scene, suite::trials};

trials![
    all_are_cut_before_the_first_link needs NextAgent Tcx,
    links_take_the_places_without_a_gap needs Tcx,
    no_filter_is_trusted_behind_a_program needs Tcx,
    without_a_filter_it_is_the_link needs Tcx,
];

/// Long enough for hundreds of datagrams of each flood to be dropped.
const STRETCH: Duration = Duration::from_millis(500);
/// `TCX_PASS` ends the chain: neither a program nor a filter behind it is asked.
const TCX_PASS: i32 = 0;
const SIDES: [TcAttachType; 2] = [Ingress, Egress];

/// How many links and filters there are on the two sides of all these.
fn attached(node: &Node, veths: &[&str]) -> (usize, usize) {
    let all = |count: &dyn Fn(&str, TcAttachType) -> usize| {
        veths.iter().flat_map(|veth| SIDES.map(|side| count(veth, side))).sum::<usize>()
    };
    let links = all(&|veth, side| bpf::tcx_chain(node.netns(), veth, side).len());
    (links, all(&|veth, side| bpf::filters(node.netns(), veth, side).len()))
}

/// What leaves past all sockets: only the hook on the host end cuts it.
fn frames<'a>(from: &'a Pod, visitor: &'a Process, to: &'a Pod) -> Path<'a> {
    Path::shown_one_way(Channel::LINK, from.end_of(visitor), to.end())
}

fn on_demand(agent: &Agent) -> Agent {
    agent.clone().with_daemon_option("--arm", "on-demand")
}

/// As after a reboot nothing is attached; and the agent ends with the first link, as none ever does.
fn all_are_cut_before_the_first_link() {
    let scene = Scene::new();
    let Scene { web, neighbour, node, .. } = &scene;
    let agent = scene.agent.upgraded();
    let other = node.pod(&Spec::default());
    let veths = [web, &other].map(|pod| pod.host_veths()[0].as_str());
    let visitors = [web, &other].map(|pod| Process::start(pod.netns(), &node.service()));
    agent.add(&[web.uid(), other.uid()]);
    fs::remove_dir_all(node.folder().join("bpf/isolate-agent")).expect("the agent has made its pins");
    wait::until("nothing is attached", || attached(node, &veths) == (0, 0));
    let paths = [frames(web, &visitors[0], neighbour), frames(&other, &visitors[1], neighbour)];

    assert!(agent.crashes_at("AttachVeth", &["daemon"]), "no link follows");
    paths.iter().for_each(Path::assert_cut);
    assert_eq!(attached(node, &veths), (1, 3), "links and filters");
    let _daemon = agent.daemon();
    wait::until("links alone are left", || attached(node, &veths) == (4, 0));
    paths.iter().for_each(Path::assert_cut);
    assert!(veths.iter().all(|veth| !has_qdisc(node, veth, "clsact")), "a qdisc is left");
    agent.remove(&["--all"]);
    paths.iter().for_each(Path::assert_flows);
}

fn links_take_the_places_without_a_gap() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let veth = web.host_veths()[0].as_str();
    let into = Flood::start(neighbour.app(), web.app(), (web.end().v4, 0).into());
    let out = Flood::start(web.app(), neighbour.app(), (neighbour.end().v6, 0).into());
    let _daemon = on_demand(agent).daemon();
    for _ in 0..5 {
        let before = (into.received(), out.received());
        wait::until("the floods flow", || into.received() > before.0 && out.received() > before.1);
        agent.add(&[web.uid()]);
        // What had passed the last hook by then arrives.
        thread::sleep(Duration::from_millis(1));
        let before = (into.received(), out.received());
        wait::until("links alone are left", || attached(node, &[veth]) == (2, 0));
        thread::sleep(STRETCH);
        assert_eq!((into.received(), out.received()), before, "datagrams got through");
        assert!(!has_qdisc(node, veth, "clsact"), "the qdisc is left");
        agent.remove(&[web.uid()]);
    }
}

fn no_filter_is_trusted_behind_a_program() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let veth = web.host_veths()[0].as_str();
    let visitor = scene.visitor();
    let path = frames(web, &visitor, neighbour);
    let index = netdev::index(node.netns(), veth);
    let attach = |place| program::answer_first(place, index, TCX_PASS).expect("a program can be attached");
    let _strangers = [Place::TcxIngress, Place::TcxEgress].map(|place| node.netns().enter(|| attach(place)));
    let by_filters = agent.clone().with_veth_hook("clsact");
    by_filters.run(&["add", web.uid()]).expect(5);
    path.assert_flows();
    by_filters.remove(&[web.uid()]);

    let _daemon = on_demand(agent).daemon();
    agent.add(&[web.uid()]);
    path.assert_cut();
    assert!(is_armed(node, veth), "not in front");
    assert!(!has_qdisc(node, veth, "clsact"), "the qdisc is left");
    agent.remove(&[web.uid()]);
    path.assert_flows();
}

/// The older qdisc is in the place of clsact, and has no egress side.
fn without_a_filter_it_is_the_link() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let veth = web.host_veths()[0].as_str();
    launch::succeed(Command::new("tc").args(["-n", node.netns().name(), "qdisc", "add", "dev", veth, "ingress"]));
    let path = Path::shown(Channel::ROUTED.into_iter().chain(Channel::LINK), web.end(), neighbour.end());
    let _daemon = on_demand(agent).daemon();
    agent.add(&[web.uid()]);
    assert_eq!(bpf::tcx_chain(node.netns(), veth, Egress), [VETH_IN]);
    path.assert_cut();
    wait::until("links alone are left", || attached(node, &[veth]) == (2, 0));
    agent.remove(&[web.uid()]);
    path.assert_flows();
    assert!(has_qdisc(node, veth, "ingress"), "somebody else's qdisc is gone");
}
