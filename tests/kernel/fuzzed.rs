//! Random and mutated frames through the loaded programs (`BPF_PROG_TEST_RUN`): an isolated pod's are dropped, whatever they hold,
//! a healthy one's are nobody's business, and what an exemption lets through is what the pure functions say.
//!
//! `ISOLATE_SEED=N` runs them on the frames of that seed; each names the seeds that it has in what it prints.

mod oracle;

use std::{
    env, fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use isolate_common::{Direction, Hook, names};
use isolate_tests::{
    agent::Agent,
    channel::End,
    fuzz::{Actors, Dice, Frames, REFUSED, Step},
    netdev,
    node::Node,
    pod::{Link, Pod, Spec},
    process::{self, Process},
    program,
    wire::{Raw, Request},
};

use self::oracle::Oracle;
use crate::{probes::kubelet, scene::Scene, suite::trials};

trials![
    an_isolated_pods_frames_are_dropped,
    a_healthy_pods_frames_are_left_alone,
    exemptions_are_what_the_functions_say
];

/// Frames for each set of programs.
const FRAMES: usize = 100_000;
/// Frames in one call.
const BATCH: usize = 5_000;

/// `TC_ACT_UNSPEC`, `TC_ACT_SHOT`, `TC_ACT_REDIRECT` in one byte; what a `cgroup_skb` and an XDP program drop and let pass by.
pub(crate) const NEXT: u8 = 0xff;
pub(crate) const SHOT: u8 = 2;
pub(crate) const REDIRECT: u8 = 7;
pub(crate) const CGROUP_DROP: u8 = 0;
pub(crate) const XDP_DROP: u8 = 1;
pub(crate) const XDP_PASS: u8 = 2;
pub(crate) const CGROUP_PASS: u8 = 1;

/// Port of the pod that kubelet probes.
const PROBED: u16 = 8080;
/// A port of the peers that no exemption is about.
const CALLER: u16 = 20_000;
/// What the exempted pod may talk to; the addresses are those of [`peers`].
const ALLOWED: [&str; 8] = [
    "10.99.0.0/16:53/udp",
    "10.99.1.0/24",
    "in:10.99.1.7:443/tcp",
    "out:10.99.2.2",
    "fd99::/32",
    "in:[fd99:1::/48]:8443",
    "out:[fd99:2::1]:53",
    "10.99.3.3:22/tcp",
];

/// One of the programs.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pin: PathBuf,
    pub(crate) hook: Hook,
    pub(crate) direction: Direction,
    pub(crate) is_xdp: bool,
}

impl Loaded {
    const fn drops(&self) -> u8 {
        match self.hook {
            Hook::Cgroup => CGROUP_DROP,
            _ if self.is_xdp => XDP_DROP,
            _ => SHOT,
        }
    }
}

