//! What becomes of an isolated pod: its containers restart, its sandbox is made anew, its pause process dies, it is deleted.

use isolate_tests::{
    channel::Path,
    cri::{CriSpec, Network},
    observe::Observer,
    pod::Driver,
    wait,
};

use super::{CHANNELS, Scene, knows, page};
use crate::suite::trials;

trials![
    a_new_sandbox_stays_cut needs Containerd,
    a_dead_pause_process_releases_nobody needs Containerd,
    a_restarted_container_stays_cut needs Containerd,
    a_pod_on_the_nodes_network needs Containerd,
    a_deleted_pod_keeps_its_record needs Containerd,
    both_spellings_of_the_cgroup needs Containerd,
];

fn a_new_sandbox_stays_cut() {
    let mut scene = Scene::with(CriSpec::default());
    let agent = scene.agent.clone();
    let _daemon = agent.daemon();
    knows(&agent, &scene.web.name());
    let path = scene.path();
    agent.add(&[scene.web.uid()]);
    path.assert_cut();
    let old_ip = scene.web.ip();
    for _ in 0..2 {
        scene.web.recreate();
        let Scene { web, neighbour, node, .. } = &scene;
        assert_ne!(web.ip(), old_ip, "another address, so another interface");
        let outside = Observer::start(neighbour.netns(), "eth0");
        agent_covers(&scene);
        Observer::begin([&outside]);
        Path::unseen(CHANNELS, web.end(), neighbour.end()).assert_cut();
        assert_eq!(outside.from(web.end().mac), 0);
        assert_eq!(page(node, web), "");
    }
    agent.remove(&[&scene.web.name()]);
    // The observers and the paths were not blind.
    let path = scene.path();
    path.assert_flows();
    assert!(page(&scene.node, &scene.web).contains("ok"));
}

/// The runtime calls the sandbox not ready, and its containers run on in a namespace that is still there.
fn a_dead_pause_process_releases_nobody() {
    let scene = Scene::with(CriSpec { containers: 2, ..CriSpec::default() });
    let Scene { web, neighbour, agent, .. } = &scene;
    let daemon = agent.daemon();
    knows(agent, &web.name());
    let (web_end, path) = (web.end(), scene.path());
    agent.add(&[&web.name()]);
    path.assert_cut();
    web.kill_pause();
    wait::until("the runtime calls it not ready", || !web.is_ready());
    assert!(web.container(0).runs() && web.container(1).runs(), "its containers run on");
    daemon.await_pass();
    path.assert_cut();
    assert_eq!(agent.isolation(web.uid())["coverage"], "full");
    agent.remove(&[&web.name()]);
    Path::shown(CHANNELS, web_end, neighbour.end());
}

fn a_restarted_container_stays_cut() {
    let mut scene = Scene::with(CriSpec::default());
    let agent = scene.agent.clone();
    let _daemon = agent.daemon();
    let path = scene.path();
    agent.add(&[scene.web.uid()]);
    path.assert_cut();
    scene.web.restart_container(0);
    let Scene { web, neighbour, node, .. } = &scene;
    Path::unseen(CHANNELS, web.end(), neighbour.end()).assert_cut();
    assert_eq!(page(node, web), "");
    agent.remove(&[web.uid()]);
    scene.path().assert_flows();
    assert!(page(node, web).contains("ok"));
}

fn a_pod_on_the_nodes_network() {
    let scene = Scene::with(CriSpec { network: Network::Node, ..CriSpec::default() });
    let Scene { web, neighbour, agent, node } = &scene;
    let _daemon = agent.daemon();
    let kubelet = node.process();
    // What it sends by packet sockets is the node's.
    let path = Path::shown(CHANNELS.into_iter().take(4), web.end(), neighbour.end());
    let bystander = Path::shown(CHANNELS, node.end(&kubelet), neighbour.end());
    let added = agent.run(&["add", web.uid()]);
    assert!(matches!(added.code, 0 | 5), "{}", added.text());
    assert_eq!(agent.isolation(web.uid())["host_network"], true);
    path.assert_cut();
    bystander.assert_flows();
    agent.remove(&[web.uid()]);
    path.assert_flows();
}

fn a_deleted_pod_keeps_its_record() {
    let mut scene = Scene::with(CriSpec::default());
    let agent = scene.agent.clone();
    let _daemon = agent.daemon();
    knows(&agent, &scene.web.name());
    let path = scene.path();
    agent.add(&[&scene.web.name()]);
    path.assert_cut();
    let (uid, name) = (scene.web.uid().to_owned(), scene.web.name());
    let spec =
        CriSpec { uid: Some(uid.clone()), name: name.trim_start_matches("default/").to_owned(), ..CriSpec::default() };
    let node = scene.node.clone();
    std::mem::replace(&mut scene.web, node.pod(CriSpec::default())).delete();
    wait::until("the pod is seen to be gone", || agent.isolation(&uid)["coverage"] == "absent");
    assert_eq!(agent.isolation(&uid)["name"], spec.name.as_str(), "the record keeps its name");
    // The same pod, as after a reboot of the node.
    scene.web = node.pod(spec);
    agent_covers(&scene);
    Path::unseen(CHANNELS, scene.web.end(), scene.neighbour.end()).assert_cut();
    agent.remove(&[&name]);
    scene.path().assert_flows();
}

fn both_spellings_of_the_cgroup() {
    for driver in [Driver::Systemd, Driver::Cgroupfs] {
        let scene = Scene::with(CriSpec { driver, ..CriSpec::default() });
        let Scene { web, agent, .. } = &scene;
        let path = scene.path();
        agent.add(&[web.uid()]);
        path.assert_cut();
        let isolation = agent.isolation(web.uid());
        let places: Vec<&str> =
            isolation["hooks"].as_array().expect("a list").iter().filter_map(|hook| hook["place"].as_str()).collect();
        let spelled = web.cgroup().file_name().expect("it has a name").to_string_lossy().into_owned();
        assert!(places.iter().any(|place| place.ends_with(&spelled)), "{spelled} is not in {places:?}");
        agent.remove(&[web.uid()]);
        path.assert_flows();
    }
}

/// The agent holds every hook of the pod as it is now. Before that, what leaves its sockets is cut already.
fn agent_covers(scene: &Scene) {
    let uid = scene.web.uid();
    wait::until("the new interface is cut", || scene.agent.isolation(uid)["coverage"] == "full");
}
