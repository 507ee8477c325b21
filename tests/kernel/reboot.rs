//! A reboot: pins, cgroups and namespaces are gone, the records are not. Whom they name is cut before it runs again.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use isolate_tests::{
    channel::{Channel, Path},
    node::Node,
    pod::{Driver, Pod, Spec},
    wait,
    wire::Request,
};

use crate::{arming::is_armed, scene::Scene, suite::trials};

trials![
    a_pod_that_comes_back_is_cut_before_it_runs,
    a_pod_that_is_back_before_the_agent_is_cut_by_its_start,
    the_window_from_the_directory_to_the_cut,
    the_window_of_a_new_veth,
];

const UID: &str = "15fffffe-0000-4000-8000-00000000b007";
/// Long enough for hundreds of datagrams of a flood.
const STRETCH: Duration = Duration::from_millis(500);

fn spec() -> Spec {
    Spec { uid: Some(UID.to_owned()), ..Spec::default() }
}

/// What a reboot takes: the pods with their cgroups and namespaces, and everything on the bpffs.
fn reboot(node: &Node, pod: Pod) {
    drop(pod);
    fs::remove_dir_all(node.folder().join("bpf/isolate-agent")).expect("the agent has made its pins");
    fs::remove_dir_all(node.folder().join("run")).expect("it is there");
    fs::create_dir(node.folder().join("run")).expect("it is gone");
}

fn is_cut(scene: &Scene) -> bool {
    scene.agent.isolation(UID)["coverage"] == "full"
}

fn a_pod_that_comes_back_is_cut_before_it_runs() {
    let scene = Scene::new();
    let Scene { agent, neighbour, node, .. } = &scene;
    for driver in [Driver::Systemd, Driver::Cgroupfs] {
        let pod = node.pod(&spec());
        Path::shown(Channel::ORDINARY, pod.end(), neighbour.end());
        let daemon = agent.daemon();
        agent.add(&[UID, "--reason", "INC-4711"]);
        daemon.kill();
        reboot(node, pod);
        let _daemon = agent.daemon();
        assert_eq!(agent.isolation(UID)["coverage"], "absent");

        let sink = neighbour.app().made(&Request::Sink((neighbour.end().v4, 0).into()));
        let port = u16::try_from(sink.1.value).expect("a port has 16 bits");
        let to = (neighbour.end().v4, port).into();
        let back = node.pod(&Spec { driver, ..spec() });
        // From its first moment on.
        let stream = back.app().made(&Request::Flood { to, pause: Duration::from_millis(1) });
        wait::until("every hook holds", || is_cut(&scene));
        thread::sleep(STRETCH);
        back.app().call(&Request::StopFlood(stream.0.handle()));
        let arrived = neighbour.app().call(&Request::Counted(sink.0.handle())).value;
        assert!(agent.drops(UID) > 100, "nothing was sent");
        assert_eq!(arrived, 0, "datagrams got out");
        assert_eq!(agent.isolation(UID)["reason"], "INC-4711");
        agent.remove(&[UID]);
        Path::shown(Channel::ORDINARY, back.end(), neighbour.end());
    }
}

/// Where the order of the unit does not hold, as in a `DaemonSet`. What runs before the agent does is not cut.
fn a_pod_that_is_back_before_the_agent_is_cut_by_its_start() {
    let scene = Scene::new();
    let Scene { agent, neighbour, node, .. } = &scene;
    let pod = node.pod(&spec());
    agent.add(&[UID, "--reason", "INC-4711"]);
    reboot(node, pod);
    let back = node.pod(&spec());
    let path = Path::shown(Channel::ORDINARY.into_iter().chain(Channel::LINK), back.end(), neighbour.end());
    // A command is enough.
    assert_eq!(agent.isolated(), [UID]);
    path.assert_cut();
    let _daemon = agent.daemon();
    path.assert_cut();
    agent.remove(&[UID]);
    path.assert_flows();
}

/// `cargo xtask test the_window_from` prints it; kubelet starts the first container some 100 ms after the directory.
fn the_window_from_the_directory_to_the_cut() {
    const ROUNDS: usize = 20;
    let scene = Scene::new();
    let Scene { agent, web, node, .. } = &scene;
    let pod = node.pod(&spec());
    let folder = pod.cgroup().to_owned();
    let _daemon = agent.daemon();
    agent.add(&[UID]);
    drop(pod);
    let mut windows = Vec::new();
    for _ in 0..ROUNDS {
        wait::until("the pod is away", || agent.isolation(UID)["coverage"] == "absent");
        fs::create_dir_all(&folder).expect("a cgroup can be made");
        let start = Instant::now();
        let id = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&folder).expect("it is there"));
        let layouts = fs::read_dir(node.folder().join("bpf/isolate-agent")).expect("the agent has made its pins");
        let pins: Vec<_> =
            layouts.flatten().map(|layout| layout.path().join(format!("links/cgroup-{id}-out"))).collect();
        while !pins.iter().any(|pin| pin.exists()) {
            assert!(start.elapsed() < wait::DEADLINE, "it is not cut");
            thread::yield_now();
        }
        windows.push(start.elapsed());
        fs::remove_dir(&folder).expect("it is empty");
    }
    windows.sort();
    eprintln!("from the directory to the cut: median {:?}, longest {:?}", windows[ROUNDS / 2], windows[ROUNDS - 1]);
    assert!(web.cgroup().exists());
}

/// `cargo xtask test the_window_of` prints it, from the first process in the new sandbox to the hooks on its veth.
fn the_window_of_a_new_veth() {
    const ROUNDS: usize = 10;
    let mut scene = Scene::new();
    let _daemon = scene.agent.daemon();
    scene.agent.add(&[scene.web.uid()]);
    let mut windows = Vec::new();
    for _ in 0..ROUNDS {
        scene.web.renew_sandbox();
        let start = Instant::now();
        wait::until("the new veth is cut", || is_armed(&scene.node, &scene.web.host_veths()[0]));
        windows.push(start.elapsed());
        // What is keyed is cut, what is armed alone is not.
        wait::until("every hook holds", || scene.agent.isolation(scene.web.uid())["coverage"] == "full");
    }
    windows.sort();
    eprintln!(
        "from the process to the cut of its veth: median {:?}, longest {:?}",
        windows[ROUNDS / 2],
        windows[ROUNDS - 1]
    );
    scene.agent.remove(&[scene.web.uid()]);
    Path::shown(Channel::LINK, scene.web.end(), scene.neighbour.end());
}
