//! The classical experiment: a pod with a probed container and one without probe is cut off. What becomes of what was found
//! in them, and does anything get out? Checks docs/behaviour.md, and writes its table with `ISOLATE_BLESS=1`.

use std::{env, fmt::Write as _, fs, net::Ipv4Addr, process::Stdio, time::Duration};

use isolate_tests::{
    agent::Agent,
    channel::Path,
    kubelet::{Container, Kubelet, Marks, Numbers},
    node::Node,
    pod::Spec,
    wait,
    wire::{Family, Kind},
};

use crate::{
    scene::{Scene, every_channel},
    suite::trials,
};

trials![
    cut_plainly_the_scene_is_lost,
    preserved_the_scene_is_kept,
    the_page_is_current,
    kubelet_tells_the_ports,
    a_kubelet_that_says_nothing_keeps_nobody_connected,
    what_is_wrong_about_the_ports_is_refused,
];

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/behaviour.md");
/// Where the web container listens, and is probed.
const PORT: u16 = 80;
/// Enough for the probe to fail as often as it may, with some more.
const ATTEMPTS: u32 = 5;

/// What became of the scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    probe_passes: bool,
    restarted: bool,
    web: Marks,
    worker: Marks,
}

const PLAIN: Outcome = Outcome { probe_passes: false, restarted: true, web: Marks::NONE, worker: Marks::BOTH };
const PRESERVED: Outcome = Outcome { probe_passes: true, restarted: false, web: Marks::BOTH, worker: Marks::BOTH };

fn cut_plainly_the_scene_is_lost() {
    assert_eq!(experiment(&[]), PLAIN);
}

fn preserved_the_scene_is_kept() {
    assert_eq!(experiment(&["--preserve"]), PRESERVED);
}

/// Cuts the pod off with these options, lets kubelet do what it does, and looks what is left. Nothing may get out.
fn experiment(options: &[&str]) -> Outcome {
    let node = Node::new();
    let pod = node.pod(&Spec { containers: 0, ..Spec::default() });
    let neighbour = node.pod(&Spec::default());
    // Whoever attacks from the pod is in it, beside both.
    let attacker = pod.start_container();
    let kubelet = Kubelet::start(&node, Numbers::SCALED_DOWN);
    let agent = Agent::new(&node).with_daemon_option("--kubelet-cgroup", &kubelet.cgroup().display().to_string());
    let listens = (pod.end_of(&attacker).v4, PORT).into();
    let mut web = Container::marked(&node, &pod, "web", Some(listens));
    let worker = Container::marked(&node, &pod, "worker", None);
    let path = Path::shown(every_channel(), pod.end_of(&attacker), neighbour.end());
    assert_eq!(kubelet.probe(&mut web, 2), 2, "a healthy container answers");
    assert_eq!((web.restarts(), web.marks()), (0, Marks::BOTH));

    let manifest = manifest(&node, pod.uid());
    let _daemon = agent.daemon();
    agent.add(&[&[pod.uid(), "--pod-manifest", &manifest], options].concat());
    let answered = kubelet.probe(&mut web, ATTEMPTS);
    path.assert_cut();
    assert!(answered == 0 || answered == ATTEMPTS, "{answered} of {ATTEMPTS} attempts were answered");
    Outcome { probe_passes: answered > 0, restarted: web.restarts() > 0, web: web.marks(), worker: worker.marks() }
}

/// By its read API: whether it answers before the cut or after it, the probe passes in the end.
fn kubelet_tells_the_ports() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let kubelet = Kubelet::start(node, Numbers::SCALED_DOWN);
    let mut container = Container::marked(node, web, "web", Some((web.end().v4, PORT).into()));
    let path = Path::shown(every_channel(), web.end(), neighbour.end());
    let agent = agent.clone().with_daemon_option("--kubelet-cgroup", &kubelet.cgroup().display().to_string());
    let _daemon = agent.daemon();
    let service = node.process();
    let listener = service.socket(Kind::Tcp, Family::V4, wait::DEADLINE);
    let url = format!("http://{}", listener.bind((Ipv4Addr::LOCALHOST, 0).into()));
    let mut adding = agent.command(&["add", web.uid(), "--preserve", "--kubelet-url", &url]);
    let adding = adding.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the agent can be started");
    let asked = listener.accept().expect("kubelet is asked");
    assert!(asked.recv().data.starts_with(b"GET /pods "));
    let pods = format!(
        r#"{{"kind":"PodList","items":[{{"metadata":{{"uid":"{}"}},"spec":{{"containers":[
            {{"name":"web","livenessProbe":{{"tcpSocket":{{"port":{PORT}}}}}}}]}}}}]}}"#,
        web.uid()
    );
    asked.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{pods}", pods.len()).as_bytes());
    let output = adding.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(kubelet.probe(&mut container, 2), 2, "the probe passes");
    path.assert_cut();
}

