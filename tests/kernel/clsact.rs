//! Hooks that are filters of a clsact qdisc: beside other owners' filters, taken away by others, and on a node that used
//! tcx before.

use std::{fs, process::Command, time::Duration};

use aya::programs::TcAttachType::{self, Egress, Ingress};
use isolate_common::names::{NETDEV_DROP, NETDEV_IN, NETDEV_OUT, VETH_IN, VETH_OUT};
use isolate_tests::{
    agent::Agent,
    bpf::{self, Filter},
    channel::{Channel, Path},
    feature,
    flood::Flood,
    frame::{EXPERIMENT, Mac, Mark, ethernet},
    launch,
    netns::Netns,
    node::Node,
    observe::Observer,
    pod::{Link, Spec},
    process::Process,
    wait,
};
use libtest_mimic::Trial;

use crate::{
    arming::{self, is_armed},
    containers, crash, escape, isolate, leaving,
    scene::Scene,
    suite::{self, trials},
    upgrade,
    verify::{self, Watch},
};

trials![
    a_filter_cuts_and_goes,
    filters_of_others_stay,
    one_that_cannot_be_overtaken_is_told,
    the_older_qdisc_is_told,
    what_is_taken_away_is_put_back,
    a_pod_cannot_keep_its_hook_away,
    lost_pins_let_nothing_through,
    from_links_to_filters_and_back needs Tcx,
    what_is_taken_away_is_found_by_probes,
    a_filter_right_behind_lets_nothing_be_shown,
];

/// What holds with links must hold with filters.
pub(crate) fn others() -> Vec<Trial> {
    // Without tcx it is what `auto` takes, and nothing new.
    if !feature::has_tcx() {
        return Vec::new();
    }
    let subjects = [
        isolate::trials,
        containers::trials,
        crash::trials,
        arming::trials,
        leaving::trials,
        escape::trials,
        upgrade::trials,
        verify::either_way,
    ];
    subjects.into_iter().flat_map(|trials| suite::attaching_by("clsact", trials)).collect()
}

/// The side of the host end that frames out of the pod come in at, and the other.
const SIDES: [(TcAttachType, &str, &str); 2] = [(Ingress, "ingress", VETH_OUT), (Egress, "egress", VETH_IN)];

const SHORT: Duration = Duration::from_millis(500);
/// A filter's program that answers `TC_ACT_OK` for every frame, which ends the search: what is behind it is not asked.
const PASS: &str = "bpf da bytecode 1,6_0_0_0";

fn by_filters(scene: &Scene) -> Agent {
    scene.agent.clone().with_veth_hook("clsact")
}

fn tc(netns: &Netns, arguments: &str) {
    let words = arguments.split(' ').map(|word| word.replace('_', " "));
    launch::succeed(Command::new("tc").args(["-n", netns.name()]).args(words));
}

/// What leaves past all sockets: only the hook on the host end cuts it. (What comes in is cut inside the pod as well.)
fn frames<'a>(scene: &'a Scene, visitor: &'a Process) -> Path<'a> {
    Path::shown_one_way(Channel::LINK, scene.web.end_of(visitor), scene.neighbour.end())
}

fn is_ours(filter: &Filter) -> bool {
    [VETH_IN, VETH_OUT, NETDEV_IN, NETDEV_DROP, NETDEV_OUT].contains(&filter.program.as_str())
}

/// Those of others on both sides.
fn strangers(netns: &Netns, device: &str) -> Vec<Filter> {
    let filters = SIDES.into_iter().flat_map(|(side, ..)| bpf::filters(netns, device, side));
    filters.filter(|filter| !is_ours(filter)).collect()
}

/// Whether a host end has such a qdisc.
pub(crate) fn has_qdisc(node: &Node, veth: &str, kind: &str) -> bool {
    let show = ["-n", node.netns().name(), "qdisc", "show", "dev", veth];
    let output = launch::succeed(Command::new("tc").args(show));
    String::from_utf8_lossy(&output.stdout).contains(kind)
}

fn has_clsact(node: &Node, veth: &str) -> bool {
    has_qdisc(node, veth, "clsact")
}

fn a_filter_cuts_and_goes() {
    let scene = Scene::new();
    let Scene { web, neighbour, node, .. } = &scene;
    let agent = by_filters(&scene).with_daemon_option("--arm", "on-demand");
    let _daemon = agent.daemon();
    let path = Path::shown(Channel::ROUTED.into_iter().chain(Channel::LINK), web.end(), neighbour.end());
    let veth = &web.host_veths()[0];
    assert!(!has_clsact(node, veth));

    agent.add(&[web.uid()]);
    path.assert_cut();
    for (side, _, program) in SIDES {
        let filters = bpf::filters(node.netns(), veth, side);
        assert_eq!(filters.iter().map(|filter| filter.program.as_str()).collect::<Vec<_>>(), [program]);
        assert_eq!(bpf::programs(node.netns(), veth, side).len(), 1, "tcx was used");
    }
    assert!(!has_clsact(node, &neighbour.host_veths()[0]), "the neighbour was touched");

    agent.remove(&[web.uid()]);
    path.assert_flows();
    wait::until("the filters and their qdisc are gone", || !has_clsact(node, veth));
}