/// Of the seed that is asked for, or of a new one; says which, for the frames that a failure shows can be had again by it alone.
fn dice() -> Dice {
    let given = env::var("ISOLATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
    let seed: u64 = given.unwrap_or_else(|| now.into());
    eprintln!("ISOLATE_SEED={seed}");
    Dice::new(seed)
}

fn pins(node: &Node) -> PathBuf {
    node.folder().join("bpf/isolate-agent").join(format!("v{}", isolate_common::LAYOUT_VERSION))
}

/// The programs that all pods share.
fn shared(node: &Node) -> [Loaded; 4] {
    [
        (names::VETH_IN, Hook::Veth, Direction::In),
        (names::VETH_OUT, Hook::Veth, Direction::Out),
        (names::CGROUP_IN, Hook::Cgroup, Direction::In),
        (names::CGROUP_OUT, Hook::Cgroup, Direction::Out),
    ]
    .map(|(name, hook, direction)| Loaded {
        pin: pins(node).join("programs").join(name),
        hook,
        direction,
        is_xdp: false,
    })
}

/// Those inside one isolated pod, which are its own: the only pod of the node that is isolated.
fn own(node: &Node) -> Vec<Loaded> {
    let mut own = Vec::new();
    for folder in ["links", "filters"] {
        for pin in fs::read_dir(pins(node).join(folder)).into_iter().flatten().flatten() {
            let name = pin.file_name().to_string_lossy().into_owned();
            let direction = if name.ends_with("-in") { Direction::In } else { Direction::Out };
            let is_xdp = name.starts_with("xdp-");
            if is_xdp || name.starts_with("netdev-") {
                own.push(Loaded { pin: pin.path(), hook: Hook::Netdev, direction, is_xdp });
            }
        }
    }
    assert!(own.len() == 2, "two programs are attached inside the pod, and not {own:?}");
    own
}

/// Addresses that some rule names, and some that none does.
fn peers() -> Vec<std::net::IpAddr> {
    [
        "10.99.0.1",
        "10.99.1.7",
        "10.99.1.8",
        "10.99.2.2",
        "10.99.3.3",
        "10.98.0.1",
        "fd99:1::5",
        "fd99:2::1",
        "fd99:3::1",
        "fd98::1",
    ]
    .map(|address| address.parse().expect("an address"))
    .to_vec()
}

/// The shortest and the longest frame that the kernel runs a program on.
fn lengths(node: &Node, program: &Path) -> [usize; 2] {
    const JUMBO: usize = 9018;
    let program = program::open_pin(program).expect("the agent has pinned it");
    let taken =
        |length: usize| node.netns().enter(|| program::test_run(program.as_fd(), &vec![0x45; length], 1, 1)).is_ok();
    let least = (1..64).find(|length| taken(*length)).expect("it runs on a short frame");
    let most = (least..=JUMBO).rev().find(|length| taken(*length)).expect("it runs on a long frame");
    eprintln!("frames of {least} to {most} bytes");
    [least, most]
}

fn actors(node: &Node, pod: &End<'_>, lengths: [usize; 2]) -> Actors {
    let bridge = netdev::mac(node.netns(), "cni0");
    Actors {
        macs: [pod.mac.0, bridge.0],
        own: [pod.v4.into(), pod.v6.into()],
        peers: peers(),
        own_ports: vec![PROBED, 22, 53, 443, 8443, 9],
        peer_ports: vec![22, 53, 443, 40_000, 40_001],
        lengths,
    }
}

/// A process with everything that root may do, in the namespace and the cgroup of a container of the pod.
fn inside(pod: &Pod) -> Process {
    Process::run(pod.privileged(process::program()))
}

fn run(process: &Process, programs: &[Loaded], ifindex: u32, seed: u64, actors: &Actors) -> Vec<u8> {
    let programs = programs.iter().map(|program| program.pin.clone()).collect();
    let fuzz = Raw::Fuzz { programs, ifindex, seed, actors: actors.clone(), frames: BATCH };
    let answer = process.call(&Request::Raw(fuzz));
    assert!(answer.is_ok(), "frames of {seed}: {}", answer.errno_name());
    assert_eq!(answer.data.len(), BATCH);
    answer.data
}

/// Runs the programs on frames of many seeds; each must say what `expected` does.
fn assert_constant(
    process: &Process,
    programs: &[Loaded],
    ifindex: u32,
    actors: &Actors,
    expected: impl Fn(&Loaded) -> u8,
) {
    let (mut dice, mut checked) = (dice(), 0);
    while checked < FRAMES * programs.len() {
        let seed = dice.roll();
        let verdicts = run(process, programs, ifindex, seed, actors);
        let mut frames = Frames::new(seed, actors.clone());
        for verdict in verdicts {
            let step = frames.step(programs.len());
            let program = &programs[step.program];
            if is_refused(verdict, &step) {
                continue;
            }
            checked += 1;
            assert_eq!(verdict, expected(program), "frames of {seed}, {program:?}: {:02x?}", step.frame);
        }
    }
}

/// The kernel runs no program on an IP packet that has no room for its header (`bpf_prog_test_run_skb`, `net/bpf/test_run.c`).
fn is_refused(verdict: u8, step: &Step) -> bool {
    let header = match step.frame.get(12..14) {
        Some([0x08, 0x00]) => 20,
        Some([0x86, 0xdd]) => 40,
        _ => 0,
    };
    let refused = verdict == REFUSED;
    assert!(!refused || step.frame.len() < 14 + header, "the kernel refuses {:02x?}", step.frame);
    refused
}

fn an_isolated_pods_frames_are_dropped() {
    let scene = Scene::new();
    let Scene { agent, web, node, .. } = &scene;
    let host = node.process();
    agent.add(&[web.uid()]);
    let shared = shared(node);
    let actors = actors(node, &web.end(), lengths(node, &shared[0].pin));
    let ifindex = netdev::index(node.netns(), &web.host_veths()[0]);
    assert_constant(&host, &shared[..2], ifindex, &actors, Loaded::drops);
    let inside_ = inside(web);
    let programs: Vec<Loaded> = own(node).into_iter().chain(shared[2..].iter().cloned()).collect();
    let eth0 = netdev::index(web.netns(), "eth0");
    assert_constant(&inside_, &programs, eth0, &actors, Loaded::drops);
    agent.remove(&[web.uid()]);
    if netdev::missing("macvlan").is_none() {
        // Without a host end the hook inside has a program for what goes out as well.
        let macvlan = node.pod(&Spec { link: Link::Macvlan, ..Spec::default() });
        agent.run(&["add", macvlan.uid()]).expect(5);
        let own = own(node);
        assert!(own.iter().all(|program| !program.is_xdp), "{own:?}");
        assert_constant(&inside(&macvlan), &own, netdev::index(macvlan.netns(), "eth0"), &actors, Loaded::drops);
    }
}

/// The gate shut, and open for others.
fn a_healthy_pods_frames_are_left_alone() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let host = node.process();
    agent.run(&["status"]).expect(0);
    let shared = shared(node);
    let actors = actors(node, &web.end(), lengths(node, &shared[0].pin));
    let ifindex = netdev::index(node.netns(), &neighbour.host_veths()[0]);
    assert_constant(&host, &shared[..2], ifindex, &actors, |_| NEXT);
    agent.add(&[web.uid(), "--allow", "10.99.0.0/16"]);
    assert_constant(&host, &shared[..2], ifindex, &actors, |_| NEXT);
    // The programs at the sockets are attached to isolated pods alone, and take whom they do not know for one.
    assert_constant(&inside(neighbour), &shared[2..], ifindex_inside(neighbour), &actors, Loaded::drops);
    agent.remove(&[web.uid()]);
    // What of an isolated pod is let pass by without a look: its loopback, if it keeps it.
    agent.add(&[web.uid(), "--keep-loopback"]);
    assert_constant(&inside(web), &shared[2..], 1, &actors, |_| CGROUP_PASS);
}

