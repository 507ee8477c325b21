//! A node that is not as it should be: no bpffs, not root, a socket that is in use.

use std::{fs, os::unix::net::UnixListener, process::Stdio};

use isolate_tests::{
    agent,
    channel::{Channel, Path},
    launch,
};

use super::isolated;
use crate::{scene::Scene, suite::trials};

trials![a_bpffs_that_is_not_mounted, a_bpffs_that_cannot_be, not_root, a_second_daemon, a_stale_socket];

fn a_bpffs_that_is_not_mounted() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let elsewhere = node.folder().join("elsewhere");
    let agent = agent.clone().with("--bpffs", &elsewhere);
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    agent.add(&[web.uid()]);
    path.assert_cut();
    let _daemon = agent.daemon();
    path.assert_cut();
    agent.remove(&[web.uid()]);
    path.assert_flows();
}

fn a_bpffs_that_cannot_be() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let path = isolated(&scene);
    let bystander = Path::shown(Channel::ORDINARY, neighbour.loopback(), neighbour.loopback());
    let file = node.folder().join("a-file");
    fs::write(&file, "").expect("the node's folder is writable");
    let lost = agent.clone().with("--bpffs", &file);
    for arguments in [&["add", neighbour.uid()][..], &["remove", web.uid()]] {
        let told = lost.run(arguments).expect(1);
        assert!(told.text().contains(&file.display().to_string()), "it does not name the file\n{}", told.text());
    }
    path.assert_cut();
    bystander.assert_flows();
}

fn not_root() {
    let scene = Scene::new();
    let Scene { agent, web, node, .. } = &scene;
    let path = isolated(&scene);
    // The binary's own folder may be closed to others.
    let program = node.folder().join("isolate-agent");
    for arguments in [&["add", web.uid()][..], &["remove", web.uid()], &["remove", "--all"], &["daemon"]] {
        let command = agent.command(arguments);
        launch::copy(command.get_program(), &program);
        let mut unprivileged = node.command("setpriv");
        unprivileged.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        let told = agent::output(unprivileged.arg(&program).args(command.get_args()).stdin(Stdio::null())).expect(1);
        assert!(told.text().contains("root"), "{arguments:?}: it does not say what to do\n{}", told.text());
    }
    path.assert_cut();
}

fn a_second_daemon() {
    let scene = Scene::new();
    let Scene { agent, web, .. } = &scene;
    let daemon = agent.daemon();
    let path = isolated(&scene);
    let told = agent.run(&["daemon", "--metrics-addr", "127.0.0.1:9478"]).expect(1);
    let socket = agent.socket().display().to_string();
    assert!(told.text().contains(&socket), "it does not name the socket\n{}", told.text());
    assert_eq!(daemon.control("GET", "/v1/isolations", b"").0, 200, "the first one does not answer any more");
    assert_eq!(agent.isolated(), [web.uid()]);
    path.assert_cut();
}

/// What a killed daemon leaves is a socket that nobody answers.
fn a_stale_socket() {
    let scene = Scene::new();
    let Scene { agent, web, .. } = &scene;
    drop(UnixListener::bind(agent.socket()).expect("the folder is empty"));
    let path = isolated(&scene);
    let _daemon = agent.daemon();
    assert_eq!(agent.isolated(), [web.uid()]);
    path.assert_cut();
}
