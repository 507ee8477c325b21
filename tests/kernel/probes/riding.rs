//! What an attacker in the pod makes of kubelet's probes: each attempt first on a pod that nobody isolates.

use std::net::SocketAddr;

use isolate_tests::{
    frame::{Mac, Mark, ethernet},
    observe::Observer,
    packet::{IPV4, UDP, ipv4, ipv4_with, udp},
    pod::Spec,
    process::{Process, Socket},
    wait,
    wire::{Family, Kind, Raw, Request},
};

use super::{BRIEF, Probed, kubelet};
use crate::scene::Scene;

/// The budget of a connection out of the pod, as the documentation has it.
const CONNECTION: usize = 24 << 10;
/// That of all of a pod's connections in ten seconds.
const WINDOW: usize = 128 << 10;
/// What an attacker tries to get out.
const MUCH: usize = 1 << 20;

/// Writes as much as the socket takes; returns how much arrives at the other side.
fn pour(from: &Socket<'_>, to: &Socket<'_>, bytes: usize) -> usize {
    let (chunk, mut arrived, mut sent) = (vec![b'x'; 16 << 10], 0, 0);
    while arrived < bytes {
        if sent < bytes {
            let answer = from.send(&chunk);
            sent += usize::try_from(answer.value).unwrap_or(0);
        }
        match to.recv() {
            answer if answer.is_ok() && !answer.data.is_empty() => arrived += answer.data.len(),
            _ => break,
        }
    }
    arrived
}

pub(super) fn a_held_connection_has_a_budget() {
    let scene = Scene::new();
    let kubelet = kubelet::process(&scene.node);
    let agent = kubelet::agent(&scene);
    let web = &scene.web;
    let _daemon = agent.daemon();
    let probed = Probed::new(&kubelet, web.end(), Family::V4);
    let (client, server) = probed.connection().expect("nobody isolates it");
    assert!(pour(&server, &client, MUCH) >= MUCH, "a healthy pod sends what it likes");

    agent.add(&[web.uid(), "--keep-probes", "--probe-port", &probed.port.to_string()]);
    assert_eq!(pour(&server, &client, MUCH), 0, "a connection from before the cut");
    wait::until("kubelet's probe comes through", || probed.answers());
    let (client, server) = probed.connection().expect("kubelet calls");
    let passed = pour(&server, &client, MUCH);
    assert!(passed > 10 << 10, "{passed} bytes are no 10 KiB of a body");
    assert!(passed <= CONNECTION, "{passed} bytes");
    // Held open, it gives no more.
    assert_eq!(pour(&server, &client, MUCH), 0);
    wait::until("the next probe comes through", || probed.answers());
}

pub(super) fn many_answers_have_one_budget() {
    /// Each answer is within its connection's budget, all of them are ten times the pod's.
    const ANSWER: usize = 16 << 10;
    const PROBES: usize = 80;
    let scene = Scene::new();
    let kubelet = kubelet::process(&scene.node);
    let agent = kubelet::agent(&scene);
    let web = &scene.web;
    let _daemon = agent.daemon();
    let probed = Probed::new(&kubelet, web.end(), Family::V4);
    let answer = || probed.connection().map_or(0, |(client, server)| pour(&server, &client, ANSWER));
    assert!((0..PROBES).map(|_| answer()).sum::<usize>() >= PROBES * ANSWER, "a healthy pod answers all");
    agent.add(&[web.uid(), "--keep-probes", "--probe-port", &probed.port.to_string()]);
    let began = std::time::Instant::now();
    let passed: usize = (0..PROBES).map(|_| answer()).sum();
    let windows = usize::try_from(began.elapsed().as_secs() / 10).expect("a few") + 2;
    assert!(passed > WINDOW / 2, "{passed} bytes: too few for honest probes");
    assert!(passed <= windows * WINDOW, "{passed} bytes in {windows} windows at most");
}

