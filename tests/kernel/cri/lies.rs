//! A container runtime that lies, or alone knows something: nobody else is cut, nobody is released.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path as FilePath, PathBuf},
    process::Command,
};

use aya::programs::TcAttachType;
use isolate_tests::{
    agent::Agent,
    bpf::programs,
    channel::{Channel, Path},
    cri::hostile::{Hostile, Told},
    name,
    node::Node,
    pod::{Link, Spec},
    process::Process,
    wait,
    wire::Family,
};

use super::{
    hostile::{UDP, asking, scene, socket, talks},
    knows,
};
use crate::{arming::is_armed, scene::Scene, suite::trials};

trials![
    a_lie_about_namespaces_cuts_nobody_else,
    a_lie_about_names_releases_nobody,
    a_pod_with_two_names_is_known_by_its_uid,
    what_only_it_knows_is_cut,
    what_only_it_knows_is_cut_without_a_daemon needs Pace,
];

const TWO: [Channel; 2] = [Channel::Udp(Family::V4), Channel::Arp];

fn a_lie_about_namespaces_cuts_nobody_else() {
    let scene = scene();
    let Scene { agent, web, neighbour, node } = &scene;
    let (other, kubelet) = (node.pod(&Spec::default()), node.process());
    let sharing = node.pod(&Spec { link: Link::HostNetwork, ..Spec::default() });
    let path = Path::shown(TWO, web.end(), neighbour.end());
    let healthy = Path::shown(TWO, neighbour.end(), other.end());
    let of_the_node = Path::shown(TWO, node.end(&kubelet), other.end());
    let beside_it = Path::shown(UDP, sharing.end(), other.end());
    // Below /run, where namespaces are looked for.
    let folder = FilePath::new("/run").join(name::unique());
    fs::create_dir(&folder).expect("root may");
    let (fifo, link, file) = (folder.join("fifo"), folder.join("link"), folder.join("file"));
    let made = Command::new("mkfifo").arg(&fifo).status().expect("coreutils is installed");
    assert!(made.success());
    symlink("/proc/1/ns/net", &link).expect("root may");
    fs::write(&file, "").expect("root may");
    let dotted = FilePath::new("/run/netns/../../proc/1/ns/net");
    let lies = [
        neighbour.netns().path(),
        node.netns().path(),
        "/proc/1/ns/net".into(),
        format!("/proc/{}/ns/net", neighbour.app().pid()).into(),
        dotted.to_owned(),
        fifo,
        link,
        file,
        folder.clone(),
        "/run/netns/gone".into(),
        format!("/run/{}", "x/".repeat(3000)).into(),
        "".into(),
    ];
    let lie = |(number, netns): (usize, &PathBuf)| Told {
        id: number.to_string(),
        netns: Some(netns.clone()),
        ip: neighbour.end().v4.to_string(),
        ..Told::of(web.uid(), "web")
    };
    let lies: Vec<Told> = lies.iter().enumerate().map(lie).collect();
    let runtime = Hostile::new(&socket(node), talks(&lies));
    let _daemon = agent.daemon();
    knows(agent, "default/web");
    wait::until("they are asked for", || runtime.details() >= lies.len());
    for by in [web.uid(), "default/web"] {
        let added = agent.run(&["add", by]);
        assert!(matches!(added.code, 0 | 5), "{}", added.text());
        // The one that is somebody's is seen, and left alone.
        wait::until("the lie is seen", || {
            agent.isolation(web.uid())["hooks"].to_string().contains(&neighbour.host_veths()[0])
        });
        path.assert_cut();
        healthy.assert_flows();
        of_the_node.assert_flows();
        beside_it.assert_flows();
        agent.remove(&[by]);
        path.assert_flows();
    }
    for device in ["lo", "cni0", "cni1"] {
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            assert_eq!(programs(node.netns(), device, direction), [""; 0], "the node's own {device} was touched");
        }
    }
    // Claimed for a healthy pod, too, it lets nobody out who is cut, and keeps nobody from being cut.
    agent.run(&["add", web.uid()]).expect(5);
    path.assert_cut();
    let thief = Told { netns: Some(web.netns().path()), ..Told::of(other.uid(), "other") };
    let details = runtime.details();
    runtime.behave(talks(&[thief]));
    knows(agent, "default/other");
    wait::until("it is asked for", || runtime.details() > details);
    agent.run(&["add", web.uid()]);
    path.assert_cut();
    healthy.assert_flows();
    drop(runtime);
    fs::remove_dir_all(&folder).expect("it is the test's");
}

