//! The main job: nothing passes into or out of an isolated pod, its neighbours lose nothing, and all comes back.

use std::{thread, time::Duration};

use isolate_tests::{
    channel::{Channel, Path},
    flood::Flood,
    observe::Observer,
    pod::{Driver, Link, Qos, Spec},
    wait,
    wire::{Family, Kind},
};

use crate::{
    arming::is_armed,
    scene::{Scene, every_channel},
    suite::trials,
};

trials![
    nothing_passes_and_all_comes_back,
    established_streams_stall_and_go_on,
    a_routed_pod_is_cut,
    every_interface_is_cut,
    adding_twice_and_removing_the_absent_succeed,
    remove_all_releases_everybody,
    a_stream_of_numbered_datagrams_stops_for_good,
    the_daemon_comes_before_what_pods_run,
];

fn nothing_passes_and_all_comes_back() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let (kubelet, other) = (node.process(), node.pod(&Spec::default()));
    let _daemon = agent.daemon();
    // The kernel stops an interface for a moment while it gives it a clsact qdisc.
    for pod in [neighbour, &other] {
        wait::until("the neighbours are armed", || is_armed(node, &pod.host_veths()[0]));
    }
    let paths = [neighbour.end(), node.end(&kubelet)].map(|peer| Path::shown(every_channel(), web.end(), peer));
    let bystanders = Path::shown(every_channel(), neighbour.end(), other.end());
    let flow = Flood::start(other.app(), neighbour.app(), (neighbour.end().v4, 0).into());
    let flow6 = Flood::start(neighbour.app(), other.app(), (other.end().v6, 0).into());
    let (inside, outside) = (Observer::start(web.netns(), "eth0"), Observer::start(neighbour.netns(), "eth0"));
    let on_bridge = Observer::start(node.netns(), "cni0");

    agent.add(&[web.uid(), "--reason", "beacons to a known address"]);
    Observer::begin([&inside, &outside, &on_bridge]);
    paths.iter().for_each(Path::assert_cut);
    let mac = web.end().mac;
    assert_eq!((inside.not_from(mac), outside.from(mac), on_bridge.from(mac)), (0, 0, 0), "frames got through");
    assert!(agent.drops(web.uid()) > 0);
    bystanders.assert_flows();

    agent.remove(&[web.uid()]);
    paths.iter().for_each(Path::assert_flows);
    assert!(inside.not_from(mac) > 0 && outside.from(mac) > 0 && on_bridge.from(mac) > 0, "the observers were blind");
    assert_eq!((flow.lost(), flow6.lost()), (0, 0), "the neighbours lost datagrams");
}

fn established_streams_stall_and_go_on() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let _daemon = agent.daemon();
    let brief = Duration::from_millis(300);
    for family in [Family::V4, Family::V6] {
        let listener = web.app().socket(Kind::Tcp, family, brief);
        let ip = if family == Family::V4 { web.end().v4.into() } else { web.end().v6.into() };
        let address = listener.bind(std::net::SocketAddr::new(ip, 0));
        let client = neighbour.app().socket(Kind::Tcp, family, brief);
        wait::until("the stream is established", || client.connect(address).is_ok());
        let server = listener.accept().expect("a connection waits");
        for (from, to) in [(&client, &server), (&server, &client)] {
            assert!(from.send(b"before").is_ok());
            assert_eq!(to.recv().data, b"before");
        }

        agent.add(&[web.uid()]);
        for (from, to) in [(&client, &server), (&server, &client)] {
            assert!(from.send(b"during").is_ok(), "the socket's buffer takes it");
            assert_eq!(to.recv().errno_name(), "EAGAIN");
        }

        agent.remove(&[web.uid()]);
        for to in [&server, &client] {
            let mut data = Vec::new();
            wait::until("the stream goes on where it stalled", || {
                data.extend(to.recv().data);
                data == b"during"
            });
        }
    }
}

fn a_routed_pod_is_cut() {
    let spec = Spec { link: Link::Routed, driver: Driver::Cgroupfs, qos: Qos::BestEffort, ..Spec::default() };
    let scene = Scene::with(&spec);
    let Scene { agent, web, neighbour, .. } = &scene;
    let _daemon = agent.daemon();
    let path = Path::shown(Channel::ROUTED, web.end(), neighbour.end());
    agent.add(&[web.uid()]);
    path.assert_cut();
    agent.remove(&[web.uid()]);
    path.assert_flows();
}

fn every_interface_is_cut() {
    let scene = Scene::with(&Spec { interfaces: 2, ..Spec::default() });
    let Scene { agent, web, neighbour, .. } = &scene;
    let _daemon = agent.daemon();
    let paths = [
        Path::shown(every_channel(), web.end(), neighbour.end()),
        Path::shown(every_channel(), web.second_end(), neighbour.second_end()),
    ];
    agent.add(&[web.uid()]);
    paths.iter().for_each(Path::assert_cut);
    agent.remove(&[web.uid()]);
    paths.iter().for_each(Path::assert_flows);
}

fn adding_twice_and_removing_the_absent_succeed() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let _daemon = agent.daemon();
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    agent.remove(&[web.uid()]);
    agent.add(&[web.uid(), "--reason", "first"]);
    agent.add(&[web.uid(), "--reason", "second"]);
    assert_eq!(agent.isolated(), [web.uid()]);
    assert_eq!(agent.isolation(web.uid())["reason"], "second");
    path.assert_cut();
    agent.remove(&[web.uid()]);
    agent.remove(&[web.uid()]);
    path.assert_flows();
    let events = agent.run(&["events", web.uid(), "-o", "json"]).expect(0).json();
    let kinds: Vec<_> = events.as_array().expect("a list").iter().map(|event| event["kind"].clone()).collect();
    assert_eq!(kinds, ["isolated", "updated", "released"], "{events:#}");
}

fn remove_all_releases_everybody() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let _daemon = agent.daemon();
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    agent.add(&[web.uid(), neighbour.uid()]);
    path.assert_cut();
    agent.remove(&[web.uid()]);
    path.assert_cut();
    agent.add(&[web.uid()]);
    agent.remove(&["--all"]);
    assert!(agent.isolated().is_empty());
    path.assert_flows();
}

/// When the answer is there, nothing more gets out or in. How soon before it, `cargo xtask bench` measures by such streams.
fn a_stream_of_numbered_datagrams_stops_for_good() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let _daemon = agent.daemon();
    let second = neighbour.start_container();
    let streams = [
        Flood::start(web.app(), neighbour.app(), (neighbour.end().v4, 0).into()),
        Flood::start(&second, web.app(), (web.end().v6, 0).into()),
    ];
    let received = || streams.each_ref().map(Flood::received);
    agent.add(&[web.uid()]);
    // What had arrived by then has been read.
    thread::sleep(Duration::from_millis(200));
    let before = received();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(received(), before, "datagrams got through after the answer");
    agent.remove(&[web.uid()]);
    wait::until("both streams flow again", || received().iter().zip(before).all(|(now, then)| *now > then));
}

/// A pod that uses every core must not delay its own isolation.
fn the_daemon_comes_before_what_pods_run() {
    let scene = Scene::new();
    let daemon = scene.agent.daemon();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("the daemon runs");
    for task in tasks.flatten() {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // After the name, which may hold anything: `nice` is the 19th field of all (man 5 proc).
        let niceness = stat.rsplit(") ").next().and_then(|fields| fields.split(' ').nth(16));
        assert!(stat.is_empty() || niceness == Some("-10"), "{stat}");
    }
}