pub(super) fn a_second_listener_gains_nothing() {
    let scene = Scene::new();
    let kubelet = kubelet::process(&scene.node);
    let agent = kubelet::agent(&scene);
    let web = &scene.web;
    let _daemon = agent.daemon();
    let probed = Probed::new(&kubelet, web.end(), Family::V4);
    // On another port, in another container; one that kubelet calls by mistake as well.
    let attacker = web.attacker(&[]);
    let second = Probed::new(&kubelet, web.end_of(&attacker), Family::V4);
    assert!(second.answers() && probed.answers());
    agent.add(&[web.uid(), "--keep-probes", "--probe-port", &probed.port.to_string()]);
    wait::until("kubelet's probe comes through", || probed.answers());
    assert!(!second.answers(), "a port that no probe calls");
    // The attacker shares a port that is probed: now and then a probe is its own.
    let share = |process: &Process, socket: &Socket<'_>, port| {
        let (level, name, value) = (libc::SOL_SOCKET, libc::SO_REUSEPORT, 1_i32.to_ne_bytes().to_vec());
        let set = process.call(&Request::Raw(Raw::Set { socket: socket.handle(), level, name, value }));
        assert!(set.is_ok(), "{}", set.errno_name());
        socket.bind(SocketAddr::new(web.end().v4.into(), port)).port()
    };
    let (own, foreign) =
        (web.app().socket(Kind::Tcp, Family::V4, BRIEF), attacker.socket(Kind::Tcp, Family::V4, BRIEF));
    let port = share(web.app(), &own, 0);
    assert_eq!(share(&attacker, &foreign, port), port);
    agent.add(&[web.uid(), "--keep-probes", "--probe-port", &port.to_string()]);
    let address = SocketAddr::new(web.end().v4.into(), port);
    wait::until("a probe gets to the attacker", || {
        let client = kubelet.socket(Kind::Tcp, Family::V4, BRIEF);
        client.connect(address).is_ok()
            && foreign.accept().is_ok_and(|server| {
                let passed = pour(&server, &client, MUCH);
                assert!(passed <= CONNECTION, "{passed} bytes");
                passed > 0
            })
    });
}

/// A TCP segment without options; its checksum is nobody's business.
fn segment(from: u16, to: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let head =
        [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]];
    [&head.concat(), payload].concat()
}

const ACK: u8 = 0x10;
const SYN: u8 = 0x02;
const URG: u8 = 0x20;
const TCP: u8 = 6;

/// Makes a frame with a mark, for the port of kubelet's that is open.
type Build<'b> = Box<dyn Fn(u16, &Mark) -> Vec<u8> + 'b>;

/// Frames by hand, while kubelet holds a connection open.
#[expect(clippy::too_many_lines, reason = "a list of attempts")]
pub(super) fn what_is_no_answer_does_not_leave() {
    let scene = Scene::new();
    let kubelet = kubelet::process(&scene.node);
    let agent = kubelet::agent(&scene);
    let (web, neighbour, node) = (&scene.web, &scene.neighbour, &scene.node);
    let _daemon = agent.daemon();
    let probed = Probed::new(&kubelet, web.end(), Family::V4);
    let (pod, host, other) = (web.end(), node.end(&kubelet), neighbour.end());
    let attacker = scene.visitor();
    let wire = attacker.packet("eth0", BRIEF);
    let outside = [Observer::start(node.netns(), "cni0"), Observer::start(neighbour.netns(), "eth0")];
    let arrives = |frame: &[u8], mark: &Mark, patience| {
        wire.send(frame);
        let seen = || outside.iter().any(|observer| observer.marked(mark) > 0);
        wait::happens_within(patience, seen)
    };
    // What is sent, by the port of kubelet's that is open: to whom, from whom, and the packet.
    let (port, with) = (probed.port, |mark: &Mark| mark.bytes().to_vec());
    let frame = |to: Mac, packet: Vec<u8>| ethernet(to, pod.mac, IPV4, &packet);
    let answer = |open: u16, mark: &Mark| ipv4(pod.v4, host.v4, TCP, &segment(port, open, ACK, &with(mark)));
    let attempts: Vec<(&str, Build<'_>)> = vec![
        ("a port of kubelet's that is closed", Box::new(|open, mark| frame(host.mac, answer(open ^ 1, mark)))),
        (
            "another port of the pod's",
            Box::new(|open, mark| {
                frame(host.mac, ipv4(pod.v4, host.v4, TCP, &segment(port ^ 1, open, ACK, &with(mark))))
            }),
        ),
        (
            "another's address",
            Box::new(|open, mark| {
                frame(host.mac, ipv4(other.v4, host.v4, TCP, &segment(port, open, ACK, &with(mark))))
            }),
        ),
        (
            "to another address",
            Box::new(|open, mark| {
                frame(other.mac, ipv4(pod.v4, other.v4, TCP, &segment(port, open, ACK, &with(mark))))
            }),
        ),
        (
            "a datagram",
            Box::new(|open, mark| frame(host.mac, ipv4(pod.v4, host.v4, UDP, &udp(port, open, &with(mark))))),
        ),
        (
            "data with a SYN",
            Box::new(|open, mark| {
                frame(host.mac, ipv4(pod.v4, host.v4, TCP, &segment(port, open, SYN | ACK, &with(mark))))
            }),
        ),
        (
            "urgent data",
            Box::new(|open, mark| {
                frame(host.mac, ipv4(pod.v4, host.v4, TCP, &segment(port, open, ACK | URG, &with(mark))))
            }),
        ),
        (
            "IP options",
            Box::new(|open, mark| {
                let options = [1, 1, 1, 0];
                frame(host.mac, ipv4_with(pod.v4, host.v4, TCP, 0, &options, &segment(port, open, ACK, &with(mark))))
            }),
        ),
        (
            "a fragment",
            Box::new(|open, mark| {
                frame(host.mac, ipv4_with(pod.v4, host.v4, TCP, 0x2000, &[], &segment(port, open, ACK, &with(mark))))
            }),
        ),
        (
            "a VLAN",
            Box::new(|open, mark| {
                let tagged = [&[0, 7][..], &IPV4.to_be_bytes(), &answer(open, mark)].concat();
                ethernet(host.mac, pod.mac, 0x8100, &tagged)
            }),
        ),
        ("another ethertype", Box::new(|open, mark| ethernet(host.mac, pod.mac, 0x88b5, &answer(open, mark)))),
        ("another's hardware address", Box::new(|open, mark| ethernet(host.mac, other.mac, IPV4, &answer(open, mark)))),
    ];
    // The connection is kubelet's; how its port is called, the pod can see.
    let held = || {
        let (client, server) = probed.connection().expect("kubelet calls");
        (kubelet_port(web, port), client, server)
    };
    let healthy = held();
    for (name, build) in &attempts {
        let mark = Mark::new();
        assert!(arrives(&build(healthy.0, &mark), &mark, wait::DEADLINE), "a healthy pod sends {name}");
    }
    drop(healthy);
    agent.add(&[web.uid(), "--keep-probes", "--probe-port", &port.to_string()]);
    wait::until("kubelet's probe comes through", || probed.answers());
    let (open, client, _server) = held();
    for (name, build) in &attempts {
        let mark = Mark::new();
        assert!(!arrives(&build(open, &mark), &mark, BRIEF), "{name} got out");
    }
    let mark = Mark::new();
    assert!(
        arrives(&frame(host.mac, answer(open, &mark)), &mark, wait::DEADLINE),
        "an answer leaves: the frames are built right"
    );
    let mark = Mark::new();
    wire.send(&frame(other.mac, answer(open, &mark)));
    wait::until("one to a neighbour's hardware address goes to the node", || outside[0].marked(&mark) > 0);
    assert_eq!(outside[1].marked(&mark), 0, "a neighbour got it");
    // Where kubelet has gone, its kernel says so; after that nothing leaves.
    drop(client);
    let mark = Mark::new();
    wire.send(&frame(host.mac, answer(open, &mark)));
    wait::until("the connection is over", || {
        let mark = Mark::new();
        !arrives(&frame(host.mac, answer(open, &mark)), &mark, BRIEF)
    });
}

