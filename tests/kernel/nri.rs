//! The NRI plugin mode, against a runtime's side of the protocol: a new sandbox is cut before anything runs in it.

use std::{process::Child, time::Duration};

use isolate_tests::{
    agent::Agent,
    channel::{Channel, Path},
    frame::EXPERIMENT,
    node::Node,
    nri::Listener,
    observe::Observer,
    pod::{Pod, Spec},
    process, program, wait,
    wire::Family,
};

use crate::suite::trials;

trials![
    a_sandbox_is_cut_before_its_first_frame,
    without_it_the_first_frames_get_out,
    the_plugin_comes_back_with_the_runtime,
    what_it_does_not_know_is_answered,
];

const UDP: [Channel; 1] = [Channel::Udp(Family::V4)];

fn nri(agent: &Agent, node: &Node) -> Agent {
    agent
        .clone()
        .with_variable("ISOLATE_NRI", "true")
        .with_daemon_option("--nri-socket", &socket(node).display().to_string())
}

fn socket(node: &Node) -> std::path::PathBuf {
    node.folder().join("nri.sock")
}

/// Its container: sends frames from its first moment on.
fn flood(pod: &Pod) -> Child {
    pod.command(process::program()).args(["flood", "eth0"]).spawn().expect("it can be started")
}

/// A sandbox without a process, for a pod that is isolated already: nothing but its runtime can say whose it is.
fn isolated_before_it_runs(agent: &Agent, node: &Node) -> Pod {
    let spec = Spec { containers: 0, ..Spec::default() };
    let pod = node.pod(&spec);
    agent.run(&["add", pod.uid()]);
    assert_eq!(agent.isolated(), [pod.uid()]);
    pod
}

fn a_sandbox_is_cut_before_its_first_frame() {
    for dedicated in [true, false] {
        let node = Node::new();
        let runtime = Listener::new(&socket(&node));
        let agent = nri(&Agent::new(&node), &node);
        let daemon = agent.daemon();
        let mut plugin = runtime.plugin();
        let (web, neighbour) = (isolated_before_it_runs(&agent, &node), node.pod(&Spec::default()));
        let bridge = Observer::start(node.netns(), "cni0");
        if dedicated {
            plugin.run_pod_sandbox(web.uid(), &web.netns().path());
        } else {
            plugin.state_change(1, web.uid(), &web.netns().path());
        }
        let mut flood = flood(&web);
        let app = web.start_container();
        wait::until("its frames are dropped", || agent.drops(web.uid()) > 100);
        assert_eq!(bridge.payloads(EXPERIMENT).len(), 0, "frames got out");
        Path::unseen(UDP, web.end_of(&app), neighbour.end()).assert_cut();
        let (_, metrics) = daemon.page("/metrics");
        assert!(metrics.contains("\nisolate_nri_sandboxes_total 1\n"), "{metrics}");
        agent.remove(&[web.uid()]);
        // The flood was there, and the observer was not blind.
        wait::until("its frames get out", || !bridge.payloads(EXPERIMENT).is_empty());
        flood.kill().and_then(|()| flood.wait().map(drop)).expect("it runs until now");
    }
}

/// What the plugin is for: events come after the first frames, the later the busier the agent is; here it is held for once.
fn without_it_the_first_frames_get_out() {
    let node = Node::new();
    let agent = Agent::new(&node);
    let daemon = agent.daemon();
    let web = isolated_before_it_runs(&agent, &node);
    let bridge = Observer::start(node.netns(), "cni0");
    daemon.hold();
    let mut flood = flood(&web);
    let gets_out = || !bridge.payloads(EXPERIMENT).is_empty();
    if program::lsm_missing().is_some() {
        wait::until("frames get out", gets_out);
        daemon.go_on();
        wait::until("and are cut", || agent.drops(web.uid()) > 100);
    } else {
        // Its cgroup was there before: the LSM hook refuses it the socket.
        assert!(!wait::happens_within(Duration::from_secs(2), gets_out));
        daemon.go_on();
    }
    flood.kill().and_then(|()| flood.wait().map(drop)).expect("it runs until now");
}

fn the_plugin_comes_back_with_the_runtime() {
    let node = Node::new();
    let agent = nri(&Agent::new(&node), &node);
    // No runtime yet: the agent works without.
    let daemon = agent.daemon();
    for _ in 0..2 {
        let runtime = Listener::new(&socket(&node));
        let mut plugin = runtime.plugin();
        wait::until("it is registered", || daemon.page("/metrics").1.contains("\nisolate_nri_up 1\n"));
        let web = isolated_before_it_runs(&agent, &node);
        plugin.run_pod_sandbox(web.uid(), &web.netns().path());
        let app = web.start_container();
        let neighbour = node.pod(&Spec::default());
        Path::unseen(UDP, web.end_of(&app), neighbour.end()).assert_cut();
        agent.remove(&[web.uid()]);
        drop((plugin, runtime));
        wait::until("it notices that the runtime is gone", || {
            daemon.page("/metrics").1.contains("\nisolate_nri_up 0\n")
        });
    }
}

fn what_it_does_not_know_is_answered() {
    const UNIMPLEMENTED: u64 = 12;
    const INVALID_ARGUMENT: u64 = 3;
    let node = Node::new();
    let runtime = Listener::new(&socket(&node));
    let agent = nri(&Agent::new(&node), &node);
    let daemon = agent.daemon();
    let mut plugin = runtime.plugin();
    assert_eq!(plugin.call("CreateContainer", &[]), Err(UNIMPLEMENTED));
    assert_eq!(plugin.call("RunPodSandbox", &[0xff; 9]), Err(INVALID_ARGUMENT));
    // Pods that it does not know, names that are none, files that are none.
    for (uid, netns) in
        [("0f0e0d0c-1234-4000-8000-0123456789ab", "/run/netns/gone"), ("../../etc", "/proc/1/ns/net"), ("", "")]
    {
        plugin.run_pod_sandbox(uid, netns.as_ref());
    }
    for method in ["StopPodSandbox", "RemovePodSandbox", "Shutdown"] {
        assert_eq!(plugin.call(method, &[]), Ok(Vec::new()), "{method}");
    }
    assert!(daemon.page("/metrics").1.contains("\nisolate_nri_up 1\n"));
}
