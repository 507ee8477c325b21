//! Hooks that somebody with root on the node undoes while the agent runs: put back, counted, told.

use std::{fs, os::fd::OwnedFd, path::PathBuf, process::Command, thread, time::Duration};

use isolate_common::Near;
use isolate_tests::{
    agent::{Agent, Daemon},
    channel::{Channel, Path},
    feature,
    flood::Flood,
    launch, netdev,
    node::Node,
    process::Process,
    program::{self, Place},
    wait,
};

use crate::{arming::is_armed, scene::Scene, suite::trials};

trials![
    a_program_in_front_is_overtaken needs Tcx,
    one_that_comes_back_is_overtaken_each_time needs Tcx,
    a_healthy_pod_is_armed_in_front_again needs Tcx,
    a_detached_link_is_attached_again needs Bpftool Tcx,
    deleted_pins_let_nothing_through,
    a_deleted_map_pin_is_made_again,
    deleted_entries_are_written_again needs Bpftool,
    pins_deleted_without_a_daemon_are_made_at_the_next_start,
];

/// Long enough for hundreds of datagrams of each flood to be dropped.
const STRETCH: Duration = Duration::from_millis(500);
/// `TCX_PASS` ends the chain: no program behind it is asked.
const TCX_PASS: i32 = 0;

/// What leaves past all sockets: only the hook on the host end cuts it. (What comes in is cut inside the pod as well.)
fn frames<'a>(scene: &'a Scene, visitor: &'a Process) -> Path<'a> {
    Path::shown_one_way(Channel::LINK, scene.web.end_of(visitor), scene.neighbour.end())
}

/// A stranger's program in front of both chains of the pod's host veth, until it is dropped.
fn in_front(node: &Node, veth: &str) -> [OwnedFd; 2] {
    let index = netdev::index(node.netns(), veth);
    let attach = |place| program::answer_first(place, index, TCX_PASS).expect("a program can be attached");
    [Place::TcxIngress, Place::TcxEgress].map(|place| node.netns().enter(|| attach(place)))
}

fn pins(node: &Node) -> PathBuf {
    let folder = node.folder().join("bpf/isolate-agent");
    let layouts = fs::read_dir(folder).expect("the agent has made its pins").flatten();
    layouts.map(|entry| entry.path()).max().expect("there is a layout")
}