fn ifindex_inside(pod: &Pod) -> u32 {
    netdev::index(pod.netns(), "eth0")
}

fn exemptions_are_what_the_functions_say() {
    let scene = Scene::new();
    let Scene { web, node, .. } = &scene;
    let agent: Agent = kubelet::agent(&scene);
    let (kubelet, stranger) = (kubelet::process(node), node.process());
    let _daemon = agent.daemon();
    let port = PROBED.to_string();
    let mut arguments = vec![web.uid(), "--keep-probes", "--probe-port", &port];
    arguments.extend(ALLOWED.iter().flat_map(|allowed| ["--allow", allowed]));
    agent.add(&arguments);
    let inside = inside(web);
    let shared = shared(node);
    let mut actors = actors(node, &web.end(), lengths(node, &shared[0].pin));
    actors.peer_ports = vec![22, 53, CALLER, CALLER];
    let ifindex = netdev::index(node.netns(), &web.host_veths()[0]);
    let within: Vec<Loaded> = own(node).into_iter().chain(shared[2..].iter().cloned()).collect();
    let mut oracle = Oracle::new(&pins(node), ifindex, &ALLOWED, PROBED);
    let mut dice = dice();
    for _ in 0..FRAMES.div_ceil(BATCH) {
        oracle.forget();
        for (process, programs, index) in [
            (&kubelet, &shared[..2], ifindex),
            (&inside, &within[..], ifindex_inside(web)),
            (&stranger, &shared[..2], ifindex),
        ] {
            let seed = dice.roll();
            let verdicts = run(process, programs, index, seed, &actors);
            let mut frames = Frames::new(seed, actors.clone());
            oracle.sent_by_kubelet(process.pid() == kubelet.pid());
            for verdict in verdicts {
                let step = frames.step(programs.len());
                let program = &programs[step.program];
                if is_refused(verdict, &step) {
                    continue;
                }
                let expected = oracle.verdict(program, &step);
                assert_eq!(
                    verdict, expected,
                    "frames of {seed}, {program:?}, forwarded {}: {:02x?}",
                    step.forwarded, step.frame
                );
            }
        }
    }
    oracle.assert_telling();
}
