//! The daemon ends, by a kill or a stop, or is kept from running, and comes back: the cut does not notice.

use std::{fs, os::unix::net::UnixStream, thread, time::Duration};

use isolate_tests::{
    agent::request,
    channel::{Channel, Path},
    flood::Flood,
    observe::Observer,
    wait,
};

use crate::{scene::Scene, suite::trials};

trials![
    kill_9_under_a_flood,
    a_stop_changes_nothing,
    a_lost_record_is_recovered,
    what_lies_in_the_socket_is_carried_out,
    of_a_daemon_that_hangs_nothing_is_loosened_later,
];

/// Long enough for hundreds of datagrams of each flood to be dropped.
const STRETCH: Duration = Duration::from_millis(500);

fn kill_9_under_a_flood() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let daemon = agent.daemon();
    let path = Path::shown(Channel::ROUTED, web.end(), neighbour.end());
    let into = Flood::start(neighbour.app(), web.app(), (web.end().v4, 0).into());
    let out = Flood::start(web.app(), neighbour.app(), (neighbour.end().v6, 0).into());
    let (inside, outside) = (Observer::start(web.netns(), "eth0"), Observer::start(neighbour.netns(), "eth0"));
    agent.add(&[web.uid(), "--reason", "kept over a crash"]);
    Observer::begin([&inside, &outside]);
    let before = (into.received(), out.received());

    daemon.kill();
    thread::sleep(STRETCH);
    let daemon = agent.daemon();
    let drops = agent.drops(web.uid());
    wait::until("the counters go on", || agent.drops(web.uid()) > drops);
    daemon.kill();
    let _daemon = agent.daemon();
    thread::sleep(STRETCH);
    assert_eq!((into.received(), out.received()), before, "datagrams got through");
    let mac = web.end().mac;
    assert_eq!((inside.not_from(mac), outside.from(mac)), (0, 0), "frames got through");
    assert!(agent.drops(web.uid()) > drops, "the counters began anew");
    assert_eq!(agent.isolation(web.uid())["reason"], "kept over a crash");
    path.assert_cut();

    agent.remove(&[web.uid()]);
    wait::until("the floods flow again", || into.received() > before.0 && out.received() > before.1);
    path.assert_flows();
}

fn a_stop_changes_nothing() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let daemon = agent.daemon();
    let path = Path::shown(Channel::ROUTED, web.end(), neighbour.end());
    agent.add(&[web.uid()]);
    let inside = Observer::start(web.netns(), "eth0");
    assert_eq!(daemon.stop(), Some(0), "SIGTERM is an ordinary end");
    path.assert_cut();
    let _daemon = agent.daemon();
    path.assert_cut();
    assert_eq!(inside.not_from(web.end().mac), 0, "frames got through");
    agent.remove(&[web.uid()]);
    path.assert_flows();
}

/// The pinned maps know who is isolated even when the state folder does not any more.
fn a_lost_record_is_recovered() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let daemon = agent.daemon();
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    agent.add(&[web.uid()]);
    daemon.kill();
    fs::remove_dir_all(agent.state()).expect("the state folder is there");
    fs::create_dir(agent.state()).expect("it was removed just now");
    let _daemon = agent.daemon();
    assert_eq!(agent.isolated(), [web.uid()]);
    path.assert_cut();
    agent.remove(&[web.uid()]);
    path.assert_flows();
}

/// A node that is so busy that the daemon does not run for seconds: its own time limits count what it was not there for.
fn what_lies_in_the_socket_is_carried_out() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let daemon = agent.daemon();
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    let asking = UnixStream::connect(agent.socket()).expect("the daemon listens");
    // It has seen that somebody is there.
    agent.run(&["status"]).expect(0);
    daemon.hold();
    let body = format!("{{\"uids\": [\"{}\"]}}", web.uid());
    thread::scope(|scope| {
        let answer = scope.spawn(|| request(asking, "POST", "/v1/isolations", body.as_bytes()));
        // Longer than a command waits for a sign of life.
        thread::sleep(Duration::from_secs(6));
        path.assert_flows();
        daemon.go_on();
        let (status, said) = answer.join().expect("it is answered");
        assert_eq!(status, 200, "{said}");
    });
    path.assert_cut();
}

/// Commands are told, and end. What they asked for comes true later only if it cuts.
fn of_a_daemon_that_hangs_nothing_is_loosened_later() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let daemon = agent.daemon();
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    let kept = Path::shown(Channel::ORDINARY, neighbour.loopback(), neighbour.loopback());
    agent.add(&[neighbour.uid()]);
    daemon.hold();
    let pid = format!("pid {}", daemon.pid());
    let late = "may do once it goes on";
    thread::scope(|scope| {
        let asked = [
            (scope.spawn(|| agent.run(&["add", web.uid()])), true),
            (scope.spawn(|| agent.run(&["remove", neighbour.uid()])), false),
            (scope.spawn(|| agent.run(&["add", neighbour.uid(), "--keep-loopback"])), false),
            (scope.spawn(|| agent.run(&["add", neighbour.uid(), "--for", "1s"])), false),
        ];
        for (command, comes_true) in asked {
            let said = command.join().expect("it ends").expect(1);
            assert!(said.stderr.contains(&pid), "{}", said.text());
            assert_eq!(said.stderr.contains(late), comes_true, "{}", said.text());
        }
    });
    daemon.go_on();
    wait::until("what cuts is carried out", || agent.isolated().len() == 2);
    path.assert_cut();
    daemon.await_pass();
    assert!(agent.isolation(neighbour.uid()).get("until").is_none());
    kept.assert_cut();
}