/// Two owners had been there before, one comes later and answers first until it is overtaken.
fn filters_of_others_stay() {
    let scene = Scene::new();
    let Scene { web, node, .. } = &scene;
    let veth = &web.host_veths()[0];
    let filter = |side: &str, filter: &str| tc(node.netns(), &format!("filter add dev {veth} {side} {filter}"));
    tc(node.netns(), &format!("qdisc add dev {veth} clsact"));
    for (_, side, _) in SIDES {
        filter(side, &format!("prio 1 handle 1 {PASS}"));
        filter(side, "prio 7 protocol ip u32 match u32 0 0 flowid 1:1");
    }
    let before = strangers(node.netns(), veth);
    let agent = by_filters(&scene).with_daemon_option("--arm", "on-demand");
    let visitor = scene.visitor();
    let path = frames(&scene, &visitor);
    let daemon = agent.daemon();
    agent.add(&[web.uid()]);
    path.assert_cut();
    assert_eq!(strangers(node.netns(), veth), before);

    // Without an agent that looks, the newest of a priority opens what the hook had cut.
    daemon.kill();
    for (_, side, _) in SIDES {
        filter(side, &format!("prio 1 handle 2 {PASS}"));
    }
    path.assert_flows();
    let before = strangers(node.netns(), veth);
    let _daemon = agent.daemon();
    wait::until("it is in front again", || is_armed(node, veth));
    path.assert_cut();
    assert_eq!(agent.isolation(web.uid())["coverage"], "full");
    assert_eq!(strangers(node.netns(), veth), before);

    agent.remove(&[web.uid()]);
    path.assert_flows();
    let is_gone = || SIDES.iter().all(|(side, ..)| !bpf::filters(node.netns(), veth, *side).iter().any(is_ours));
    wait::until("ours are gone", is_gone);
    assert_eq!(strangers(node.netns(), veth), before, "not all that others had is left");
}

/// All filters of a priority are of one kind, and there is none before 1.
fn one_that_cannot_be_overtaken_is_told() {
    let scene = Scene::new();
    let Scene { web, node, .. } = &scene;
    let veth = &web.host_veths()[0];
    tc(node.netns(), &format!("qdisc add dev {veth} clsact"));
    for (_, side, _) in SIDES {
        tc(node.netns(), &format!("filter add dev {veth} {side} prio 1 protocol all u32 match u32 0 0 flowid 1:1"));
    }
    let before = strangers(node.netns(), veth);
    let agent = by_filters(&scene);
    let visitor = scene.visitor();
    let path = frames(&scene, &visitor);
    let _daemon = agent.daemon();
    let added = agent.run(&["add", web.uid()]).expect(5);
    assert!(added.text().contains("another program runs first"), "it does not say why\n{}", added.text());
    path.assert_flows();
    assert_eq!(strangers(node.netns(), veth), before);
    // Its owner takes it away.
    for (_, side, _) in SIDES {
        tc(node.netns(), &format!("filter del dev {veth} {side} prio 1"));
    }
    wait::until("nothing is open any more", || agent.isolation(web.uid())["coverage"] == "full");
    path.assert_cut();
    agent.remove(&[web.uid()]);
    path.assert_flows();
}

/// `ingress` is in the place of clsact and has one side, as the bandwidth plugin of the CNI leaves it.
fn the_older_qdisc_is_told() {
    let scene = Scene::new();
    let Scene { web, node, .. } = &scene;
    let veth = &web.host_veths()[0];
    tc(node.netns(), &format!("qdisc add dev {veth} ingress"));
    let agent = by_filters(&scene);
    let visitor = scene.visitor();
    let path = frames(&scene, &visitor);
    let _daemon = agent.daemon();
    let added = agent.run(&["add", web.uid()]).expect(1);
    assert!(added.text().contains("no egress side"), "it does not say why\n{}", added.text());
    let missing = |hook: &serde_json::Value| {
        hook["state"] == "missing" && hook["hook"] == "veth" && hook["place"] == veth.as_str()
    };
    let hooks = agent.isolation(web.uid())["hooks"].as_array().expect("a list").clone();
    let missing: Vec<_> = hooks.iter().filter(|hook| missing(hook)).map(|hook| hook["direction"].clone()).collect();
    assert_eq!(missing, ["in"], "what goes out is cut there");
    tc(node.netns(), &format!("qdisc del dev {veth} ingress"));
    wait::until("nothing is open any more", || agent.isolation(web.uid())["coverage"] == "full");
    path.assert_cut();
    agent.remove(&[web.uid()]);
    path.assert_flows();
}

