//! `preview`: what it says beforehand is what is then done, and saying it changes nothing.

use std::{fs, net::Ipv4Addr, time::Duration};

use isolate_tests::{
    channel::{Channel, Path},
    frame::Mark,
    pod::{Link, Spec},
    process::{Process, Socket},
    wait,
    wire::{Family, Kind},
};
use serde_json::Value;

use crate::{scene::Scene, suite::trials};

trials![
    it_says_what_is_then_done,
    a_dry_run_says_the_same,
    what_is_said_to_go_on_goes_on,
    of_a_host_network_pod_its_own_sockets_only,
    a_manifest_that_is_not_right_is_refused,
    without_a_specification_it_says_what_the_node_knows,
];

const PATIENCE: Duration = Duration::from_secs(2);

/// A connection from one process to another, and the address that the second listens on.
fn connection<'a>(from: &'a Process, to: &'a Process, address: Ipv4Addr) -> ([Socket<'a>; 3], String, String) {
    let listener = to.socket(Kind::Tcp, Family::V4, PATIENCE);
    let address = listener.bind((address, 0).into());
    let client = from.socket(Kind::Tcp, Family::V4, PATIENCE);
    assert!(client.connect(address).is_ok());
    let server = listener.accept().expect("it was connected to");
    let port = fs::read_to_string(format!("/proc/{}/net/tcp", from.pid())).expect("procfs is mounted");
    let end = format!("{:08X}:{:04X} 01", u32::from_ne_bytes(ip(address).octets()), address.port());
    let line = port.lines().find(|line| line.contains(&end)).expect("the connection is in the table");
    let own = line.split_whitespace().nth(1).and_then(|own| own.split_once(':')).expect("an address").1;
    let own = u16::from_str_radix(own, 16).expect("a port");
    ([listener, client, server], address.to_string(), own.to_string())
}

fn ip(address: std::net::SocketAddr) -> Ipv4Addr {
    let std::net::IpAddr::V4(ip) = address.ip() else { panic!("{address} is no IPv4 address") };
    ip
}

/// A manifest of the pod with a probed and an unprobed container.
fn manifest(scene: &Scene, probe: &str) -> String {
    let path = scene.node.folder().join("pod.yaml");
    let text = format!(
        "kind: Pod\nmetadata: {{name: web, namespace: shop, uid: {}}}\nspec:\n  containers:\n\
         \x20 - {{name: web, livenessProbe: {probe}}}\n  - {{name: worker}}\n",
        scene.web.uid()
    );
    fs::write(&path, text).expect("the node's folder is writable");
    path.display().to_string()
}

fn preview(scene: &Scene, arguments: &[&str]) -> Value {
    scene.agent.run(&[&["preview", scene.web.uid(), "-o", "json"], arguments].concat()).expect(0).json()
}

fn it_says_what_is_then_done() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    let (_sockets, local, port) = connection(neighbour.app(), web.app(), web.end().v4);
    let manifest = manifest(&scene, "{tcpSocket: {port: 80}}");
    let said = preview(&scene, &["--pod-manifest", &manifest]);

    let [web_container, worker] = said["containers"].as_array().expect("a list").as_slice() else { panic!("{said:#}") };
    assert_eq!((&web_container["outcome"], &worker["outcome"]), (&"ends".into(), &"keeps_running".into()));
    assert_eq!(web_container["given_up_secs"], serde_json::json!({"earliest": 20, "latest": 31}));
    let flow = said["flows"]["cut"].as_array().expect("a list").iter().find(|flow| flow["local"] == local.as_str());
    let flow = flow.unwrap_or_else(|| panic!("the connection is not shown: {:#}", said["flows"]));
    assert_eq!(flow["peer"], format!("{}:{port}", neighbour.end().v4));
    assert_eq!((&flow["direction"], &flow["state"]), (&"in".into(), &"ESTAB".into()));
    assert_eq!(flow["process"], format!("pod-proc ({})", web.app().pid()));
    assert_eq!(said["open"], serde_json::json!([]), "an ordinary pod is covered fully");
    assert!(agent.isolated().is_empty(), "a preview isolates nobody");
    path.assert_flows();

    agent.add(&[web.uid()]);
    path.assert_cut();
    assert_eq!(agent.isolation(web.uid())["hooks"], said["hooks"], "the hooks are not those that were foreseen");
    assert_eq!(preview(&scene, &[])["pod"]["isolated"], true);
}

fn a_dry_run_says_the_same() {
    let scene = Scene::new();
    let Scene { agent, web, .. } = &scene;
    let _daemon = agent.daemon();
    let manifest = manifest(&scene, "{tcpSocket: {port: 80}, periodSeconds: 5}");
    let arguments = ["--pod-manifest", manifest.as_str()];
    let dry = agent.run(&[&["add", web.uid(), "--dry-run", "-o", "json"], &arguments[..]].concat()).expect(0).json();
    let dry = &dry["results"][0];
    assert_eq!(dry["code"], "done");
    let said = preview(&scene, &arguments);
    for part in ["containers", "hooks", "open", "evidence", "service"] {
        assert_eq!(dry["preview"][part], said[part], "{part}");
    }
    let text = agent.run(&[&["add", web.uid(), "--dry-run"], &arguments[..]].concat()).expect(0).stdout;
    for said in ["would be isolated", "web: ends, told to 10 s to 16 s after the cut", "worker: keeps running"] {
        assert!(text.contains(said), "{said:?} is not in\n{text}");
    }
    assert!(agent.isolated().is_empty());
}

