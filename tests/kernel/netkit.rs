//! Pods whose interface is one of two netkit devices: the hook stands where netkit has its own, before the CNI's programs.

use std::{fs, os::fd::OwnedFd, os::unix::fs::symlink, process::Command, thread, time::Duration};

use isolate_common::names::{VETH_IN, VETH_OUT};
use isolate_tests::{
    bpf,
    channel::{Channel, Path},
    feature::Feature,
    flood::Flood,
    frame::{EXPERIMENT, Mac, Mark, ethernet},
    launch,
    netkit::{self, Mode},
    node::Node,
    observe::Observer,
    pod::{Link, Pod, Spec},
    program::Place,
    wait,
    wire::Family,
};
use libtest_mimic::Trial;

use crate::{
    scene::{Scene, every_channel},
    suite,
};

const TESTS: [(&str, fn()); 9] = [
    ("a_pod_is_cut_and_comes_back", || a_pod_is_cut_and_comes_back(&[])),
    ("so_it_is_where_filters_are_used_elsewhere", || a_pod_is_cut_and_comes_back(&["clsact"])),
    ("what_is_allowed_passes_and_nothing_else", what_is_allowed_passes_and_nothing_else),
    ("what_somebody_undoes_is_put_back", what_somebody_undoes_is_put_back),
    ("it_outlives_the_daemon_and_other_programs", it_outlives_the_daemon_and_other_programs),
    ("what_drops_by_itself_is_not_opened", what_drops_by_itself_is_not_opened),
    ("the_cni_decides_about_healthy_pods", the_cni_decides_about_healthy_pods),
    ("the_primary_device_in_the_pod_is_told", the_primary_device_in_the_pod_is_told),
    ("it_is_proved_and_told", it_is_proved_and_told),
];

/// Where the kernel has no netkit they are not run, and say so; `cargo xtask vm` runs them where it has.
pub(crate) fn trials() -> Vec<Trial> {
    let missing = netkit::missing();
    if let Some(why) = &missing {
        eprintln!("skip netkit: {why}");
    }
    let trial = |(name, test): (&str, fn())| match missing {
        None => suite::trial(&format!("netkit::{name}"), &[], test),
        Some(_) => Trial::test(format!("netkit::{name}"), || Ok(())).with_ignored_flag(true),
    };
    TESTS.into_iter().map(trial).collect()
}

/// What a netkit program answers that ends the chain.
const PASS: i32 = 0;
const DROP: i32 = 2;
const SHORT: Duration = Duration::from_millis(500);
/// What goes into the pod, what comes out of it, and our programs for it.
const SIDES: [(Place, &str); 2] = [(Place::NetkitPrimary, VETH_IN), (Place::NetkitPeer, VETH_OUT)];

fn scene() -> Scene {
    Scene::with(&Spec { link: Link::Netkit, ..Spec::default() })
}

/// What goes between any two pods, and what passes no IP socket.
fn path(scene: &Scene) -> Path<'_> {
    Path::shown(Channel::ROUTED, scene.web.end(), scene.neighbour.end())
}

fn chains(node: &Node, pod: &Pod) -> [Vec<String>; 2] {
    SIDES.map(|(place, _)| bpf::netkit_chain(node.netns(), &pod.host_veths()[0], place))
}

/// Ours are at the head of both chains.
fn is_armed(node: &Node, pod: &Pod) -> bool {
    chains(node, pod).iter().zip(SIDES).all(|(chain, (_, ours))| chain.first().is_some_and(|first| first == ours))
}

/// A program of the CNI's in front of both chains, until it is dropped.
fn cni(node: &Node, pod: &Pod, answers: [i32; 2]) -> [OwnedFd; 2] {
    let [inward, outward] = SIDES.map(|(place, _)| place);
    let attach = |place, answer| netkit::answer_first(node.netns(), &pod.host_veths()[0], place, answer);
    [attach(inward, answers[0]), attach(outward, answers[1])]
}