fn a_kubelet_that_says_nothing_keeps_nobody_connected() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let path = Path::shown(every_channel(), web.end(), neighbour.end());
    let _daemon = agent.daemon();
    let service = node.process();
    let listener = service.socket(Kind::Tcp, Family::V4, Duration::from_secs(1));
    let url = format!("http://{}", listener.bind((Ipv4Addr::LOCALHOST, 0).into()));
    let said = agent.run(&["add", web.uid(), "--preserve", "--kubelet-url", &url]).expect(1);
    for part in ["is isolated", "kubelet's probes are cut as well", "did not answer within 1000 ms"] {
        assert!(said.stderr.contains(part), "{part:?} is not in\n{}", said.text());
    }
    path.assert_cut();
}

fn what_is_wrong_about_the_ports_is_refused() {
    let scene = Scene::new();
    let Scene { agent, web, node, .. } = &scene;
    let manifest = manifest(node, web.uid());
    let text = fs::read_to_string(&manifest).expect("just written").replace("port: http", "port: https");
    fs::write(&manifest, text).expect("the node's folder is writable");
    let said = agent.run(&["add", web.uid(), "--preserve", "--pod-manifest", &manifest]).expect(2);
    let problem = "spec.containers[0].livenessProbe.tcpSocket.port: the container has no port named \"https\"";
    assert!(said.stderr.contains(problem) && said.stderr.contains("nothing was changed"), "{}", said.text());
    assert!(agent.isolated().is_empty());
}

fn manifest(node: &Node, uid: &str) -> String {
    let path = node.folder().join("pod.yaml");
    let text = format!(
        "kind: Pod\nmetadata: {{name: web, namespace: shop, uid: {uid}}}\nspec:\n  containers:\n\
         \x20 - name: web\n    ports: [{{name: http, containerPort: {PORT}}}]\n\
         \x20   livenessProbe: {{tcpSocket: {{port: http}}, periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 2}}\n\
         \x20 - name: worker\n"
    );
    fs::write(&path, text).expect("the node's folder is writable");
    path.display().to_string()
}

fn the_page_is_current() {
    let page = fs::read_to_string(DOCUMENT).expect("docs/behaviour.md can be read");
    let (begin, end) = ("<!-- made by a test: begin -->\n", "<!-- made by a test: end -->");
    let (head, rest) = page.split_once(begin).expect("it has a place for the table");
    let (_table, tail) = rest.split_once(end).expect("that has an end");
    let current = format!("{head}{begin}{}{end}{tail}", table());
    if env::var_os("ISOLATE_BLESS").is_some() {
        fs::write(DOCUMENT, &current).expect("docs can be written");
    } else {
        assert!(page == current, "docs/behaviour.md is not current: set ISOLATE_BLESS=1. It should be:\n{current}");
    }
}

fn table() -> String {
    let mut text = "| | `add` | `add --preserve` |\n|---|---|---|\n".to_owned();
    let mut row = |what: &str, of: fn(&Outcome) -> &'static str| {
        writeln!(text, "| {what} | {} | {} |", of(&PLAIN), of(&PRESERVED)).expect("a string takes it");
    };
    row("kubelet's probe of `web`", |it| if it.probe_passes { "passes" } else { "times out" });
    row("`web` is started anew", |it| if it.restarted { "yes" } else { "no" });
    row("`web`: the value in its memory", |it| kept(it.web.memory));
    row("`web`: the file that it wrote", |it| kept(it.web.layer));
    row("`worker`: the value in its memory", |it| kept(it.worker.memory));
    row("`worker`: the file that it wrote", |it| kept(it.worker.layer));
    row("ways between the pod and its neighbour, of 20", |_| "none open");
    text
}

const fn kept(kept: bool) -> &'static str {
    if kept { "kept" } else { "lost" }
}
