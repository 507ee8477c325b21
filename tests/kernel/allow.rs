//! Allowed hosts: they are reached and reach, as far as it was said, and nobody else does.

mod claims;

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

use isolate_tests::{
    channel::{Channel, End, Path},
    frame::{Mark, ethernet},
    netdev,
    observe::Observer,
    packet::{IPV4, IPV6, UDP, ipv4, ipv6, udp},
    pod::{Link, Spec},
    process::Process,
    wait,
    wire::{Family, Kind},
};

use libtest_mimic::Trial;

use crate::{
    scene::{Scene, every_channel},
    suite,
};

pub(crate) fn trials() -> Vec<Trial> {
    suite::named(
        "allow",
        &[
            ("an_allowed_host_talks_and_nobody_else", an_allowed_host_talks_and_nobody_else),
            ("a_routed_pod_and_one_on_the_nodes_network", a_routed_pod_and_one_on_the_nodes_network),
            ("who_may_begin_is_kept", who_may_begin_is_kept),
            ("ports_and_protocols_are_kept", ports_and_protocols_are_kept),
            ("frames_go_to_the_node_and_nowhere_else", frames_go_to_the_node_and_nowhere_else),
            ("extension_headers_do_not_pass", extension_headers_do_not_pass),
            ("more_than_the_kernel_keeps_is_refused", more_than_the_kernel_keeps_is_refused),
            ("what_makes_no_sense_changes_nothing", what_makes_no_sense_changes_nothing),
            ("an_address_taken_after_the_cut", claims::an_address_taken_after_the_cut_is_not_answered_for),
            ("an_address_taken_before_the_cut", claims::an_address_taken_before_the_cut_is_not_answered_for),
            ("a_hardware_address_of_a_neighbour", claims::a_hardware_address_of_a_neighbour_gains_nothing),
            ("what_leaves_comes_from_the_pods_own_address", claims::what_leaves_comes_from_the_pods_own_address),
            ("a_new_sandbox_is_answered_for", claims::a_new_sandbox_is_answered_for),
        ],
    )
}

/// Both families of one end.
fn allow(end: &End<'_>) -> [String; 2] {
    [end.v4.to_string(), end.v6.to_string()]
}

fn an_allowed_host_talks_and_nobody_else() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour: friend, node } = &scene;
    let stranger = node.pod(&Spec::default());
    let _daemon = agent.daemon();
    let allowed = Path::shown(Channel::ROUTED, web.end(), friend.end());
    let frames = Path::shown(Channel::LINK, web.end(), friend.end());
    let strangers = Path::shown(every_channel(), web.end(), stranger.end());
    let itself = Path::shown(Channel::ROUTED, web.loopback(), web.loopback());
    let [v4, v6] = allow(&friend.end());

    agent.add(&[web.uid()]);
    allowed.assert_cut();
    agent.add(&[web.uid(), "--allow", &v4, "--allow", &v6]);
    assert_eq!(agent.isolation(web.uid())["allow"][0], format!("{v4}/32"));
    // Nobody knows anybody's hardware address any more.
    for pod in [web, friend] {
        netdev::ip(pod.netns(), &["neigh flush all".to_owned()]);
    }
    netdev::ip(node.netns(), &["neigh flush all".to_owned()]);
    let seen = Observer::start(stranger.netns(), "eth0");
    allowed.assert_flows();
    frames.assert_cut();
    strangers.assert_cut();
    itself.assert_cut();
    assert_eq!(seen.from(web.end().mac), 0, "frames got to a stranger");
    let exempted = agent.isolation(web.uid())["exempted"].to_string();
    assert!(exempted.contains("allow") && exempted.contains("cgroup"), "{exempted}");

    agent.add(&[web.uid()]);
    allowed.assert_cut();
    agent.remove(&[web.uid()]);
    allowed.assert_flows();
    strangers.assert_flows();
}

fn a_routed_pod_and_one_on_the_nodes_network() {
    let scene = Scene::with(&Spec { link: Link::Routed, ..Spec::default() });
    let Scene { agent, web, neighbour: friend, node } = &scene;
    let host = node.pod(&Spec { link: Link::HostNetwork, ..Spec::default() });
    let stranger = node.pod(&Spec::default());
    let _daemon = agent.daemon();
    let [v4, v6] = allow(&friend.end());
    for (pod, code) in [(web, 0), (&host, 5)] {
        let allowed = Path::shown(Channel::ORDINARY, pod.end(), friend.end());
        let cut = Path::shown(Channel::ORDINARY, pod.end(), stranger.end());
        agent.run(&["add", pod.uid(), "--allow", &v4, "--allow", &v6]).expect(code);
        allowed.assert_flows();
        cut.assert_cut();
        agent.remove(&[pod.uid()]);
    }
}