fn what_is_taken_away_is_put_back() {
    let scene = Scene::new();
    let Scene { web, node, .. } = &scene;
    let veth = &web.host_veths()[0];
    let agent = by_filters(&scene);
    let visitor = scene.visitor();
    let path = frames(&scene, &visitor);
    agent.add(&[web.uid()]);
    path.assert_cut();
    let take_away = || tc(node.netns(), &format!("qdisc del dev {veth} clsact"));
    take_away();
    path.assert_flows();
    let daemon = agent.daemon();
    wait::until("the first pass puts it back", || is_armed(node, veth));
    path.assert_cut();
    take_away();
    let counted = || {
        let (_, page) = daemon.page("/metrics");
        let series = page.lines().find(|line| line.starts_with("isolate_hook_repairs_total") && line.contains("veth"));
        series.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or_default()
    };
    wait::until("both sides are counted", || counted() >= 2);
    path.assert_cut();
    assert_eq!(agent.isolation(web.uid())["coverage"], "full");
    agent.remove(&[web.uid()]);
    path.assert_flows();
}

/// The hook inside is what cuts a pod without a host end, and its `CAP_NET_ADMIN` reaches a filter.
fn a_pod_cannot_keep_its_hook_away() {
    let spec = Spec { link: Link::Macvlan, capabilities: &[launch::NET_ADMIN], ..Spec::default() };
    let scene = Scene::with(&spec);
    let Scene { web, neighbour, node, .. } = &scene;
    let agent = by_filters(&scene);
    let visitor = scene.visitor();
    let (socket, observer) = (visitor.packet("eth0", SHORT), Observer::start(neighbour.netns(), "eth0"));
    let leaves = || {
        let mark = Mark::new();
        socket.send(&ethernet(Mac::BROADCAST, web.end().mac, EXPERIMENT, mark.bytes()));
        wait::happens_within(SHORT, || observer.count(|frame| mark.is_in(frame.bytes())) > 0)
    };
    let inside = || {
        let programs = |side| bpf::programs(web.netns(), "eth0", side);
        programs(Ingress).first().is_some_and(|name| name == NETDEV_DROP)
            && programs(Egress).first().is_some_and(|name| name == NETDEV_OUT)
    };
    assert!(leaves(), "the frame does not get through");
    agent.run(&["add", web.uid()]).expect(5);
    assert!(!leaves(), "frames get out");
    scene.tamper(&["tc", "qdisc", "del", "dev", "eth0", "clsact"]);
    assert!(leaves(), "it is not the filter that cuts");
    let daemon = agent.daemon();
    wait::until("the first pass puts it back", inside);
    assert!(!leaves(), "frames get out");
    for (_, side, _) in SIDES {
        let pass = ["bpf", "da", "bytecode", "1,6 0 0 0"];
        let add = ["tc", "filter", "add", "dev", "eth0", side, "prio", "1", "handle", "1"];
        scene.tamper(&[&add[..], &pass].concat());
    }
    wait::until("it is in front again", inside);
    assert!(!leaves(), "frames get out");
    daemon.stop();
    agent.remove(&[web.uid()]);
    assert!(leaves(), "the frame does not get through any more");
    let left = SIDES.iter().flat_map(|(side, ..)| bpf::filters(web.netns(), "eth0", *side)).filter(is_ours).count();
    assert_eq!(left, 0, "something of ours is left in the pod");
    assert!(!has_clsact(node, "cni0"), "the node's own interface was touched");
}

/// Unlike links, filters stay without their pins; the next agent replaces them, with new programs and new maps.
fn lost_pins_let_nothing_through() {
    let scene = Scene::new();
    let Scene { web, neighbour, node, .. } = &scene;
    let veth = &web.host_veths()[0];
    let agent = by_filters(&scene);
    let daemon = agent.daemon();
    let visitor = scene.visitor();
    let path = frames(&scene, &visitor);
    agent.add(&[web.uid()]);
    path.assert_cut();
    let watch = Observer::start(neighbour.netns(), "eth0");
    daemon.kill();
    let old = bpf::filters(node.netns(), veth, Ingress);
    fs::remove_dir_all(node.folder().join("bpf/isolate-agent")).expect("root may delete pins");
    path.assert_cut();
    let daemon = agent.daemon();
    wait::until("all hold again", || agent.isolation(web.uid())["coverage"] == "full");
    path.assert_cut();
    assert_eq!(watch.from(web.end().mac), 0, "frames got through");
    for (side, ..) in SIDES {
        let filters = bpf::filters(node.netns(), veth, side);
        assert_eq!(filters.len(), 1, "{filters:?}");
        assert!(!old.contains(&filters[0]), "it is the old one");
    }
    drop(daemon);
    agent.remove(&[web.uid()]);
    path.assert_flows();
}