/// The value of a counter with a label of this value, or of all its series.
fn counted(daemon: &Daemon, metric: &str, label: &str) -> u64 {
    let (_, page) = daemon.page("/metrics");
    let series = page.lines().filter(|line| line.starts_with(metric) && line.contains(label));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// The kinds of events of the pod.
fn journal(agent: &Agent, uid: &str) -> Vec<String> {
    let events = agent.run(&["events", uid, "-o", "json"]).expect(0).json();
    let kind = |event: &serde_json::Value| event["kind"].as_str().expect("a kind").to_owned();
    events.as_array().expect("a list").iter().map(kind).collect()
}

fn says(agent: &Agent, text: &str) -> bool {
    agent.run(&["status"]).expect(0).text().contains(text)
}

fn a_program_in_front_is_overtaken() {
    let scene = Scene::new();
    let Scene { agent, web, node, .. } = &scene;
    let veth = &web.host_veths()[0];
    let visitor = scene.visitor();
    let path = frames(&scene, &visitor);
    // Without an agent that looks, the program opens what the hook had cut.
    agent.add(&[web.uid()]);
    path.assert_cut();
    let stranger = in_front(node, veth);
    path.assert_flows();
    // As by the daemon's first pass, so by a later one.
    let daemon = agent.daemon();
    wait::until("it is in front again", || is_armed(node, veth));
    path.assert_cut();
    wait::until("it is counted", || counted(&daemon, "isolate_hook_repairs_total", "veth") >= 2);
    let before = counted(&daemon, "isolate_hook_repairs_total", "veth");
    let _another = in_front(node, veth);
    wait::until("it is in front again", || is_armed(node, veth));
    path.assert_cut();
    assert!(says(agent, "another program ran before it"));
    assert_eq!(
        journal(agent, web.uid()),
        ["isolated", "hook_repaired", "hook_repaired", "hook_repaired", "hook_repaired"]
    );
    assert_eq!(counted(&daemon, "isolate_hook_repairs_total", "veth"), before + 2, "one each way");
    assert_eq!(agent.isolation(web.uid())["coverage"], "full");
    drop(stranger);
    path.assert_cut();
    agent.remove(&[web.uid()]);
    path.assert_flows();
}

/// At most once a pass: nobody wins a race, and the node goes on.
fn one_that_comes_back_is_overtaken_each_time() {
    let scene = Scene::new();
    let Scene { agent, web, node, .. } = &scene;
    let veth = &web.host_veths()[0];
    let visitor = scene.visitor();
    let path = frames(&scene, &visitor);
    let daemon = agent.daemon();
    agent.add(&[web.uid()]);
    let mut strangers = Vec::new();
    for round in 1..=3 {
        strangers.push(in_front(node, veth));
        // A link event is a reason for a pass, as any change on the node is.
        netdev::ip(node.netns(), &[format!("link set {veth} alias round{round}")]);
        wait::until("it is in front again", || is_armed(node, veth));
    }
    wait::until("all are counted", || counted(&daemon, "isolate_hook_repairs_total", "veth") == 2 * 3);
    drop(strangers);
    path.assert_cut();
    agent.remove(&[web.uid()]);
    path.assert_flows();
}

fn a_healthy_pod_is_armed_in_front_again() {
    let scene = Scene::new();
    let Scene { agent, web, node, .. } = &scene;
    let veth = &web.host_veths()[0];
    let _daemon = agent.daemon();
    wait::until("the pod is armed", || is_armed(node, veth));
    let _stranger = in_front(node, veth);
    let visitor = scene.visitor();
    let path = frames(&scene, &visitor);
    wait::until("it is in front again", || is_armed(node, veth));
    path.assert_flows();
    agent.add(&[web.uid()]);
    path.assert_cut();
}

fn a_detached_link_is_attached_again() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let visitor = scene.visitor();
    let (frames, packets) = (frames(&scene, &visitor), Path::shown(Channel::ORDINARY, web.loopback(), web.loopback()));
    agent.add(&[web.uid()]);
    frames.assert_cut();
    packets.assert_cut();
    let detach = || {
        for entry in fs::read_dir(pins(node).join("links")).expect("there are links").flatten() {
            launch::succeed(Command::new("bpftool").args(["link", "detach", "pinned"]).arg(entry.path()));
        }
    };
    detach();
    frames.assert_flows();
    packets.assert_flows();
    let daemon = agent.daemon();
    wait::until("all hold again", || agent.isolation(web.uid())["coverage"] == "full");
    frames.assert_cut();
    packets.assert_cut();
    detach();
    for hook in ["cgroup", "veth", "netdev"] {
        wait::until("it is counted", || counted(&daemon, "isolate_hook_repairs_total", hook) > 0);
    }
    frames.assert_cut();
    packets.assert_cut();
    assert!(says(agent, "it had been detached from"));
    assert!(journal(agent, web.uid()).contains(&"hook_repaired".to_owned()));
    Path::shown(Channel::ORDINARY, neighbour.loopback(), neighbour.loopback());
    agent.remove(&[web.uid()]);
    frames.assert_flows();
    packets.assert_flows();
}

