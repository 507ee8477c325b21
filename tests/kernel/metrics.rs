//! A real Prometheus scrapes the agent and finds every documented metric, with its type and help.

use std::{fs, net::TcpStream, process::Stdio};

use isolate_tests::{
    agent::{self, METRICS},
    channel::{Channel, Path},
    node::Node,
    wait,
    wire::Family,
};
use serde_json::Value;

use crate::{scene::Scene, suite::trials};

trials![prometheus_finds_every_documented_metric needs Prometheus, drops_are_counted_per_pod_and_hook, health_pages];

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
const PROMETHEUS: &str = "127.0.0.1:9090";

fn prometheus_finds_every_documented_metric() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let _daemon = agent.daemon();
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    agent.add(&[web.uid()]);
    path.assert_cut();
    // What passes by an exemption has series as well.
    let kubelet = node.process();
    let allowed = Path::shown([Channel::Udp(Family::V4)], neighbour.end(), node.end(&kubelet));
    agent.add(&[neighbour.uid(), "--allow", &node.end(&kubelet).v4.to_string()]);
    allowed.assert_flows();
    let documented = documented();
    assert!(documented.len() > 10, "docs/metrics.md names too few: {documented:?}");
    let _prometheus = start_prometheus(node);

    wait::until("a scrape succeeds", || !query(node, "up == 1").is_empty());
    let metadata = get(node, "/api/v1/metadata");
    for Metric { name, kind, help } in &documented {
        // As OpenMetrics has it, metadata is by family: a counter without its suffix, an info without its own.
        let family = name.trim_end_matches("_total");
        let known = [name.as_str(), family, family.trim_end_matches("_info")];
        let found =
            known.iter().find_map(|name| metadata.get(*name)).unwrap_or_else(|| panic!("no metadata for {name}"));
        assert_eq!(found[0]["type"].as_str(), Some(kind.as_str()), "{name}");
        let told = found[0]["help"].as_str().unwrap_or_default();
        assert_eq!(told.trim_end_matches('.'), help.trim_end_matches('.'), "{name}");
        let series = format!("{{__name__=~\"{name}(_bucket|_info)?\"}}");
        assert!(!query(node, &series).is_empty() || may_be_empty(name), "no series of {name}");
    }
    let dropped = query(node, &format!("sum(isolate_dropped_packets_total{{pod_uid=\"{}\"}})", web.uid()));
    assert!(dropped[0]["value"][1].as_str().is_some_and(|count| count != "0"), "{dropped:?}");
}

/// Families whose series exist only after an event that this test does not cause.
fn may_be_empty(name: &str) -> bool {
    // No container runtime is asked here.
    matches!(name, "isolate_hook_repairs_total" | "isolate_cri_last_answer_seconds")
}

fn drops_are_counted_per_pod_and_hook() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let daemon = agent.daemon();
    let path = Path::shown(Channel::ROUTED, web.end(), neighbour.end());
    agent.add(&[web.uid()]);
    path.assert_cut();
    let page = daemon.page("/metrics").1;
    let value = |hook: &str, direction: &str| {
        let labels =
            [format!("pod_uid=\"{}\"", web.uid()), format!("hook=\"{hook}\""), format!("direction=\"{direction}\"")];
        let line = page.lines().find(|line| {
            line.starts_with("isolate_dropped_packets_total{") && labels.iter().all(|label| line.contains(label))
        });
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        value.unwrap_or_else(|| panic!("no drops of {hook} {direction}\n{page}"))
    };
    assert!(value("cgroup", "out") > 0.0 && value("veth", "in") > 0.0, "{page}");
    assert!(!page.contains(neighbour.uid()), "a pod that is not isolated has series");
    agent.remove(&[web.uid()]);
    path.assert_flows();
    // A page serves all who ask within a fifth of a second.
    wait::until("a released pod's series end", || !daemon.page("/metrics").1.contains(web.uid()));
}

fn health_pages() {
    let scene = Scene::new();
    let daemon = scene.agent.daemon();
    wait::until("it is ready", || daemon.page("/readyz").0 == 200);
    assert_eq!(daemon.page("/healthz").0, 200);
    assert_eq!(daemon.page("/nothing").0, 404);
}

#[derive(Debug)]
struct Metric {
    name: String,
    kind: String,
    help: String,
}

/// The rows of the table: name, type, unit, labels, what it tells.
fn documented() -> Vec<Metric> {
    let text = fs::read_to_string(DOCUMENT).unwrap_or_else(|error| panic!("docs/metrics.md: {error}"));
    let rows = text.lines().filter(|line| line.starts_with("| `isolate_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let cell = |at: usize| cells.get(at).copied().unwrap_or_default().to_owned();
        Metric { name: cell(1).replace('`', ""), kind: cell(2), help: cell(5) }
    })
    .collect()
}

/// Dropping it ends Prometheus.
struct Prometheus(std::process::Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("clean-up: prometheus: {error}");
        }
    }
}

fn start_prometheus(node: &Node) -> Prometheus {
    let folder = node.folder();
    let configuration = format!(
        "{{global: {{scrape_interval: 1s}}, scrape_configs: [{{job_name: isolate, static_configs: [{{targets: ['{METRICS}']}}]}}]}}"
    );
    let file = folder.join("prometheus.yml");
    fs::write(&file, configuration).expect("the node's folder is writable");
    let log = fs::File::create(folder.join("prometheus.log")).expect("the node's folder is writable");
    let mut command = node.command("prometheus");
    command
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()))
        .arg(format!("--web.listen-address={PROMETHEUS}"))
        .stdout(Stdio::null())
        .stderr(log);
    let prometheus = Prometheus(command.spawn().expect("prometheus was probed"));
    let answers = || node.netns().enter(|| TcpStream::connect(PROMETHEUS)).is_ok();
    wait::until("prometheus answers", || answers() && page(node, "/-/ready").0 == 200);
    prometheus
}

fn query(node: &Node, expression: &str) -> Vec<Value> {
    let encoded = expression.bytes().fold(String::new(), |text, byte| format!("{text}%{byte:02x}"));
    let answer = get(node, &format!("/api/v1/query?query={encoded}"));
    answer["result"].as_array().unwrap_or_else(|| panic!("{expression}: {answer:#}")).clone()
}

fn get(node: &Node, path: &str) -> Value {
    let (status, body) = page(node, path);
    assert_eq!(status, 200, "{path}: {body}");
    let answer: Value = serde_json::from_str(&body).expect("prometheus answers in JSON");
    answer["data"].clone()
}

fn page(node: &Node, path: &str) -> (u16, String) {
    let stream = node.netns().enter(|| TcpStream::connect(PROMETHEUS)).expect("prometheus listens");
    agent::request(stream, "GET", path, b"")
}