/// Whether a connection can be made, and a datagram arrives.
fn connects(from: &End<'_>, to: &End<'_>, port: u16) -> bool {
    let patience = std::time::Duration::from_millis(300);
    let listener = to.process.socket(Kind::Tcp, Family::V4, patience);
    let address = listener.bind(SocketAddr::new(to.v4.into(), port));
    from.process.socket(Kind::Tcp, Family::V4, patience).connect(address).is_ok()
}

fn arrives(from: &End<'_>, from_port: u16, to: &End<'_>, port: u16) -> bool {
    let patience = std::time::Duration::from_millis(300);
    let (receiver, mark) = (to.process.socket(Kind::Udp, Family::V4, patience), Mark::new());
    receiver.bind(SocketAddr::new(to.v4.into(), port));
    let sender = from.process.socket(Kind::Udp, Family::V4, patience);
    sender.bind(SocketAddr::new(from.v4.into(), from_port));
    sender.send_to((to.v4, port).into(), mark.bytes());
    let answer = receiver.recv();
    answer.is_ok() && mark.is_in(&answer.data)
}

fn who_may_begin_is_kept() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour: friend, .. } = &scene;
    let _daemon = agent.daemon();
    let (pod, host) = (web.end(), friend.end());
    wait::until("both reach each other", || connects(&pod, &host, 4000) && connects(&host, &pod, 4000));
    for (direction, inward) in [("in", true), ("out", false)] {
        let allowed = format!("{direction}:{}:4000", host.v4);
        agent.add(&[web.uid(), "--allow", &allowed]);
        assert_eq!(connects(&host, &pod, 4000), inward, "{direction}: the host calls");
        assert_eq!(connects(&pod, &host, 4000), !inward, "{direction}: the pod calls");
        assert!(!connects(&host, &pod, 4001) && !connects(&pod, &host, 4001), "another port");
        assert_eq!(arrives(&host, 5000, &pod, 4000), inward, "{direction}: a datagram of the host");
        assert_eq!(arrives(&pod, 5000, &host, 4000), !inward, "{direction}: a datagram of the pod");
        assert_eq!(arrives(&pod, 4000, &host, 5000), inward, "{direction}: the pod's answer");
        assert_eq!(arrives(&host, 4000, &pod, 5000), !inward, "{direction}: the host's answer");
    }
}

fn ports_and_protocols_are_kept() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour: friend, node } = &scene;
    let stranger = node.pod(&Spec::default());
    let _daemon = agent.daemon();
    let (pod, host) = (web.end(), friend.end());
    // The longest range has what the wider ones allow as well.
    let exact = format!("{}:4000/tcp", host.v4);
    agent.add(&[web.uid(), "--allow", "10.88.0.0/16:4001/udp", "--allow", &exact]);
    wait::until("the exact range", || connects(&host, &pod, 4000));
    assert!(arrives(&host, 5000, &pod, 4001), "the wider range");
    assert!(!connects(&host, &pod, 4001) && !arrives(&host, 5000, &pod, 4000), "the other protocol");
    assert!(arrives(&stranger.end(), 5000, &pod, 4001), "the wider range alone");
    assert!(!connects(&stranger.end(), &pod, 4000), "the exact range is another's");
}

/// The pod writes an allowed address into a frame and a stranger's hardware address before it.
fn frames_go_to_the_node_and_nowhere_else() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour: friend, node } = &scene;
    let stranger = node.pod(&Spec::default());
    let visitor = scene.visitor();
    let _daemon = agent.daemon();
    let (pod, host) = (web.end(), friend.end());
    let send = |process: &Process, from_mac, to_mac, mark: &Mark| {
        let datagram = ipv4(pod.v4, host.v4, UDP, &udp(4000, 4000, mark.bytes()));
        process.packet("eth0", wait::DEADLINE).send(&ethernet(to_mac, from_mac, IPV4, &datagram));
    };
    let (at_stranger, at_host) = (Observer::start(stranger.netns(), "eth0"), Observer::start(friend.netns(), "eth0"));
    let (before, during, spoofed) = (Mark::new(), Mark::new(), Mark::new());
    send(&visitor, pod.mac, stranger.end().mac, &before);
    wait::until("a stranger gets it from a healthy pod", || at_stranger.marked(&before) > 0);

    agent.add(&[web.uid(), "--allow", &host.v4.to_string()]);
    send(&visitor, stranger.end().mac, host.mac, &spoofed);
    send(&visitor, pod.mac, stranger.end().mac, &during);
    wait::until("the node hands it to whom it is for", || at_host.marked(&during) > 0);
    assert!(at_stranger.marked(&during) == 0, "a stranger got it");
    assert!(at_host.marked(&spoofed) == 0, "it came with a stranger's hardware address");
}

