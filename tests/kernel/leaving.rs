//! What goes by itself when a pod has left the node, and by hand when the agent leaves it.

use std::{fs, thread, time::Duration};

use isolate_tests::{
    agent::{Agent, Daemon},
    bpf,
    channel::{Channel, Path},
    netdev,
    node::Node,
    pod::Spec,
    wait,
};

use crate::{scene::Scene, suite::trials};

trials![
    the_record_of_a_pod_that_left_expires,
    a_pod_that_comes_back_keeps_its_record,
    an_agent_that_sees_no_pod_forgets_none,
    uninstall_leaves_nothing,
    uninstall_refuses_what_would_release_somebody,
    uninstall_can_leave_the_records,
];

fn retention(agent: &Agent, time: &str) -> Daemon {
    agent.clone().with_daemon_option("--retention", time).daemon()
}

/// A link event is a reason for a pass, as any change on the node is.
fn nudge(node: &Node, round: u32) {
    netdev::ip(node.netns(), &[format!("link set cni1 alias round{round}")]);
}

fn the_record_of_a_pod_that_left_expires() {
    let scene = Scene::new();
    let Scene { agent, web, node, .. } = &scene;
    let leaver = node.pod(&Spec::default());
    let uid = leaver.uid().to_owned();
    let daemon = retention(agent, "2s");
    agent.add(&[&uid, web.uid()]);
    // While it is there, nothing expires.
    for round in 0..3 {
        thread::sleep(Duration::from_secs(1));
        nudge(node, round);
    }
    assert_eq!(agent.isolated().len(), 2);
    drop(leaver);
    let mut round = 3;
    wait::until("the record expires", || {
        round += 1;
        nudge(node, round);
        thread::sleep(Duration::from_millis(300));
        agent.isolated() == [web.uid()]
    });
    let events = agent.run(&["events", &uid]).expect(0);
    assert!(events.stdout.contains("record_expired"), "{}", events.text());
    assert!(daemon.log().contains("has been away from this node"), "{}", daemon.log());
    assert!(!agent.state().join(format!("isolations/{uid}.json")).exists());
}

fn a_pod_that_comes_back_keeps_its_record() {
    let scene = Scene::new();
    let Scene { agent, neighbour, node, .. } = &scene;
    let spec = Spec { uid: Some("15ffffff-0000-4000-8000-00000000beef".to_owned()), ..Spec::default() };
    let leaver = node.pod(&spec);
    let uid = leaver.uid().to_owned();
    let daemon = agent.daemon();
    agent.add(&[&uid]);
    drop(leaver);
    wait::until("it is away", || agent.isolation(&uid)["coverage"] == "absent");
    wait::until("that is noted", || {
        fs::read_to_string(agent.state().join("absences.json")).is_ok_and(|text| text.contains(&uid))
    });
    let back = node.pod(&spec);
    wait::until("it is cut again", || agent.isolation(&uid)["coverage"] == "full");
    wait::until("it is seen to be back", || {
        !fs::read_to_string(agent.state().join("absences.json")).expect("it is there").contains(&uid)
    });
    Path::shown(Channel::ORDINARY, neighbour.loopback(), neighbour.loopback());
    drop(daemon);
    agent.remove(&[&uid]);
    Path::shown(Channel::ORDINARY, back.end(), neighbour.end());
}

/// As with a wrong `--cgroup-root`.
fn an_agent_that_sees_no_pod_forgets_none() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    agent.add(&[web.uid()]);
    let empty = node.cgroup().join("empty.slice");
    fs::create_dir(&empty).expect("a cgroup can be made");
    let blind = agent.clone().with("--cgroup-root", &empty);
    let daemon = retention(&blind, "1s");
    for round in 0..4 {
        thread::sleep(Duration::from_secs(1));
        nudge(node, round);
    }
    assert_eq!(blind.isolated(), [web.uid()]);
    path.assert_cut();
    drop(daemon);
}

fn uninstall_leaves_nothing() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let path = Path::shown(Channel::ORDINARY.into_iter().chain(Channel::LINK), web.end(), neighbour.end());
    let daemon = agent.daemon();
    agent.add(&[web.uid()]);
    path.assert_cut();
    let told = agent.run(&["uninstall", "--force"]).expect(1);
    assert!(told.stderr.contains("the daemon runs"), "{}", told.text());
    path.assert_cut();
    daemon.stop();
    agent.remove(&["--all"]);
    let pinned = bpf::pinned(&node.folder().join("bpf"));
    assert!(pinned.len() > 10, "maps, programs and the armed links: {pinned:?}");
    agent.run(&["uninstall"]).expect(0);
    for folder in ["run", "state", "bpf/isolate-agent"] {
        assert!(!node.folder().join(folder).exists(), "{folder} is left");
    }
    wait::until("the kernel has let go of everything", || bpf::alive(&pinned).is_empty());
    path.assert_flows();
    // Again, with nothing there; and anew.
    agent.run(&["uninstall"]).expect(0);
    agent.add(&[web.uid()]);
    path.assert_cut();
    let told = agent.run(&["uninstall", "--force"]).expect(0);
    assert!(told.stdout.contains(web.uid()), "{}", told.text());
    path.assert_flows();
    for folder in ["run", "state", "bpf/isolate-agent"] {
        assert!(!node.folder().join(folder).exists(), "{folder} is left");
    }
}

fn uninstall_refuses_what_would_release_somebody() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    agent.add(&[web.uid()]);
    let told = agent.run(&["uninstall"]).expect(4);
    assert!(told.stderr.contains(web.uid()) && told.stderr.contains("remove --all"), "{}", told.text());
    path.assert_cut();
    fs::write(agent.state().join("notes.txt"), "somebody's").expect("the folder is there");
    let told = agent.run(&["uninstall", "--force"]).expect(0);
    assert!(told.stderr.contains("notes.txt"), "{}", told.text());
    assert!(agent.state().join("notes.txt").exists());
    path.assert_flows();
}

fn uninstall_can_leave_the_records() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    agent.add(&[web.uid(), "--reason", "INC-4711"]);
    agent.run(&["uninstall", "--force", "--keep-records"]).expect(0);
    path.assert_flows();
    let _daemon = agent.daemon();
    wait::until("it is isolated again", || agent.isolation(web.uid())["coverage"] == "full");
    path.assert_cut();
    assert_eq!(agent.isolation(web.uid())["reason"], "INC-4711");
}
