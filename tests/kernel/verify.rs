//! `verify`: what is cut is proved to be, what leaks is found, nothing it sends gets anywhere, and nothing of it stays.

use std::{collections::BTreeSet, fs, process::Command};

use isolate_tests::{
    agent::Output,
    channel::{Channel, Path},
    feature,
    flood::Flood,
    launch, netdev,
    netns::Netns,
    observe::Observer,
    pod::{Link, Spec},
    program::{self, Place},
};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    scene::{Scene, every_channel},
    suite::{self, trials},
};

trials![
    a_pod_that_sends_all_the_time_is_proved_cut,
    every_kind_of_veth_is_proved_without_a_daemon,
    a_pod_with_its_loopback_is_proved_cut,
    add_verifies_at_once,
    a_detached_hook_is_a_leak needs Bpftool,
    a_program_in_front_is_told needs Tcx,
    pods_without_a_host_end_are_told,
    a_pod_that_is_not_isolated_is_told,
    a_hostile_pod_stops_nothing,
    what_is_allowed_is_no_leak,
    packet_sockets_are_shown_to_be_refused needs Bpftool,
];

/// Those that must hold however the hooks are attached.
pub(crate) fn either_way() -> Vec<Trial> {
    suite::named(
        "verify",
        &[
            ("a_pod_that_sends_all_the_time_is_proved_cut", a_pod_that_sends_all_the_time_is_proved_cut),
            ("every_kind_of_veth_is_proved_without_a_daemon", every_kind_of_veth_is_proved_without_a_daemon),
            ("pods_without_a_host_end_are_told", pods_without_a_host_end_are_told),
            ("what_is_allowed_is_no_leak", what_is_allowed_is_no_leak),
        ],
    )
}

/// 224.0.0.254 and `ff02::114`.
const SENTINELS: [&[u8]; 2] = [&[224, 0, 0, 254], &[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x14]];

/// The findings of one pod: hook and direction, what was found, and by what.
fn findings(output: &Output) -> Vec<(String, String, String)> {
    let json = output.json();
    let proofs = json["results"][0]["proofs"].as_array().unwrap_or_else(|| panic!("no proofs: {json:#}"));
    let word = |value: &Value| value.as_str().expect("a word").to_owned();
    let row = |proof: &Value| {
        let hook = format!("{} {}", word(&proof["hook"]), word(&proof["direction"]));
        (hook, word(&proof["finding"]), word(&proof["evidence"]))
    };
    proofs.iter().map(row).collect()
}

#[track_caller]
pub(crate) fn verify(scene: &Scene, code: i32) -> Vec<(String, String, String)> {
    findings(&scene.agent.run(&["verify", scene.web.uid(), "-o", "json"]).expect(code))
}

/// Everything that can be left in a namespace: devices, addresses, routes, and neighbours that the kernel did not find itself.
fn contents(netns: &Netns) -> BTreeSet<String> {
    let list = |arguments: &str| {
        let mut ip = Command::new("ip");
        let output = launch::succeed(ip.args(["-n", netns.name()]).args(arguments.split(' '))).stdout;
        String::from_utf8(output).expect("iproute2 writes UTF-8")
    };
    let lists =
        ["link", "addr", "route show table all", "-6 route show table all", "neigh show nud permanent"].map(list);
    // The kernel itself has groups among its neighbours.
    let neighbours = list("neigh show nud all");
    let sentinels = neighbours.lines().filter(|line| line.contains("224.0.0.254") || line.contains("ff02::114"));
    lists.iter().flat_map(|list| list.lines()).chain(sentinels).map(str::to_owned).collect()
}

fn cgroups(scene: &Scene) -> BTreeSet<String> {
    let entries = fs::read_dir(scene.web.cgroup()).expect("the pod has a cgroup").flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

/// The hook that the kernel may have beside those of every kernel.
fn of_lsm() -> &'static [&'static str] {
    if program::lsm_missing().is_none() { &["lsm in", "lsm out"] } else { &[] }
}

/// What is said of a pod all of whose hooks are proved: these many of every kernel, and those of the LSM hook.
fn all_of(hooks: usize) -> String {
    let hooks = hooks + of_lsm().len();
    format!("{hooks} of {hooks} hooks")
}

/// Watches where a probe that gets out would come by.
pub(crate) struct Watch {
    observers: Vec<Observer>,
}

impl Watch {
    pub(crate) fn start(scene: &Scene) -> Self {
        let node = scene.node.netns();
        let observers = vec![Observer::start(scene.neighbour.netns(), "eth0"), Observer::start(node, "cni0")];
        Observer::begin(&observers);
        Self { observers }
    }