fn a_lie_about_names_releases_nobody() {
    let scene = scene();
    let Scene { agent, web, neighbour, node } = &scene;
    let other = node.pod(&Spec::default());
    let path = Path::shown(UDP, web.end(), other.end());
    let second = Path::shown(UDP, neighbour.end(), other.end());
    let named = |web_name: &str, neighbour_name: &str| {
        talks(&[Told::of(web.uid(), web_name), Told::of(neighbour.uid(), neighbour_name)])
    };
    let runtime = Hostile::new(&socket(node), named("web", "db"));
    let _daemon = agent.daemon();
    knows(agent, "default/web");
    agent.add(&["default/web", "default/db"]);
    path.assert_cut();
    second.assert_cut();
    // Each by the other's name, and by one that nobody had.
    runtime.behave(named("db", "web"));
    wait::until("the lie is told", || agent.run(&["status"]).text().contains("not to be trusted"));
    agent.remove(&["default/db"]);
    path.assert_cut();
    second.assert_flows();
    runtime.behave(named("harmless", "web"));
    agent.run(&["remove", "default/harmless"]);
    path.assert_cut();
    // Not a second pod by the name of the first.
    let added = agent.run(&["add", "default/web"]).expect(2);
    assert!(added.text().contains("several pods"), "{}", added.text());
    second.assert_flows();
    // A lie can have a pod spared that the cluster seems to need, not against a responder's word.
    let needed = Told { namespace: b"kube-system".to_vec(), ..Told::of(neighbour.uid(), "coredns-1") };
    runtime.behave(talks(&[needed]));
    wait::until("the lie is taken", || agent.run(&["add", "--dry-run", "kube-system/coredns-1"]).code == 4);
    let refused = agent.run(&["add", neighbour.uid()]).expect(4);
    assert!(refused.text().contains("--force"), "{}", refused.text());
    agent.add(&["--force", neighbour.uid()]);
    second.assert_cut();
    agent.remove(&["default/web"]);
    path.assert_flows();
    second.assert_cut();
}

fn a_pod_with_two_names_is_known_by_its_uid() {
    let scene = scene();
    let Scene { agent, web, neighbour, node } = &scene;
    let path = Path::shown(UDP, web.end(), neighbour.end());
    let two = [Told::of(web.uid(), "web"), Told { id: "2".to_owned(), ..Told::of(web.uid(), "other") }];
    let _runtime = Hostile::new(&socket(node), talks(&two));
    let _daemon = agent.daemon();
    wait::until("it is told", || agent.run(&["add", "default/web"]).text().contains("several names"));
    for name in ["default/web", "default/other"] {
        let refused = agent.run(&["add", name]).expect(3);
        assert!(refused.text().contains(web.uid()), "{}", refused.text());
        assert_eq!(agent.isolated(), [""; 0]);
    }
    path.assert_flows();
    agent.add(&[web.uid()]);
    path.assert_cut();
}

/// As with Kata, or after its processes have left: what uses the pod's network is in none of its cgroups.
fn what_only_it_knows_is_cut() {
    let node = Node::new();
    let web = node.pod(&Spec { containers: 0, ..Spec::default() });
    let neighbour = node.pod(&Spec::default());
    let guest = Process::start(web.netns(), &node.service());
    let channels = || Channel::ROUTED.into_iter().chain(Channel::LINK);
    let path = Path::shown(channels(), web.end_of(&guest), neighbour.end());
    let without = Agent::new(&node);
    {
        let _daemon = without.daemon();
        let added = without.run(&["add", web.uid()]).expect(5);
        assert!(added.text().contains("its interfaces are not known"), "{}", added.text());
        path.assert_flows();
        without.remove(&[web.uid()]);
    }
    let agent = asking(&without, &socket(&node));
    let told = Told { netns: Some(web.netns().path()), ..Told::of(web.uid(), "web") };
    let runtime = Hostile::new(&socket(&node), talks(&[told]));
    let daemon = agent.daemon();
    wait::until("it is armed", || is_armed(&node, &web.host_veths()[0]));
    agent.run(&["add", "default/web"]).expect(0);
    path.assert_cut();
    assert!(agent.drops(web.uid()) > 0);
    assert_eq!(agent.isolation(web.uid())["coverage"], "full");
    // It stays cut when nobody knows any more whose namespace that is.
    runtime.behave(talks(&[]));
    agent.run(&["add", "default/nobody"]).expect(3);
    path.assert_cut();
    drop(runtime);
    agent.run(&["add", "default/nobody"]).expect(3);
    path.assert_cut();
    drop(daemon);
    let _daemon = agent.daemon();
    path.assert_cut();
    agent.remove(&[web.uid()]);
    path.assert_flows();
}

/// A command waits for the runtime no longer than a cut by a UID may be put off.
fn what_only_it_knows_is_cut_without_a_daemon() {
    let node = Node::new();
    let web = node.pod(&Spec { containers: 0, ..Spec::default() });
    let neighbour = node.pod(&Spec::default());
    let guest = Process::start(web.netns(), &node.service());
    let path = Path::shown(UDP, web.end_of(&guest), neighbour.end());
    let agent = asking(&Agent::new(&node), &socket(&node));
    let told = Told { netns: Some(web.netns().path()), ..Told::of(web.uid(), "web") };
    let _runtime = Hostile::new(&socket(&node), talks(&[told]));
    wait::until("the runtime tells in time", || agent.run(&["add", web.uid()]).code == 0);
    path.assert_cut();
    agent.remove(&["default/web"]);
    path.assert_flows();
}
