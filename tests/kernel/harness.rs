//! The harness itself: that it sees what passes, sees what does not, and leaves nothing. Needs no agent.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    panic,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use isolate_tests::{
    bpf::{self, Object},
    channel::{Channel, Path},
    flood::Flood,
    launch, netdev,
    node::Node,
    observe::Observer,
    pod::{Driver, Link, Pod, Qos, Spec},
    residue, sweep, wait,
};

use crate::suite::trials;

trials![
    neighbours_reach_each_other,
    a_routed_pod_reaches_and_is_reached,
    two_interfaces_both_work,
    containers_share_a_namespace_and_host_network_shares_the_nodes,
    what_is_cut_is_seen_to_be_cut,
    a_flood_tells_what_was_lost,
    pinned_objects_are_known_and_go needs Bpftool,
    a_panic_leaves_nothing,
    a_killed_run_is_swept,
];

fn neighbours_reach_each_other() {
    let node = Node::new();
    let (web, neighbour) = (node.pod(&Spec::default()), node.pod(&Spec::default()));
    let kubelet = node.process();
    for other in [neighbour.end(), node.end(&kubelet)] {
        Path::shown(Channel::ROUTED.into_iter().chain(Channel::LINK), web.end(), other);
    }
    Path::shown(Channel::ROUTED, web.loopback(), web.loopback());
}

fn a_routed_pod_reaches_and_is_reached() {
    let node = Node::new();
    let routed = node.pod(&Spec { link: Link::Routed, driver: Driver::Cgroupfs, ..Spec::default() });
    let bridged = node.pod(&Spec { qos: Qos::Guaranteed, ..Spec::default() });
    Path::shown(Channel::ROUTED, routed.end(), bridged.end());
}

fn two_interfaces_both_work() {
    let node = Node::new();
    let two = Spec { interfaces: 2, ..Spec::default() };
    let (one, other) = (node.pod(&two), node.pod(&two));
    Path::shown(Channel::ROUTED.into_iter().chain(Channel::LINK), one.second_end(), other.second_end());
}

fn containers_share_a_namespace_and_host_network_shares_the_nodes() {
    let node = Node::new();
    let pod = node.pod(&Spec { containers: 2, ..Spec::default() });
    let host = node.pod(&Spec { link: Link::HostNetwork, ..Spec::default() });
    Path::shown(Channel::ORDINARY, pod.loopback(), pod.loopback_of(pod.container(1)));
    Path::shown(Channel::ORDINARY, host.end(), pod.end());
    let of = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).expect("the process runs");
    assert_eq!(of(pod.app().pid()), of(pod.container(1).pid()));
    assert_ne!(of(pod.app().pid()), of(host.app().pid()));
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", pod.container(1).pid())).expect("the process runs");
    assert!(cgroup.contains(&pod.uid().replace('-', "_")), "{cgroup}");
}

/// A harness that always reported silence would pass every other test of this suite, and one that never did, none.
fn what_is_cut_is_seen_to_be_cut() {
    let node = Node::new();
    let (web, neighbour) = (node.pod(&Spec::default()), node.pod(&Spec::default()));
    let path = Path::shown(Channel::ROUTED.into_iter().chain(Channel::LINK), web.end(), neighbour.end());
    assert_eq!(path.open().len(), 2 * 10, "every channel is open both ways: {:?}", path.open());
    let outside = Observer::start(neighbour.netns(), "eth0");
    let port = &web.host_veths()[0];
    netdev::ip(node.netns(), &[format!("link set {port} nomaster")]);
    Observer::begin([&outside]);
    path.assert_cut();
    assert_eq!(outside.from(web.end().mac), 0);
    netdev::ip(node.netns(), &[format!("link set {port} master cni0")]);
    path.assert_flows();
    assert!(outside.from(web.end().mac) > 0);
}

fn a_flood_tells_what_was_lost() {
    let node = Node::new();
    let (web, neighbour) = (node.pod(&Spec::default()), node.pod(&Spec::default()));
    assert_eq!(Flood::start(web.app(), neighbour.app(), (neighbour.end().v4, 0).into()).lost(), 0);
    let flood = Flood::start(web.app(), neighbour.app(), (neighbour.end().v4, 0).into());
    let port = &web.host_veths()[0];
    netdev::ip(node.netns(), &[format!("link set {port} nomaster")]);
    let cut = flood.received();
    thread::sleep(Duration::from_millis(100));
    netdev::ip(node.netns(), &[format!("link set {port} master cni0")]);
    wait::until("the stream flows again", || flood.received() > cut + 10);
    assert!(flood.lost() > 0, "datagrams were lost, and nobody said so");
}

fn pinned_objects_are_known_and_go() {
    let node = Node::new();
    let pin = node.folder().join("bpf/folder/map");
    fs::create_dir(node.folder().join("bpf/folder")).expect("it is a bpffs");
    let array = ["type", "array", "key", "4", "value", "4", "entries", "1", "name", "isolate_test"];
    launch::succeed(Command::new("bpftool").args(["map", "create"]).arg(&pin).args(array));
    let objects = bpf::pinned(&node.folder().join("bpf"));
    assert!(matches!(objects[..], [Object::Map(_)]), "{objects:?}");
    assert_eq!(bpf::alive(&objects), objects);
    drop(node);
    assert_eq!(bpf::alive(&objects), [], "the node's residue check let it pass");
}

fn a_panic_leaves_nothing() {
    let mut paths = Vec::new();
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let node = Node::new();
        let pod: Pod = node.pod(&Spec::default());
        let _observer = Observer::start(pod.netns(), "eth0");
        paths.extend([node.folder().to_owned(), node.cgroup().to_owned(), node.netns().path(), pod.netns().path()]);
        assert!(paths.iter().all(|path| path.exists()));
        // Unwinds as a failed assertion does, without the message of one.
        panic::resume_unwind(Box::new("on purpose"));
    }));
    assert!(outcome.is_err());
    paths.retain(|path| path.exists());
    assert!(paths.is_empty(), "left: {paths:?}");
}

/// Tells a copy of this program to make a node and to wait for its end.
const LEAK: &str = "ISOLATE_TEST_LEAK";

pub(crate) fn is_leaking_child() -> bool {
    env::var_os(LEAK).is_some()
}

pub(crate) fn leak() -> ! {
    let node = Node::new();
    let pod = node.pod(&Spec::default());
    eprintln!("{}", pod.uid());
    loop {
        thread::park();
    }
}

/// Held by a test that needs what it left behind to stay until it looks.
pub(crate) static SWEEPING: Mutex<()> = Mutex::new(());

fn a_killed_run_is_swept() {
    let _alone = SWEEPING.lock().unwrap_or_else(PoisonError::into_inner);
    let program = env::current_exe().expect("the running program has a path");
    let mut child = Command::new(program).env(LEAK, "1").stderr(Stdio::piped()).spawn().expect("it can run again");
    let mut line = String::new();
    BufReader::new(child.stderr.take().expect("stderr is piped"))
        .read_line(&mut line)
        .expect("it says when it is ready");
    let prefix = format!("isolate-test-{}-", child.id());
    assert!(residue::any_named(&prefix), "it made nothing: {line}");
    child.kill().expect("it waits");
    child.wait().expect("a child can be waited for");
    assert!(residue::any_named(&prefix), "nothing was left to sweep");
    sweep::dead_runs();
    assert!(!residue::any_named(&prefix));
}