/// One connection with an allowed host, and one with another.
fn what_is_said_to_go_on_goes_on() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour: friend, node } = &scene;
    let stranger = node.pod(&Spec::default());
    let _daemon = agent.daemon();
    let (friends, ..) = connection(friend.app(), web.app(), web.end().v4);
    let (strangers, ..) = connection(stranger.app(), web.app(), web.end().v4);
    let passes = |[_, client, server]: &[Socket<'_>; 3], mark: &Mark| {
        client.send(mark.bytes());
        let got = server.recv();
        got.is_ok() && mark.is_in(&got.data)
    };
    assert!(passes(&friends, &Mark::new()) && passes(&strangers, &Mark::new()));
    let options = ["--allow", &friend.end().v4.to_string()];
    let said = preview(&scene, &options);
    let peers = |list: &str| {
        let flows = said["flows"][list].as_array().cloned().unwrap_or_default();
        flows.iter().map(|flow| flow["peer"].to_string()).collect::<String>()
    };
    let [friends_address, strangers_address] = [friend, &stranger].map(|pod| format!("{}:", pod.end().v4));
    assert!(peers("kept").contains(&friends_address) && !peers("kept").contains(&strangers_address), "{said:#}");
    assert!(peers("cut").contains(&strangers_address) && !peers("cut").contains(&friends_address), "{said:#}");
    agent.add(&[&[web.uid()], &options[..]].concat());
    wait::until("the allowed connection goes on", || passes(&friends, &Mark::new()));
    assert!(!passes(&strangers, &Mark::new()), "the other goes on");
    agent.run(&["preview", web.uid(), "--allow", "10.0.0.1/8"]).expect(2);
}

fn of_a_host_network_pod_its_own_sockets_only() {
    let scene = Scene::with(&Spec { link: Link::HostNetwork, ..Spec::default() });
    let Scene { web, neighbour, node, .. } = &scene;
    let kubelet = node.process();
    let (_theirs, of_the_node, _) = connection(neighbour.app(), &kubelet, node.end(&kubelet).v4);
    let (_own, of_the_pod, _) = connection(neighbour.app(), web.app(), web.end().v4);
    let said = preview(&scene, &[]);
    let cut = said["flows"]["cut"].as_array().expect("a list");
    let shows = |local: &str| cut.iter().any(|flow| flow["local"] == local);
    assert!(shows(&of_the_pod) && !shows(&of_the_node), "{:#}", said["flows"]);
    assert_eq!(said["pod"]["host_network"], true);
    assert!(!said["open"].as_array().expect("a list").is_empty(), "its packet sockets stay open");
}

fn a_manifest_that_is_not_right_is_refused() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node, .. } = &scene;
    let refused = |uid: &str, manifest: &str, said: &str| {
        for verb in [&["preview", uid][..], &["add", uid, "--dry-run"]] {
            let output = agent.run(&[verb, &["--pod-manifest", manifest]].concat()).expect(2);
            assert!(output.stderr.contains(said), "{said:?} is not in\n{}", output.text());
        }
    };
    let right = manifest(&scene, "{tcpSocket: {port: 80}}");
    refused(neighbour.uid(), &right, &format!("pod.yaml does not have pod {}", neighbour.uid()));
    refused(web.uid(), "/nonexistent/pod.yaml", "cannot read /nonexistent/pod.yaml");
    let broken = node.folder().join("broken.yaml").display().to_string();
    fs::write(&broken, "spec: [").expect("the node's folder is writable");
    refused(web.uid(), &broken, "neither YAML nor JSON");
    // What is wrong in a pod is said, and the rest of it counts.
    let odd = manifest(&scene, "{quic: {port: 80}}");
    let said = preview(&scene, &["--pod-manifest", &odd]);
    let problem =
        "spec.containers[0].livenessProbe: unknown type of probe: quic; known are exec, grpc, httpGet, tcpSocket";
    assert_eq!(said["problems"], serde_json::json!([problem]));
    assert_eq!(said["containers"][1]["outcome"], "keeps_running");
    agent.run(&["preview", "aaaaaaaa"]).expect(3);
    agent.run(&["preview", "../etc"]).expect(2);
}

fn without_a_specification_it_says_what_the_node_knows() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let (_sockets, local, _) = connection(web.app(), web.app(), Ipv4Addr::LOCALHOST);
    let (_others, _, _) = connection(web.app(), neighbour.app(), neighbour.end().v4);
    let said = preview(&scene, &["--keep-loopback"]);
    assert_eq!(said["flows"]["kept"].as_array().map(Vec::len), Some(2), "both ends of the one on loopback");
    let cut = said["flows"]["cut"].as_array().expect("a list");
    assert!(cut.iter().all(|flow| flow["local"] != local.as_str()) && cut.len() == 1, "{:#}", said["flows"]);
    assert_eq!(cut[0]["direction"], "out");
    let text = agent.run(&["preview", web.uid()]).expect(0).stdout;
    for said in ["specification  not known", "--pod-manifest pod.yaml", "holding", "Flows that are cut", "pod-proc"] {
        assert!(text.contains(said), "{said:?} is not in\n{text}");
    }
}
