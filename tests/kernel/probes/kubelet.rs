//! kubelet, as far as the agent can tell: a process in a cgroup of the node.

use std::{fs, path::PathBuf};

use isolate_tests::{
    agent::Agent,
    launch,
    node::Node,
    process::{self, Process},
    wait,
    wire::Family,
};

use super::Probed;
use crate::scene::Scene;

/// Where it runs, in the node's cgroup tree.
fn cgroup(node: &Node, name: &str) -> PathBuf {
    let path = node.cgroup().join("system.slice").join(name);
    fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

/// A process in kubelet's place.
pub(crate) fn process(node: &Node) -> Process {
    Process::start(node.netns(), &cgroup(node, "kubelet.service"))
}

/// The agent, told where that is.
pub(crate) fn agent(scene: &Scene) -> Agent {
    let cgroup = cgroup(&scene.node, "kubelet.service");
    scene.agent.clone().with_variable("ISOLATE_KUBELET_CGROUP", &cgroup.display().to_string())
}

/// By its name, and by its new place when it was started anew. In between no probe passes, whoever sends it.
pub(super) fn it_is_found_and_found_again() {
    let scene = Scene::new();
    let Scene { agent, web, node, .. } = &scene;
    let program = node.folder().join("kubelet");
    launch::copy(process::program(), &program);
    let start = |service| Process::run(launch::command(&program, node.netns(), &cgroup(node, service)));
    let _daemon = agent.daemon();
    let first = start("kubelet.service");
    let probed = Probed::new(&first, web.end(), Family::V4);
    let port = probed.port.to_string();
    agent.add(&[web.uid(), "--keep-probes", "--probe-port", &port]);
    wait::until("kubelet's probe comes through", || probed.answers());

    let other = node.process();
    assert!(probed.connection_of(&other).is_none());
    let second = start("k3s.service");
    let (listener, pod, port) = (probed.listener, probed.pod, probed.port);
    drop(first);
    let probed = Probed { kubelet: &second, pod, port, listener, family: Family::V4 };
    wait::until("its new cgroup is found", || probed.answers());
    assert!(probed.connection_of(&other).is_none());
}
