//! kubelet's probes: they pass to the ports that they call, and a pod that rides on them gets nothing beyond their budget.

pub(crate) mod kubelet;
mod riding;

use std::{net::SocketAddr, time::Duration};

use isolate_tests::{
    channel::{End, Path},
    netdev,
    observe::Observer,
    pod::{Link, Spec},
    process::{Process, Socket},
    wait,
    wire::{Family, Kind},
};
use libtest_mimic::Trial;

use crate::{
    scene::{Scene, every_channel},
    suite,
};

/// How long a call waits for what is expected not to come.
const BRIEF: Duration = Duration::from_millis(300);

pub(crate) fn trials() -> Vec<Trial> {
    suite::named(
        "probes",
        &[
            ("they_pass_and_nothing_else_does", they_pass_and_nothing_else_does),
            ("a_routed_pod_is_probed", a_routed_pod_is_probed),
            ("what_cannot_be_told_apart_is_refused", what_cannot_be_told_apart_is_refused),
            ("kubelet_is_found_and_found_again", kubelet::it_is_found_and_found_again),
            ("a_held_connection_has_a_budget", riding::a_held_connection_has_a_budget),
            ("many_answers_have_one_budget", riding::many_answers_have_one_budget),
            ("a_second_listener_gains_nothing", riding::a_second_listener_gains_nothing),
            ("what_is_no_answer_does_not_leave", riding::what_is_no_answer_does_not_leave),
            ("nobody_else_opens_a_connection", riding::nobody_else_opens_a_connection),
        ],
    )
}

/// A pod that listens on its probe port, and kubelet.
struct Probed<'k, 'a> {
    kubelet: &'k Process,
    pod: End<'a>,
    port: u16,
    listener: Socket<'a>,
    family: Family,
}

impl<'k, 'a> Probed<'k, 'a> {
    fn new(kubelet: &'k Process, pod: End<'a>, family: Family) -> Self {
        let listener = pod.process.socket(Kind::Tcp, family, BRIEF);
        let port = listener.bind(SocketAddr::new(ip(&pod, family), 0)).port();
        Self { kubelet, pod, port, listener, family }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(ip(&self.pod, self.family), self.port)
    }

    /// kubelet's end of a connection and the pod's, if it comes to one.
    fn connection(&self) -> Option<(Socket<'k>, Socket<'a>)> {
        self.connection_of(self.kubelet)
    }

    fn connection_of<'c>(&self, caller: &'c Process) -> Option<(Socket<'c>, Socket<'a>)> {
        let client = caller.socket(Kind::Tcp, self.family, BRIEF);
        if !client.connect(self.address()).is_ok() {
            return None;
        }
        Some((client, self.listener.accept().ok()?))
    }

    /// Whether a request and its answer come through.
    fn answers(&self) -> bool {
        let Some((client, server)) = self.connection() else { return false };
        client.send(b"GET /healthz HTTP/1.1\r\n\r\n");
        let asked = server.recv().data.starts_with(b"GET /healthz");
        server.send(b"HTTP/1.1 200 OK\r\n\r\nok");
        asked && client.recv().data.ends_with(b"ok")
    }
}

fn ip(end: &End<'_>, family: Family) -> std::net::IpAddr {
    match family {
        Family::V4 => end.v4.into(),
        Family::V6 => end.v6.into(),
    }
}