    /// How many frames were seen that are for the sentinels of probes, or of their ethertype.
    pub(crate) fn probes(&self) -> usize {
        let is_in = |bytes: &[u8], address: &[u8]| bytes.windows(address.len()).any(|window| window == address);
        let is_probe =
            |bytes: &[u8]| bytes[12..14] == [0x88, 0xb5] || SENTINELS.iter().any(|sentinel| is_in(bytes, sentinel));
        self.observers.iter().map(|observer| observer.count(|frame| is_probe(frame.bytes()))).sum()
    }
}

fn a_pod_that_sends_all_the_time_is_proved_cut() {
    let scene = Scene::with(&Spec { interfaces: 2, ..Spec::default() });
    let Scene { agent, web, neighbour, node } = &scene;
    let other = node.pod(&Spec::default());
    let _daemon = agent.daemon();
    let paths = Path::shown(every_channel(), web.end(), neighbour.end());
    let flood = Flood::start(web.app(), neighbour.app(), (neighbour.end().v4, 0).into());
    let healthy = Flood::start(other.app(), neighbour.app(), (neighbour.end().v4, 0).into());
    agent.add(&[web.uid()]);
    agent.await_the_rest(web.uid());
    let watch = Watch::start(&scene);
    let state = || [contents(web.netns()), contents(node.netns()), cgroups(&scene)];
    let before = state();

    let text = agent.run(&["verify", web.uid()]).expect(0);
    assert!(text.stdout.contains(&format!("is proved cut off, by probes to {}", all_of(8))), "{}", text.text());
    let findings = verify(&scene, 0);
    let hooks: Vec<&str> = findings.iter().map(|(hook, ..)| hook.as_str()).collect();
    let both = ["veth in", "veth out"];
    assert_eq!(hooks, [&["cgroup in", "cgroup out"][..], &both, &both, &["netdev in", "netdev in"], of_lsm()].concat());
    for (hook, finding, evidence) in findings {
        assert_eq!(finding, "proved_cut", "{hook}: {evidence}");
    }

    assert_eq!(watch.probes(), 0, "a probe got out");
    for (now, before) in state().iter().zip(&before) {
        assert_eq!(now.difference(before).collect::<Vec<_>>(), [] as [&String; 0], "something is left");
    }
    paths.assert_cut();
    assert_eq!(healthy.lost(), 0, "a healthy pod lost datagrams");
    let cut = flood.received();
    agent.remove(&[web.uid()]);
    paths.assert_flows();
    assert!(flood.received() > cut, "the pod did not send all the time");
}

fn every_kind_of_veth_is_proved_without_a_daemon() {
    for link in [Link::Bridged, Link::Routed] {
        let scene = Scene::with(&Spec { link, ..Spec::default() });
        scene.agent.add(&[scene.web.uid()]);
        let output = scene.agent.run(&["verify", scene.web.uid()]).expect(0);
        assert!(output.stdout.contains(&all_of(5)), "{}", output.text());
    }
}

fn a_pod_with_its_loopback_is_proved_cut() {
    let scene = Scene::new();
    let _daemon = scene.agent.daemon();
    scene.agent.add(&[scene.web.uid(), "--keep-loopback"]);
    for (hook, finding, evidence) in verify(&scene, 0) {
        assert!(finding == "proved_cut" && !evidence.contains("(loopback)"), "{hook}: {finding}: {evidence}");
    }
}

fn add_verifies_at_once() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let _daemon = agent.daemon();
    let added = agent.run(&["add", "--verify", web.uid()]).expect(0);
    assert!(added.stdout.contains("is isolated\n") && added.stdout.contains("is proved cut off"), "{}", added.text());
    let json = agent.run(&["add", "--verify", web.uid(), "-o", "json"]).expect(0).json();
    assert_eq!(json["verifications"][0]["code"], "done", "{json:#}");
    let _admin = neighbour.attacker(&[launch::SYS_ADMIN]);
    let added = agent.run(&["add", "--verify", neighbour.uid()]).expect(5);
    assert!(added.stdout.contains(&format!("{}, and the rest", all_of(5))), "{}", added.text());
}