/// The port of whoever is connected to the pod's `port` last.
fn kubelet_port(web: &isolate_tests::pod::Pod, port: u16) -> u16 {
    let table = web.netns().enter(|| std::fs::read_to_string("/proc/thread-self/net/tcp")).expect("procfs is there");
    let local = format!(":{port:04X}");
    let open = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (own, peer, state) = (fields.next()?, fields.next()?, fields.next()?);
        (own.ends_with(&local) && state == "01").then(|| u16::from_str_radix(peer.rsplit(':').next()?, 16).ok())?
    });
    open.last().expect("a connection is open")
}

/// On the node, in another cgroup; beside it, with kubelet's address.
pub(super) fn nobody_else_opens_a_connection() {
    let scene = Scene::new();
    let kubelet = kubelet::process(&scene.node);
    let agent = kubelet::agent(&scene);
    let (web, neighbour, node) = (&scene.web, &scene.neighbour, &scene.node);
    let _daemon = agent.daemon();
    let probed = Probed::new(&kubelet, web.end(), Family::V4);
    let (stranger, accomplice) = (node.process(), node.pod(&Spec::default()));
    let inside = Observer::start(web.netns(), "eth0");
    let (pod, host) = (web.end(), node.end(&kubelet));
    let spoof = |mark: &Mark| {
        let call = segment(40_000, probed.port, SYN, mark.bytes());
        let frame = ethernet(pod.mac, neighbour.end().mac, IPV4, &ipv4(host.v4, pod.v4, TCP, &call));
        neighbour.app().packet("eth0", BRIEF).send(&frame);
        wait::happens_within(BRIEF, || inside.marked(mark) > 0)
    };
    let callers = [&stranger, neighbour.app(), accomplice.app()];
    assert!(callers.iter().all(|caller| probed.connection_of(caller).is_some()), "a healthy pod is open to all");
    assert!(spoof(&Mark::new()), "and to whoever says that it is the node");
    agent.add(&[web.uid(), "--keep-probes", "--probe-port", &probed.port.to_string()]);
    wait::until("kubelet's probe comes through", || probed.answers());
    assert!(callers.iter().all(|caller| probed.connection_of(caller).is_none()));
    assert!(!spoof(&Mark::new()));
    // The pod may not call either, from the port that is probed.
    let own = web.app().socket(Kind::Tcp, Family::V4, BRIEF);
    let listener = stranger.socket(Kind::Tcp, Family::V4, BRIEF);
    let address = listener.bind((host.v4, 0).into());
    assert!(!own.connect(address).is_ok());
}