fn they_pass_and_nothing_else_does() {
    let scene = Scene::new();
    let kubelet = kubelet::process(&scene.node);
    let Scene { web, neighbour, node, .. } = &scene;
    let agent = kubelet::agent(&scene);
    let stranger = node.process();
    let _daemon = agent.daemon();
    let probed = [Family::V4, Family::V6].map(|family| Probed::new(&kubelet, web.end(), family));
    let paths = [neighbour.end(), node.end(&stranger), node.end(&kubelet)]
        .map(|peer| Path::shown(every_channel(), web.end(), peer));
    let seen = Observer::start(neighbour.netns(), "eth0");
    agent.add(&[web.uid()]);
    assert!(probed.iter().all(|probed| !probed.answers()), "without the option");

    let ports: Vec<String> = probed.iter().map(|probed| probed.port.to_string()).collect();
    agent.add(&[web.uid(), "--keep-probes", "--probe-port", &ports[0], "--probe-port", &ports[1]]);
    // Neither side knows the other's hardware address.
    for netns in [web.netns(), node.netns()] {
        netdev::ip(netns, &["neigh flush all".to_owned()]);
    }
    Observer::begin([&seen]);
    for probed in &probed {
        wait::until("kubelet's probe comes through", || probed.answers());
    }
    // Ports that are chosen by the kernel are others than the probes'.
    paths.iter().for_each(Path::assert_cut);
    assert!(probed.iter().all(Probed::answers), "and still does");
    for caller in [&stranger, neighbour.app()] {
        assert!(probed.iter().all(|probed| probed.connection_of(caller).is_none()), "another one calls the probe port");
    }
    assert_eq!(seen.from(web.end().mac), 0, "frames got to a neighbour");
    let exempted = agent.isolation(web.uid())["exempted"].to_string();
    assert!(exempted.contains("probe") && exempted.contains("veth") && exempted.contains("cgroup"), "{exempted}");

    agent.add(&[web.uid()]);
    assert!(probed.iter().all(|probed| !probed.answers()), "the option is gone");
    agent.remove(&[web.uid()]);
    paths.iter().for_each(Path::assert_flows);
}

fn a_routed_pod_is_probed() {
    let scene = Scene::with(&Spec { link: Link::Routed, ..Spec::default() });
    let kubelet = kubelet::process(&scene.node);
    let Scene { web, neighbour, node, .. } = &scene;
    let agent = kubelet::agent(&scene);
    let _daemon = agent.daemon();
    let path = Path::shown(isolate_tests::channel::Channel::ROUTED, web.end(), neighbour.end());
    for family in [Family::V4, Family::V6] {
        let probed = Probed::new(&kubelet, web.end(), family);
        agent.add(&[web.uid(), "--preserve", "--probe-port", &probed.port.to_string()]);
        netdev::ip(node.netns(), &["neigh flush all".to_owned()]);
        wait::until("kubelet's probe comes through", || probed.answers());
        path.assert_cut();
    }
    assert_eq!(agent.isolation(web.uid())["keep_loopback"], true);
}

fn what_cannot_be_told_apart_is_refused() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let _daemon = agent.daemon();
    let path = Path::shown(isolate_tests::channel::Channel::ORDINARY, web.end(), neighbour.end());
    let host = node.pod(&Spec { link: Link::HostNetwork, ..Spec::default() });
    let macvlan = node.pod(&Spec { link: Link::Macvlan, ..Spec::default() });
    for (uid, arguments, said) in [
        (web.uid(), &["--keep-probes", "--probe-port", "80"][..], "--kubelet-cgroup"),
        (web.uid(), &["--keep-probes"], "--probe-port"),
        (host.uid(), &["--keep-probes", "--probe-port", "80"], "the node's network"),
        (macvlan.uid(), &["--keep-probes", "--probe-port", "80"], "no"),
        (macvlan.uid(), &["--allow", "192.0.2.1"], "none of its interfaces has an end on the node"),
    ] {
        let output = agent.run(&[&["add", uid, "--force"], arguments].concat()).expect(4);
        assert!(output.stderr.contains(said), "{arguments:?}: {}", output.text());
    }
    for arguments in [&["--probe-port", "80"][..], &["--keep-probes", "--probe-port", "0"]] {
        agent.run(&[&["add", web.uid()], arguments].concat()).expect(2);
    }
    path.assert_flows();
    assert!(agent.isolated().is_empty());
}