fn a_detached_hook_is_a_leak() {
    for (pin, leaks, other) in [
        ("veth-{index}-out", "veth out", "veth in"),
        ("veth-{index}-in", "veth in", "veth out"),
        ("{netdev-*,xdp-*}-in", "netdev in", "veth in"),
        ("cgroup-*-out", "cgroup out", "cgroup in"),
        ("cgroup-*-in", "cgroup in", "cgroup out"),
    ] {
        // Filters have no links; `clsact::what_is_taken_away_is_found_by_probes` takes those away.
        if !pin.starts_with("cgroup") && !feature::has_tcx() {
            continue;
        }
        let scene = Scene::new();
        let daemon = scene.agent.daemon();
        scene.agent.add(&[scene.web.uid()]);
        let watch = Watch::start(&scene);
        scene.agent.await_the_rest(scene.web.uid());
        daemon.kill();
        // A healthy pod's veth is armed as well.
        let index = netdev::index(scene.node.netns(), &scene.web.host_veths()[0]).to_string();
        let pin = pin.replace("{index}", &index);
        let pattern = scene.node.folder().join("bpf/isolate-agent/v*/links").join(pin);
        let detach = format!("for pin in {}; do bpftool link detach pinned $pin || exit; done", pattern.display());
        launch::succeed(Command::new("bash").args(["-c", &detach]));

        let findings = verify(&scene, 1);
        let found = |hook: &str| findings.iter().find(|(found, ..)| found == hook).expect("each hook is told");
        assert_eq!(found(leaks).1, "leak", "{findings:?}");
        assert_eq!(found(other).1, "proved_cut", "{findings:?}");
        assert_eq!(watch.probes(), 0, "a probe got out by {leaks}");
        let text = scene.agent.run(&["verify", scene.web.uid()]).expect(1);
        assert!(text.text().contains("LEAKS") && text.stdout.contains("LEAK\t"), "{}", text.text());
    }
}

fn a_program_in_front_is_told() {
    let scene = Scene::new();
    let daemon = scene.agent.daemon();
    scene.agent.add(&[scene.web.uid()]);
    scene.agent.await_the_rest(scene.web.uid());
    daemon.kill();
    let index = netdev::index(scene.node.netns(), &scene.web.host_veths()[0]);
    let watch = Watch::start(&scene);
    // `TCX_PASS`: no program behind it is asked.
    let _stranger = scene.node.netns().enter(|| program::answer_first(Place::TcxIngress, index, 0)).expect("root may");
    let findings = verify(&scene, 5);
    let (_, finding, evidence) = findings.iter().find(|(hook, ..)| hook == "veth out").expect("it is told");
    assert!(finding == "not_covered" && evidence.contains("another program runs first"), "{findings:?}");
    assert_eq!(watch.probes(), 0, "a probe got out");
}

fn pods_without_a_host_end_are_told() {
    let told = |link, expected: &[(&str, &str)], open: &str| {
        let scene = Scene::with(&Spec { link, ..Spec::default() });
        let _daemon = scene.agent.daemon();
        scene.agent.run(&["add", scene.web.uid()]).expect(5);
        let watch = Watch::start(&scene);
        let findings = verify(&scene, 5);
        let found: Vec<_> = findings.iter().map(|(hook, finding, _)| (hook.as_str(), finding.as_str())).collect();
        let lsm = of_lsm().iter().map(|hook| (*hook, "proved_cut"));
        assert_eq!(found, expected.iter().copied().chain(lsm).collect::<Vec<_>>(), "{findings:?}");
        assert_eq!(watch.probes(), 0, "a probe got out");
        let text = scene.agent.run(&["verify", scene.web.uid()]).expect(5);
        assert!(text.stdout.contains("still open: ") && text.stdout.contains(open), "{}", text.text());
    };
    let cgroup = [("cgroup in", "proved_cut"), ("cgroup out", "proved_cut")];
    told(Link::HostNetwork, &cgroup, "packet socket");
    if netdev::missing("macvlan").is_none() {
        let netdev = [("netdev in", "not_covered"), ("netdev out", "proved_cut")];
        let open = if of_lsm().is_empty() { "PACKET_QDISC_BYPASS" } else { "AF_XDP" };
        told(Link::Macvlan, &[&cgroup[..], &netdev].concat(), open);
    }
}

fn a_pod_that_is_not_isolated_is_told() {
    let scene = Scene::new();
    let _daemon = scene.agent.daemon();
    let healthy = scene.agent.run(&["verify", scene.web.uid()]).expect(3);
    assert!(healthy.stderr.contains("is not isolated"), "{}", healthy.text());
    scene.agent.run(&["verify", "ffffffff"]).expect(3);
    scene.agent.run(&["verify", "no-uid"]).expect(2);
    scene.agent.add(&[scene.web.uid()]);
    let both = scene.agent.run(&["verify", scene.web.uid(), scene.neighbour.uid()]).expect(3);
    assert!(both.stdout.contains("is proved cut off"), "{}", both.text());
    let absent = "0f0e0d0c-0000-4000-8000-000000000000";
    scene.agent.run(&["add", absent]).expect(3);
}