fn from_links_to_filters_and_back() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let (veth, other) = (&web.host_veths()[0], &neighbour.host_veths()[0]);
    let visitor = scene.visitor();
    let path = frames(&scene, &visitor);
    let into = Flood::start(neighbour.app(), web.app(), (web.end().v4, 0).into());
    let out = Flood::start(web.app(), neighbour.app(), (neighbour.end().v6, 0).into());
    let daemon = agent.daemon();
    agent.add(&[web.uid()]);
    path.assert_cut();
    let before = (into.received(), out.received());
    let links = |veth: &str| SIDES.map(|(side, ..)| bpf::tcx_chain(node.netns(), veth, side).len());
    let filters = |veth: &str| SIDES.map(|(side, ..)| bpf::filters(node.netns(), veth, side).len());
    let all = |expected: [[usize; 2]; 2]| [veth, other].iter().all(|veth| [links(veth), filters(veth)] == expected);
    wait::until("both are armed", || all([[1, 1], [0, 0]]));

    daemon.kill();
    let daemon = by_filters(&scene).daemon();
    wait::until("filters alone are left", || all([[0, 0], [1, 1]]));
    path.assert_cut();
    daemon.kill();
    let _daemon = agent.daemon();
    wait::until("links alone are left", || all([[1, 1], [0, 0]]));
    path.assert_cut();
    assert_eq!((into.received(), out.received()), before, "datagrams got through");
    assert!(!has_clsact(node, veth), "the qdisc is left");
    agent.remove(&[web.uid()]);
    path.assert_flows();
    wait::until("the floods flow again", || into.received() > before.0 && out.received() > before.1);
}

/// Of a filter nobody tells while no daemon runs, and nothing holds it but its interface.
fn what_is_taken_away_is_found_by_probes() {
    let mut scene = Scene::new();
    scene.agent = by_filters(&scene);
    let daemon = scene.agent.daemon();
    scene.agent.add(&[scene.web.uid()]);
    scene.agent.await_the_rest(scene.web.uid());
    daemon.kill();
    let whole = verify::verify(&scene, 0);
    assert!(whole.iter().all(|(_, finding, _)| finding == "proved_cut"), "{whole:?}");
    let (watch, veth) = (Watch::start(&scene), scene.web.host_veths()[0].clone());
    for (_, side, program) in SIDES {
        tc(scene.node.netns(), &format!("filter del dev {veth} {side}"));
        let leaks = if program == VETH_OUT { "veth out" } else { "veth in" };
        let findings = verify::verify(&scene, 1);
        let (_, finding, evidence) = findings.iter().find(|(hook, ..)| hook == leaks).expect("each hook is told");
        assert_eq!(finding, "leak", "{leaks}: {evidence}");
    }
    assert_eq!(watch.probes(), 0, "a probe got out");
    for (side, ..) in SIDES {
        assert_eq!(bpf::filters(scene.node.netns(), &veth, side), [], "the guard is left");
    }
}

/// A guard behind that one would not be asked, and before ours it would see what ours drops.
fn a_filter_right_behind_lets_nothing_be_shown() {
    let mut scene = Scene::new();
    scene.agent = by_filters(&scene);
    let veth = scene.web.host_veths()[0].clone();
    tc(scene.node.netns(), &format!("qdisc add dev {veth} clsact"));
    tc(scene.node.netns(), &format!("filter add dev {veth} ingress prio 1 protocol all {PASS}"));
    let _daemon = scene.agent.daemon();
    scene.agent.add(&[scene.web.uid()]);
    let watch = Watch::start(&scene);
    let findings = verify::verify(&scene, 5);
    for (hook, finding, evidence) in &findings {
        let behind = evidence.contains("another filter runs right behind it");
        let expected = if hook == "veth out" { "not_covered" } else { "proved_cut" };
        assert!(finding == expected && behind == (hook == "veth out"), "{hook}: {finding}: {evidence}");
    }
    assert_eq!(watch.probes(), 0, "a probe got out");
    assert_eq!(bpf::filters(scene.node.netns(), &veth, Ingress).len(), 2, "the guard is left");
}
