//! Direct mode: no daemon answers, and the commands do the work themselves.

use std::{fs, process::Command};

use isolate_tests::{
    agent,
    channel::{Channel, Path},
    launch,
    node::Node,
};

use crate::{
    scene::{Scene, every_channel},
    suite::trials,
};

trials![the_whole_way_without_a_daemon, a_daemon_takes_over, a_dry_run_changes_nothing, nothing_is_needed_of_its_image,];

fn the_whole_way_without_a_daemon() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let path = Path::shown(every_channel(), web.end(), neighbour.end());
    let added = agent.add(&[web.uid(), "--reason", "found by hand"]);
    assert!(added.stderr.contains("no daemon"), "it does not say that no daemon did this: {:?}", added.stderr);
    path.assert_cut();
    assert_eq!(agent.isolated(), [web.uid()]);
    assert!(agent.drops(web.uid()) > 0);
    let status = agent.run(&["status", web.uid()]).expect(0);
    assert!(status.stdout.contains("found by hand"), "the reason is not shown\n{}", status.stdout);
    agent.remove(&[web.uid()]);
    path.assert_flows();
    assert!(agent.isolated().is_empty());
}

fn a_daemon_takes_over() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let path = Path::shown(Channel::ROUTED, web.end(), neighbour.end());
    agent.add(&[web.uid()]);
    let daemon = agent.daemon();
    path.assert_cut();
    assert_eq!(agent.isolated(), [web.uid()]);
    let again = agent.add(&[web.uid()]);
    assert!(!again.stderr.contains("no daemon"), "the daemon did not do this: {:?}", again.stderr);
    daemon.kill();
    agent.remove(&[web.uid()]);
    path.assert_flows();
}

fn a_dry_run_changes_nothing() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    agent.add(&[web.uid(), "--dry-run"]);
    path.assert_flows();
    let _daemon = agent.daemon();
    agent.add(&[web.uid(), "--dry-run"]);
    path.assert_flows();
    assert!(agent.isolated().is_empty());
    agent.run(&["add", "--dry-run", "ffffffff-0000-4000-8000-000000000000"]).expect(3);
}

fn nothing_is_needed_of_its_image() {
    let node = Node::new();
    let image = node.folder().join("image");
    fs::create_dir(&image).expect("the folder is the test's");
    launch::copy("/bin/true", &image.join("dynamic"));
    launch::copy(agent::program(), &image.join("agent"));
    let version = |program: &str| {
        let mut command = Command::new("chroot");
        agent::output(command.arg(&image).arg(program).arg("--version"))
    };
    let dynamic = version("/dynamic");
    assert_ne!(dynamic.code, 0, "a program that needs libraries finds them there");
    let agent = version("/agent").expect(0);
    assert!(agent.stdout.starts_with("isolate-agent "), "{}", agent.stdout);
}