/// A header that a router or the host itself acts on, in front of what is allowed.
fn extension_headers_do_not_pass() {
    const DESTINATION_OPTIONS: u8 = 60;
    const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];
    let scene = Scene::new();
    let Scene { agent, web, neighbour: friend, .. } = &scene;
    let _daemon = agent.daemon();
    let (pod, host) = (web.end(), friend.end());
    let visitor = scene.visitor();
    let at_host = Observer::start(friend.netns(), "eth0");
    let send = |extended: bool, mark: &Mark| {
        let datagram = udp(4000, 4000, mark.bytes());
        let packet = if extended {
            let body = [&[UDP, 0][..], &PADDING, &datagram].concat();
            ipv6(pod.v6, host.v6, DESTINATION_OPTIONS, &body)
        } else {
            ipv6(pod.v6, host.v6, UDP, &datagram)
        };
        visitor.packet("eth0", wait::DEADLINE).send(&ethernet(host.mac, pod.mac, IPV6, &packet));
    };
    let (before, plain, extended) = (Mark::new(), Mark::new(), Mark::new());
    send(true, &before);
    wait::until("it passes from a healthy pod", || at_host.marked(&before) > 0);
    agent.add(&[web.uid(), "--allow", &host.v6.to_string()]);
    send(true, &extended);
    send(false, &plain);
    wait::until("the datagram passes without it", || at_host.marked(&plain) > 0);
    assert!(at_host.marked(&extended) == 0, "an extension header passed");
}

/// 64 ranges each of more pods than the map of all has room for, in one request.
fn more_than_the_kernel_keeps_is_refused() {
    const FIT: usize = 65_536 / 64;
    let scene = Scene::new();
    let Scene { agent, node, .. } = &scene;
    let uids: Vec<String> = (0..=FIT).map(|number| format!("7a000000-0000-4000-8000-{number:012x}")).collect();
    for uid in &uids {
        let folder = node.cgroup().join("kubepods/burstable").join(format!("pod{uid}"));
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    }
    let hosts: Vec<String> = (0..64).map(|number| format!("198.51.100.{number}")).collect();
    let options = hosts.iter().flat_map(|host| ["--allow", host]);
    let arguments: Vec<&str> = ["add"].into_iter().chain(uids.iter().map(String::as_str)).chain(options).collect();
    let output = agent.run(&arguments).expect(4);
    assert!(output.stderr.contains("65536 allowed addresses of all pods together"), "{}", output.stderr);
    assert_eq!(agent.isolated().len(), FIT, "the others are isolated");
    // Without what is refused it is isolated like the others, of which no process runs either.
    agent.run(&["add", &uids[FIT]]).expect(5);
    agent.run(&["remove", "--all"]).expect(0);
    assert!(agent.isolated().is_empty());
}

fn what_makes_no_sense_changes_nothing() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let _daemon = agent.daemon();
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    for (allowed, said) in [
        ("10.0.0.1/8", "10.0.0.0/8"),
        ("10.0.0.1:65536", "from 1 to 65535"),
        ("10.0.0.1:22/sctp", "tcp or udp"),
        ("web-0", "CIDR"),
    ] {
        let output = agent.run(&["add", web.uid(), "--allow", allowed]).expect(2);
        assert!(output.stderr.contains(said), "{allowed}: {}", output.text());
    }
    let many: Vec<String> = (0..10_000_u32).map(|n| IpAddr::from(n.to_be_bytes()).to_string()).collect();
    let mut arguments = vec!["add", web.uid()];
    for address in &many {
        arguments.extend(["--allow", address]);
    }
    let output = agent.run(&arguments).expect(2);
    assert!(output.stderr.contains("10000 allowed addresses, at most 64"), "{}", output.text());
    path.assert_flows();
    assert!(agent.isolated().is_empty());
}