/// While a daemon runs it holds what the pins lead to: they can all go, and nothing opens.
fn deleted_pins_let_nothing_through() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let daemon = agent.daemon();
    let visitor = scene.visitor();
    let frames = frames(&scene, &visitor);
    let into = Flood::start(neighbour.app(), web.app(), (web.end().v4, 0).into());
    let out = Flood::start(web.app(), neighbour.app(), (neighbour.end().v6, 0).into());
    agent.add(&[web.uid()]);
    thread::sleep(STRETCH / 5);
    let before = (into.received(), out.received());
    let pins = pins(node);
    for folder in [pins.join("links"), pins.join("maps"), pins.join("programs"), pins.clone(), pins.join("..")] {
        wait::until("the pins are there", || pins.join("links").read_dir().is_ok_and(|links| links.count() > 4));
        fs::remove_dir_all(folder.canonicalize().expect("it is there")).expect("root may delete pins");
        wait::until("the pins are made again", || pins.join("links").read_dir().is_ok_and(|links| links.count() > 4));
        frames.assert_cut();
    }
    assert_eq!((into.received(), out.received()), before, "datagrams got through");
    assert!(counted(&daemon, "isolate_hook_repairs_total", "") > 4 * 4);
    assert!(counted(&daemon, "isolate_state_repairs_total", "pin") > 3 * 6);
    assert!(says(agent, "pins were gone and are made again"));
    assert!(journal(agent, web.uid()).contains(&"hook_repaired".to_owned()));
    // What was pinned again holds over the end of the daemon that held it.
    daemon.kill();
    frames.assert_cut();
    thread::sleep(STRETCH);
    assert_eq!((into.received(), out.received()), before, "datagrams got through");
    let _daemon = agent.daemon();
    frames.assert_cut();
    agent.remove(&[web.uid()]);
    frames.assert_flows();
    wait::until("the floods flow again", || into.received() > before.0 && out.received() > before.1);
}

fn a_deleted_map_pin_is_made_again() {
    let scene = Scene::new();
    let Scene { agent, web, node, .. } = &scene;
    let daemon = agent.daemon();
    let visitor = scene.visitor();
    let frames = frames(&scene, &visitor);
    agent.add(&[web.uid()]);
    let pin = pins(node).join("maps/ISO_POLICY");
    fs::remove_file(&pin).expect("root may delete pins");
    wait::until("it is pinned again", || pin.exists());
    assert_eq!(counted(&daemon, "isolate_state_repairs_total", "pin"), 1);
    daemon.kill();
    frames.assert_cut();
    let _daemon = agent.daemon();
    frames.assert_cut();
    agent.remove(&[web.uid()]);
    frames.assert_flows();
}

fn deleted_entries_are_written_again() {
    let scene = Scene::new();
    let Scene { agent, web, node, .. } = &scene;
    let daemon = agent.daemon();
    let visitor = scene.visitor();
    let frames = frames(&scene, &visitor);
    agent.add(&[web.uid()]);
    frames.assert_cut();
    let index = netdev::index(node.netns(), &web.host_veths()[0]);
    let change = |verb: &str, map: &str, key: u32, value: &[&str]| {
        let mut change = Command::new("bpftool");
        change.args(["map", verb, "pinned"]).arg(pins(node).join("maps").join(map)).arg("key");
        change.args(key.to_ne_bytes().map(|byte| byte.to_string())).args(value);
        launch::succeed(&mut change);
    };
    let counted = || counted(&daemon, "isolate_state_repairs_total", "entry");
    change("update", "ISO_NEAR_VETH", Near::place(index.into()), &["value", "0", "0", "0", "0", "0", "0", "0", "0"]);
    frames.assert_flows();
    wait::until("it is counted", || counted() == 1);
    frames.assert_cut();
    // The programs do not look here unless another pod's veth has the same place.
    change("delete", "ISO_IFINDEX", index, &[]);
    wait::until("it is counted", || counted() == 2);
    frames.assert_cut();
    agent.remove(&[web.uid()]);
    frames.assert_flows();
}

/// Nobody holds a link then, and it ends with its pin: root on the node has released the pod. The record remains.
fn pins_deleted_without_a_daemon_are_made_at_the_next_start() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let path = Path::shown(Channel::ORDINARY.into_iter().chain(Channel::LINK), web.end(), neighbour.end());
    agent.add(&[web.uid(), "--reason", "INC-4711"]);
    path.assert_cut();
    fs::remove_dir_all(node.folder().join("bpf/isolate-agent")).expect("root may delete pins");
    if feature::has_tcx() {
        path.assert_flows();
    } else {
        // Filters need no pins.
        path.assert_cut();
    }
    let _daemon = agent.daemon();
    wait::until("all hold again", || agent.isolation(web.uid())["coverage"] == "full");
    path.assert_cut();
    assert_eq!(agent.isolation(web.uid())["reason"], "INC-4711");
    agent.remove(&[web.uid()]);
    path.assert_flows();
}