/// What a pod can put in the way of probes makes them prove less, never more, and takes no time.
fn a_hostile_pod_stops_nothing() {
    let scene = Scene::with(&Spec { capabilities: &[launch::NET_ADMIN], ..Spec::default() });
    let Scene { agent, web, neighbour, .. } = &scene;
    let _daemon = agent.daemon();
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    // Where the LSM hook holds, its CAP_NET_ADMIN leaves nothing open.
    let (whole, code) = (5 + of_lsm().len(), if of_lsm().is_empty() { 5 } else { 0 });
    agent.run(&["add", web.uid()]).expect(code);
    let proved_with = |code| verify(&scene, code).into_iter().filter(|(_, finding, _)| finding == "proved_cut").count();
    let proved = || proved_with(code);
    assert_eq!(proved(), whole);
    let tampered = |commands: &[&[&str]]| commands.iter().for_each(|command| scene.tamper(command));
    if feature::has_tcx() {
        // Without, the hook inside has made it.
        tampered(&[&["tc", "qdisc", "add", "dev", "eth0", "clsact"]]);
    }
    tampered(&[
        &["iptables", "-w", "-I", "OUTPUT", "-j", "DROP"],
        &["iptables", "-w", "-I", "INPUT", "-j", "DROP"],
        &["tc", "filter", "add", "dev", "eth0", "egress", "bpf", "da", "bytecode", "1,6 0 0 2"],
    ]);
    assert_eq!(proved(), whole, "its own rules are in the way");
    tampered(&[&["ip", "link", "set", "eth0", "down"]]);
    assert_eq!(proved_with(5), whole - 2, "nothing comes through an interface that is down");
    tampered(&[&["ip", "link", "set", "eth0", "up"]]);
    assert_eq!(proved(), whole);

    let freeze = |state: &str| fs::write(web.cgroup().join("cgroup.freeze"), state).expect("the freezer");
    freeze("1");
    let findings = verify(&scene, 5);
    freeze("0");
    assert!(findings.iter().any(|(hook, _, why)| hook == "cgroup out" && why.contains("frozen")), "{findings:?}");
    assert_eq!(proved(), whole);
    tampered(&[&["iptables", "-w", "-F"], &["tc", "filter", "del", "dev", "eth0", "egress"]]);
    // Without its addresses, which the kernel took while the interface was down, a path would be cut by itself.
    web.configure();
    path.assert_cut();
    agent.remove(&[web.uid()]);
    path.assert_flows();
}

/// Some probes are allowed, all of a family, or all; none gets beyond the hooks, and what is left is proved.
fn what_is_allowed_is_no_leak() {
    let scene = Scene::new();
    let Scene { agent, web, .. } = &scene;
    let _daemon = agent.daemon();
    for (allowed, expected, allowed_somewhere) in [
        (&["192.0.2.0/24:9/udp"][..], 0, false),
        (&["in:[fe80::]/10"], 0, true),
        (&[], 0, false),
        (&["0.0.0.0/0"], 0, true),
        (&["0.0.0.0/0", "::/0"], 0, true),
    ] {
        let mut arguments = vec![web.uid()];
        arguments.extend(allowed.iter().flat_map(|range| ["--allow", range]));
        agent.add(&arguments);
        let watch = Watch::start(&scene);
        let findings = verify(&scene, expected);
        for (hook, finding, evidence) in &findings {
            assert!(
                ["proved_cut", "allowed"].contains(&finding.as_str()),
                "{allowed:?}: {hook}: {finding}: {evidence}"
            );
        }
        let told = findings.iter().any(|(_, _, evidence)| evidence.contains("allowed"));
        assert_eq!(told, allowed_somewhere, "{allowed:?}: {findings:?}");
        assert_eq!(watch.probes(), 0, "{allowed:?}: a probe got out");
    }
}

/// Where the kernel has the LSM hook; elsewhere nothing is said of it.
fn packet_sockets_are_shown_to_be_refused() {
    let scene = Scene::new();
    let daemon = scene.agent.daemon();
    scene.agent.add(&[scene.web.uid()]);
    let of_lsm = |findings: Vec<(String, String, String)>| {
        findings.into_iter().filter(|(hook, ..)| hook.starts_with("lsm ")).collect::<Vec<_>>()
    };
    let lsm = of_lsm(verify(&scene, 0));
    if let Some(why) = program::lsm_missing() {
        eprintln!("no LSM hook: {why}");
        assert_eq!(lsm, []);
        return;
    }
    assert_eq!(lsm.len(), 2, "{lsm:?}");
    for (hook, finding, evidence) in lsm {
        assert_eq!(finding, "proved_cut", "{hook}: {evidence}");
    }
    daemon.kill();
    let pattern = scene.node.folder().join("bpf/isolate-agent/v*/links/lsm-*-create-out");
    let detach = format!("bpftool link detach pinned {}", pattern.display());
    launch::succeed(Command::new("sh").args(["-c", &detach]));
    let lsm = of_lsm(verify(&scene, 1));
    assert!(lsm.iter().any(|(_, finding, _)| finding == "leak"), "{lsm:?}");
}
