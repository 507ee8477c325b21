//! Packet sockets inside a pod and frames that come past its host end (`bpf_redirect_peer`): XDP drops them before they are seen.

use std::{fs, os::fd::OwnedFd, path::PathBuf, process::Command, time::Duration};

use isolate_tests::{
    agent::Agent,
    channel::{Channel, Path},
    frame::{EXPERIMENT, Mark, ethernet},
    launch, netdev,
    node::Node,
    observe::Observer,
    pod::Pod,
    program::{self, Place},
    wait,
    wire::Family,
};

use crate::{scene::Scene, suite::trials};

trials![
    frames_handed_over_are_not_seen needs Tcx,
    what_follows_is_there_within_seconds needs Tcx,
    another_program_is_told needs Tcx,
    a_detached_program_is_attached_again needs Bpftool,
    exemptions_that_come_later_are_read,
];

const XDP_PASS: i32 = 2;
/// Frames that a sniffer is tried with, and how long they may be on their way.
const SENT: usize = 5;
const ARRIVAL: Duration = Duration::from_millis(300);

/// Has what the neighbour sends handed over into the pod, as a CNI with eBPF host routing does.
fn hand_over(scene: &Scene) -> OwnedFd {
    let [from, to] = [&scene.neighbour, &scene.web].map(|pod| pod.host_veths()[0].clone());
    program::redirect_peer(scene.node.netns(), &from, &to).expect("the kernel can hand frames over")
}

/// Frames from the neighbour that a packet socket in the pod sees, of some that are sent.
fn sniffed(scene: &Scene) -> usize {
    let (from, to) = (scene.neighbour.end(), scene.web.end());
    let seen = Observer::start(scene.web.netns(), "eth0");
    Observer::begin([&seen]);
    // The pod takes no part: it may be refused a socket that would receive them.
    let sender = from.process.packet(from.device, wait::DEADLINE);
    for _ in 0..SENT {
        sender.send(&ethernet(to.mac, from.mac, EXPERIMENT, Mark::new().bytes()));
    }
    wait::happens_within(ARRIVAL, || seen.from(from.mac) >= SENT);
    seen.from(from.mac)
}

fn xdp_pin(node: &Node) -> Option<PathBuf> {
    let layouts = fs::read_dir(node.folder().join("bpf/isolate-agent")).expect("the agent has made its pins");
    let links = layouts.flatten().filter_map(|layout| fs::read_dir(layout.path().join("links")).ok());
    let mut pins = links.flat_map(|links| links.flatten().map(|link| link.path()));
    pins.find(|pin| pin.file_name().is_some_and(|name| name.to_string_lossy().starts_with("xdp-")))
}

fn coverage(agent: &Agent, pod: &Pod) -> String {
    agent.isolation(pod.uid())["coverage"].as_str().expect("a word").to_owned()
}

fn frames_handed_over_are_not_seen() {
    let scene = Scene::new();
    let Scene { agent, web, .. } = &scene;
    let _handing_over = hand_over(&scene);
    assert!(sniffed(&scene) > 0, "the sniffer is not blind");
    for option in [&[][..], &["--allow", "198.51.100.1"]] {
        agent.add(&[&[web.uid()], option].concat());
        assert_eq!(sniffed(&scene), 0, "{option:?}");
        agent.remove(&[web.uid()]);
        assert!(xdp_pin(&scene.node).is_none(), "nothing is left in the pod");
        assert!(sniffed(&scene) > 0, "nobody is cut any more");
    }
}

/// Where nobody could hand frames over when the pod was isolated, somebody may later.
fn what_follows_is_there_within_seconds() {
    let scene = Scene::new();
    let Scene { agent, web, .. } = &scene;
    let _daemon = agent.daemon();
    agent.add(&[web.uid()]);
    let isolation = agent.isolation(web.uid());
    assert_eq!(isolation["coverage"], "full", "{isolation:#}");
    agent.await_the_rest(web.uid());
    let _handing_over = hand_over(&scene);
    assert_eq!(sniffed(&scene), 0);
    agent.remove(&[web.uid()]);
    assert!(sniffed(&scene) > 0, "the sniffer is not blind");
}

/// An interface has one XDP program: the pod is cut all the same, and what stays open is said.
fn another_program_is_told() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let path = Path::shown([Channel::Udp(Family::V4), Channel::Frame], web.end(), neighbour.end());
    let index = netdev::index(web.netns(), "eth0");
    let other = web.netns().enter(|| program::answer_first(Place::Xdp, index, XDP_PASS)).expect("the pod has none");
    let told = agent.run(&["add", web.uid()]).expect(5);
    assert!(told.text().contains("takes no XDP program of ours there"), "{}", told.text());
    path.assert_cut();
    let verified = agent.run(&["verify", web.uid()]).expect(5);
    assert!(!verified.text().contains("LEAK"), "what is seen is dropped all the same\n{}", verified.text());
    {
        let _handing_over = hand_over(&scene);
        assert!(sniffed(&scene) > 0, "that is what is open");
    }
    drop(other);
    agent.remove(&[web.uid()]);
    path.assert_flows();
    agent.add(&[web.uid()]);
    let _handing_over = hand_over(&scene);
    assert_eq!(sniffed(&scene), 0);
}

fn a_detached_program_is_attached_again() {
    let scene = Scene::new();
    let Scene { agent, web, node, .. } = &scene;
    let _daemon = agent.daemon();
    agent.add(&[web.uid()]);
    agent.await_the_rest(web.uid());
    let pin = xdp_pin(node).expect("it is pinned");
    launch::succeed(Command::new("bpftool").args(["link", "detach", "pinned"]).arg(&pin));
    let index = netdev::index(web.netns(), "eth0");
    // Nobody else has the place.
    drop(web.netns().enter(|| program::answer_first(Place::Xdp, index, XDP_PASS)).expect("it was detached"));
    let events = || agent.run(&["events", web.uid(), "-o", "json"]).expect(0).text().contains("hook_repaired");
    wait::until("it is put back", events);
    wait::until("all holds again", || coverage(agent, web) == "full");
    let taken = web.netns().enter(|| program::answer_first(Place::Xdp, index, XDP_PASS));
    assert!(taken.is_err(), "ours is there");
}

/// A pod without exemptions has programs that read nothing; they give way at once.
fn exemptions_that_come_later_are_read() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let path = Path::shown([Channel::Udp(Family::V4)], web.end(), neighbour.end());
    for daemon in [false, true] {
        let _daemon = daemon.then(|| agent.daemon());
        agent.add(&[web.uid()]);
        path.assert_cut();
        agent.add(&[web.uid(), "--allow", &neighbour.end().v4.to_string()]);
        path.assert_flows();
        agent.add(&[web.uid()]);
        path.assert_cut();
        agent.add(&[web.uid(), "--allow", &neighbour.end().v4.to_string()]);
        path.assert_flows();
        agent.remove(&[web.uid()]);
        path.assert_flows();
    }
}