fn a_pod_is_cut_and_comes_back(veth_hook: &[&'static str]) {
    for link in [Link::Netkit, Link::NetkitBridged] {
        let spec = Spec { link, ..Spec::default() };
        let scene = Scene::with(&spec);
        let Scene { web, neighbour, node, .. } = &scene;
        let agent = veth_hook.iter().fold(scene.agent.clone(), |agent, hook| agent.with_veth_hook(hook));
        let other = node.pod(&spec);
        let channels =
            || every_channel().filter(|channel| link == Link::NetkitBridged || !Channel::LINK.contains(channel));
        let path = Path::shown(channels(), web.end(), neighbour.end());
        let bystanders = Path::shown(channels(), other.end(), neighbour.end());
        let _daemon = agent.daemon();
        for pod in [web, &other] {
            wait::until("the pods are armed", || is_armed(node, pod));
        }
        path.assert_flows();
        let healthy = Flood::start(other.app(), neighbour.app(), (neighbour.end().v4, 0).into());
        let inward = Flood::start(neighbour.app(), other.app(), (other.end().v6, 0).into());
        // In the pod's namespace and none of its processes: the cgroup hook does not see what it sends.
        let stranger = isolate_tests::process::Process::start(web.netns(), &node.service());
        let past = Path::shown(Channel::ROUTED, web.end_of(&stranger), neighbour.end());
        let inside = Observer::start(web.netns(), "eth0");

        agent.add(&[web.uid()]);
        Observer::begin([&inside]);
        path.assert_cut();
        past.assert_cut();
        assert_eq!(inside.not_from(web.end().mac), 0, "frames got through");
        bystanders.assert_flows();
        let isolation = agent.isolation(web.uid());
        assert_eq!(isolation["coverage"], "full", "{isolation:#}");
        for direction in ["in", "out"] {
            let holds = |hook: &serde_json::Value| {
                hook["hook"] == "veth" && hook["direction"] == direction && hook["state"] == "holding"
            };
            let hooks = isolation["hooks"].as_array().expect("a list");
            let places: Vec<_> = hooks.iter().filter(|hook| holds(hook)).map(|hook| hook["place"].clone()).collect();
            assert_eq!(places, [web.host_veths()[0].as_str()], "{direction}");
        }

        agent.remove(&[web.uid()]);
        path.assert_flows();
        past.assert_flows();
        assert_eq!((healthy.lost(), inward.lost()), (0, 0), "a neighbour lost datagrams");
    }
}

fn what_is_allowed_passes_and_nothing_else() {
    for link in [Link::Netkit, Link::NetkitBridged] {
        let scene = Scene::with(&Spec { link, ..Spec::default() });
        let Scene { agent, web, neighbour, .. } = &scene;
        let _daemon = agent.daemon();
        let path = |family| Path::shown([Channel::Tcp(family), Channel::Udp(family)], web.end(), neighbour.end());
        let (allowed, other) = (path(Family::V4), path(Family::V6));
        agent.add(&[web.uid(), "--allow", &format!("{}/32", neighbour.end().v4)]);
        allowed.assert_flows();
        other.assert_cut();
        agent.remove(&[web.uid()]);
        other.assert_flows();
    }
}

fn what_somebody_undoes_is_put_back() {
    let scene = scene();
    let Scene { agent, web, neighbour, node } = &scene;
    let stranger = isolate_tests::process::Process::start(web.netns(), &node.service());
    let path = Path::shown(Channel::ORDINARY, web.end_of(&stranger), neighbour.end());
    agent.add(&[web.uid()]);
    path.assert_cut();
    // Without an agent that looks, a program in front opens what the hook had cut on the way out.
    let in_front = cni(node, web, [PASS, PASS]);
    let frames = Observer::behind(node.netns(), &web.host_veths()[0], EXPERIMENT);
    let leaves = || {
        let mark = Mark::new();
        let to = ethernet(Mac::BROADCAST, web.end().mac, EXPERIMENT, mark.bytes());
        stranger.packet("eth0", SHORT).send(&to);
        wait::happens_within(SHORT, || frames.count(|frame| mark.is_in(frame.bytes())) > 0)
    };
    assert!(leaves(), "the program in front does not open it");
    let daemon = agent.daemon();
    wait::until("it is in front again", || is_armed(node, web));
    assert!(!leaves(), "frames get out");
    path.assert_cut();
    drop(in_front);
    path.assert_cut();
    if Feature::Bpftool.missing().is_none() {
        let folder = node.folder().join("bpf/isolate-agent");
        let layout = fs::read_dir(folder).expect("there are pins").flatten().next().expect("one layout").path();
        for entry in fs::read_dir(layout.join("links")).expect("there are links").flatten() {
            launch::succeed(Command::new("bpftool").args(["link", "detach", "pinned"]).arg(entry.path()));
        }
        wait::until("it is attached again", || is_armed(node, web));
        path.assert_cut();
        assert!(!leaves(), "frames get out");
    }
    daemon.kill();
    agent.remove(&[web.uid()]);
    path.assert_flows();
    assert!(leaves(), "frames do not get out any more");
}

fn it_outlives_the_daemon_and_other_programs() {
    let scene = scene();
    let Scene { agent, web, neighbour, node } = &scene;
    let other = node.pod(&Spec { link: Link::Netkit, ..Spec::default() });
    let stranger = isolate_tests::process::Process::start(web.netns(), &node.service());
    let path = Path::shown(Channel::ORDINARY, web.end_of(&stranger), neighbour.end());
    let daemon = agent.daemon();
    for pod in [web, &other] {
        wait::until("the pods are armed", || is_armed(node, pod));
    }
    let into = Flood::start(neighbour.app(), web.app(), (web.end().v4, 0).into());
    let out = Flood::start(&stranger, neighbour.app(), (neighbour.end().v6, 0).into());
    let healthy = Flood::start(other.app(), neighbour.app(), (neighbour.end().v4, 0).into());
    agent.add(&[web.uid(), "--reason", "kept"]);
    thread::sleep(SHORT);
    let before = (into.received(), out.received());

    daemon.kill();
    path.assert_cut();
    // Once the same programs are found and adopted, once others replace them in place.
    let daemon = agent.daemon();
    path.assert_cut();
    daemon.kill();
    let folder = node.folder().join("bpf/isolate-agent");
    let layout = fs::read_dir(folder).expect("there are pins").flatten().next().expect("one layout").path();
    fs::remove_file(layout.join("object")).expect("the agent has noted its object");
    symlink("another", layout.join("object")).expect("bpffs has symbolic links");
    let _daemon = agent.daemon();
    wait::until("all hold", || agent.isolation(web.uid())["coverage"] == "full");
    assert_eq!(agent.isolation(web.uid())["reason"], "kept");
    path.assert_cut();
    thread::sleep(SHORT);
    assert_eq!((into.received(), out.received()), before, "datagrams got through");
    assert!(healthy.received() > 100);
    assert_eq!(healthy.lost(), 0, "a healthy pod lost packets");
    agent.remove(&[web.uid()]);
    path.assert_flows();
    wait::until("the floods flow again", || into.received() > before.0 && out.received() > before.1);
}

/// netkit asks no policy where a program stands: one that has no opinion lets everything pass then.
fn what_drops_by_itself_is_not_opened() {
    let scene = scene();
    let Scene { agent, web, neighbour, node } = &scene;
    let veth = &web.host_veths()[0];
    let _daemon = agent.daemon();
    wait::until("the pod is armed", || is_armed(node, web));
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    netkit::set_policy(node.netns(), veth, [true, true]);
    let ours =
        || chains(node, web).iter().flatten().filter(|name| [VETH_IN, VETH_OUT].contains(&name.as_str())).count();
    wait::until("ours are taken away", || ours() == 0);
    path.assert_cut();

    // The CNI's programs are what lets a healthy pod talk.
    let programs = cni(node, web, [PASS, PASS]);
    path.assert_flows();
    agent.add(&[web.uid()]);
    path.assert_cut();
    assert!(is_armed(node, web), "ours are not first");
    assert_eq!(agent.isolation(web.uid())["coverage"], "full");
    drop(programs);
    path.assert_cut();
    agent.remove(&[web.uid()]);
    assert_eq!(ours(), 0, "ours alone would open it");
    path.assert_cut();
    let _programs = cni(node, web, [PASS, PASS]);
    path.assert_flows();
    assert_eq!(agent.run(&["status", "-o", "json"]).expect(0).json()["unarmed"], serde_json::json!([]));
}

fn the_cni_decides_about_healthy_pods() {
    let scene = scene();
    let Scene { agent, web, neighbour, node } = &scene;
    let _daemon = agent.daemon();
    wait::until("the pod is armed", || is_armed(node, web));
    let path = path(&scene);
    let refusing = cni(node, web, [DROP, DROP]);
    wait::until("ours are first", || is_armed(node, web));
    path.assert_cut();
    drop(refusing);
    let _passing = cni(node, web, [PASS, PASS]);
    wait::until("ours are first", || is_armed(node, web));
    path.assert_flows();
    // Others' tcx programs on the same devices are in other chains.
    let index = isolate_tests::netdev::index(node.netns(), &web.host_veths()[0]);
    let tcx = |place| isolate_tests::program::answer_first(place, index, PASS).expect("a program can be attached");
    let _tcx = [Place::TcxIngress, Place::TcxEgress].map(|place| node.netns().enter(|| tcx(place)));
    path.assert_flows();
    agent.add(&[web.uid()]);
    path.assert_cut();
    assert_eq!(agent.isolation(web.uid())["coverage"], "full");
    Path::shown(Channel::ORDINARY, neighbour.loopback(), neighbour.loopback());
    agent.remove(&[web.uid()]);
    path.assert_flows();
}

/// Nothing can be attached to its peer on the node: the hook inside cuts both ways, and what passes it is said.
fn the_primary_device_in_the_pod_is_told() {
    let scene = Scene::new();
    let Scene { agent, web, node, .. } = &scene;
    netkit::pair(Mode { l2: true, ..Mode::default() }, web.netns(), "eth1", node.netns(), "reversed0");
    isolate_tests::netdev::ip(web.netns(), &["link set eth1 up".to_owned()]);
    isolate_tests::netdev::ip(node.netns(), &["link set reversed0 up".to_owned()]);
    let _daemon = agent.daemon();
    let frames = Observer::behind(node.netns(), "reversed0", EXPERIMENT);
    let leaves = || {
        let mark = Mark::new();
        let Ok(socket) = web.app().try_packet("eth1", SHORT) else { return false };
        socket.send(&ethernet(Mac::BROADCAST, web.end().mac, EXPERIMENT, mark.bytes()));
        wait::happens_within(SHORT, || frames.count(|frame| mark.is_in(frame.bytes())) > 0)
    };
    assert!(leaves(), "the frame does not get through");
    let added = agent.run(&["add", web.uid()]).expect(5);
    assert!(added.text().contains("interface eth1 (netkit) has no host end"), "{}", added.text());
    assert!(!leaves(), "frames get out");
    let doctor = agent.run(&["doctor"]);
    assert!(doctor.text().contains("reversed0"), "{}", doctor.text());
    agent.remove(&[web.uid()]);
    assert!(leaves(), "the frame does not get through any more");
}

fn it_is_proved_and_told() {
    for link in [Link::Netkit, Link::NetkitBridged] {
        let scene = Scene::with(&Spec { link, ..Spec::default() });
        let Scene { agent, web, node, .. } = &scene;
        let _daemon = agent.daemon();
        let _cni = cni(node, web, [PASS, PASS]);
        wait::until("ours are first", || is_armed(node, web));
        agent.add(&[web.uid()]);
        let verified = agent.run(&["verify", web.uid(), "-o", "json"]).expect(5).json();
        let proofs = verified["results"][0]["proofs"].as_array().expect("a list");
        for proof in proofs {
            let cannot_be_shown = (&proof["hook"], &proof["direction"]) == (&"netdev".into(), &"in".into());
            let expected = if cannot_be_shown { "not_covered" } else { "proved_cut" };
            assert_eq!(proof["finding"], expected, "{proof:#}");
        }
        let doctor = agent.run(&["doctor"]);
        assert!(doctor.text().contains("netkit"), "{}", doctor.text());
    }
}
