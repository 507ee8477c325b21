//! Manifests against what becomes of their containers, with the times that the simulator of kubelet's prober comes to.

use std::path::Path;

use jiff::Timestamp;

use super::{
    container::Scene,
    prober::{self, Age, Window, simulator},
    report::{ContainerOutlook, Effect, Options, Outcome},
    *,
};
use crate::spec::{ProbeKind, Siblings, Sources};

const UID: &str = "3f1c2d64-9b0e-4c57-8a21-5d7e6f0a1b2c";

fn search(name: &str) -> Search {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pods").join(name);
    let sources = Sources { manifest: Some(manifest), ..Sources::default() };
    sources.in_files(UID.parse().expect("a UID"), None).expect(name)
}

fn at(seconds_from_start: i64) -> Timestamp {
    let start: Timestamp = "2026-03-01T03:00:02Z".parse().expect("a time");
    start + jiff::SignedDuration::from_secs(seconds_from_start)
}

fn containers(name: &str, options: &Options, age_at_least: u64) -> Vec<ContainerOutlook> {
    let search = search(name);
    let pod = &search.found.as_ref().expect(name).spec;
    Scene { pod, options, now: at(1000), age_at_least }.containers()
}

fn plain(name: &str) -> Vec<ContainerOutlook> {
    containers(name, &Options::default(), 0)
}

#[expect(clippy::unnecessary_wraps, reason = "what it is compared with is optional")]
fn window(earliest: u64, latest: u64) -> Option<Window> {
    Some(Window { earliest, latest: Some(latest) })
}

#[test]
fn when_containers_end() {
    use Outcome::{Ends, MayEnd};
    let long_running = 1000;
    for (file, outcome, given_up, ended, next_life) in [
        ("exec-liveness.yaml", MayEnd, window(10, 16), window(10, 46), window(16, 21)),
        ("http-liveness.yaml", Ends, window(6, 10), window(6, 40), window(10, 13)),
        ("tcp.yaml", Ends, window(20, 31), window(20, 61), window(36, 46)),
        ("grpc.yaml", Ends, window(20, 31), window(20, 61), window(31, 41)),
        ("named-port.yaml", Ends, window(20, 31), window(20, 61), window(21, 31)),
        // Started long ago, so liveness counts; the next one never starts.
        ("startup.yaml", Ends, window(0, 11), window(0, 41), window(291, 301)),
        ("probe-grace.yaml", Ends, window(0, 61), window(0, 121), window(1, 61)),
        ("scene.yaml", Ends, window(20, 31), window(20, 61), window(21, 31)),
        // Attempts of 25 s follow each other without a pause; the least grace is 2 s; nothing is started again.
        ("slow-answers.yaml", Ends, window(75, 110), window(75, 112), None),
        ("sidecar.yaml", Ends, window(8, 11), window(8, 41), window(9, 16)),
    ] {
        let first = &containers(file, &Options::default(), long_running)[0];
        let found = (first.outcome, first.given_up_secs, first.ended_secs, first.next_life_secs);
        assert_eq!(found, (outcome, given_up, ended, next_life), "{file}");
    }
}

#[test]
fn the_times_are_the_simulators() {
    let files =
        ["exec-liveness", "http-liveness", "tcp", "grpc", "named-port", "startup", "probe-grace", "slow-answers"];
    for file in files.map(|name| format!("{name}.yaml")) {
        let search = search(&file);
        let pod = &search.found.as_ref().expect("found").spec;
        for probe in &pod.containers[0].probes {
            for age in [Age::NEW, Age::about(7), Age::about(100)] {
                if probe.kind == ProbeKind::Startup {
                    let simulated = simulator::simulated_startup(probe.timing, age);
                    let window = prober::startup_fails(&probe.timing, age);
                    let holds = |one: &Window| window.earliest <= one.earliest && one.latest <= window.latest;
                    assert!(simulated.as_ref().is_none_or(holds), "{file}, {age:?}: {window:?} is not {simulated:?}");
                } else {
                    let simulated = simulator::simulated(probe.timing, age);
                    assert_eq!(prober::fails(&probe.timing, age), simulated, "{file}, {:?}, {age:?}", probe.kind);
                }
            }
        }
    }
}

#[test]
fn a_container_without_a_probe_keeps_running() {
    let [_, worker] = &plain("scene.yaml")[..] else { unreachable!("the scene has two containers") };
    assert_eq!((worker.outcome, worker.ended_secs), (Outcome::KeepsRunning, None));
    assert_eq!(worker.why, "it has no liveness probe");
}

#[test]
fn whether_a_startup_probe_counts_decides() {
    // Nothing is known: it may have started (then 0 to 11 s) or not (then up to the whole of 301 s).
    let [web] = &plain("startup.yaml")[..] else { unreachable!("it has one container") };
    assert_eq!((web.outcome, web.given_up_secs), (Outcome::Ends, window(0, 301)));
    // A minute old, as the node knows: so much less.
    let [web] = &containers("startup.yaml", &Options::default(), 60)[..] else { unreachable!("it has one container") };
    assert_eq!(web.given_up_secs, window(0, 241));
    // Older than its startup probe lets it be without having started.
    let [web] = &containers("startup.yaml", &Options::default(), 302)[..] else { unreachable!("it has one container") };
    assert_eq!(web.given_up_secs, window(0, 11));
    assert_eq!(web.probes[0].effect, Effect::Over);
}

#[test]
fn kept_probes_end_nothing() {
    let keep = |ports: &[u16], keep_loopback| Options {
        keep_probes: true,
        keep_loopback,
        probe_ports: ports.iter().copied().collect(),
        ..Options::default()
    };
    let [web, worker] = &containers("scene.yaml", &keep(&[80], false), 0)[..] else { unreachable!("two containers") };
    assert_eq!((web.outcome, web.probes[0].effect), (Outcome::KeepsRunning, Effect::Kept));
    assert_eq!(worker.outcome, Outcome::KeepsRunning);
    let [web, _] = &containers("scene.yaml", &keep(&[8080], false), 0)[..] else { unreachable!("two containers") };
    assert_eq!((web.outcome, web.probes[0].effect), (Outcome::Ends, Effect::Cut), "another port is not its port");
    assert!(web.probes[0].why.contains("does not name its port"), "{}", web.probes[0].why);
}

#[test]
fn no_probe_is_kept_on_the_nodes_network() {
    let mut search = search("scene.yaml");
    let pod = &mut search.found.as_mut().expect("found").spec;
    pod.host_network = true;
    let options = Options { keep_probes: true, keep_loopback: true, probe_ports: [80].into(), ..Options::default() };
    let outlooks = Scene { pod, options: &options, now: at(1000), age_at_least: 0 }.containers();
    assert_eq!((outlooks[0].outcome, outlooks[0].probes[0].effect), (Outcome::Ends, Effect::Cut));
}

#[test]
fn a_probe_that_is_not_known_hides_nothing() {
    let outlooks = plain("bad.yaml");
    let outcomes: Vec<Outcome> = outlooks.iter().map(|one| one.outcome).collect();
    assert_eq!(outcomes, [Outcome::Unknown, Outcome::Unknown, Outcome::KeepsRunning, Outcome::Ends]);
    assert_eq!(outlooks[3].given_up_secs, window(20, 32), "its timeout is 2 s");
}

fn preview(name: &str, options: &Options, change: impl FnOnce(&mut Search)) -> Preview {
    let mut search = search(name);
    change(&mut search);
    let uid = UID.parse().expect("a UID");
    let subject = Subject { uid, pod: None, isolated: false, search: &search, options, obstacles: &[], has_lsm: false };
    look(&subject, at(1000))
}

fn assert_says(texts: &[String], said: &str) {
    assert!(texts.iter().any(|text| text.contains(said)), "{said:?} is not in {texts:#?}");
}

#[test]
fn the_scene_from_end_to_end() {
    let preview = preview("scene.yaml", &Options::default(), |search| {
        search.siblings = Some(Siblings { pods: 3, ready: 2 });
        search.name = Some(("shop".to_owned(), "web-5d6f7c8b9-x2x4z".to_owned()));
    });
    assert_says(&preview.evidence.lost, "web: memory");
    assert_says(&preview.evidence.lost, "the runtime keeps the ended container's layer until it ends once more");
    assert_says(&preview.evidence.kept, "worker: everything");
    assert_says(&preview.evidence.kept, "emptyDir cache");
    assert_says(&preview.evidence.kept, "volume data: outlives the pod");
    assert_says(&preview.evidence.advice, "--keep-probes");
    let service = &preview.service;
    assert_eq!((service.ready_now, service.not_ready_secs), (Some(true), window(20, 31)));
    assert_eq!((service.owner.as_deref(), service.replacement), (Some("Deployment web"), Some(false)));
    assert!(service.replacement_why.contains("counts"), "{}", service.replacement_why);
    assert_eq!(service.replicas.as_deref(), Some("2 more of it on this node, this one left out; 2 of 3 are ready"));
    assert_says(&service.commands, "kubectl -n shop get deployment web");
    assert_says(&service.commands, "kubectl -n shop label pod web-5d6f7c8b9-x2x4z app-");
    assert_says(&preview.beyond, "volume data");
    assert_says(&preview.unknown, "not on this node");
}

#[test]
fn kept_probes_keep_the_scene() {
    let options = Options { keep_probes: true, keep_loopback: true, probe_ports: [80].into(), ..Options::default() };
    let preview = preview("scene.yaml", &options, |_| ());
    assert_eq!(preview.evidence.lost, Vec::<String>::new());
    assert_eq!(preview.service.not_ready_secs, None);
    assert!(preview.service.traffic.contains("go on to send it"), "{}", preview.service.traffic);
}

#[test]
fn ways_beyond_the_network_are_named() {
    let preview = preview("sidecar.yaml", &Options::default(), |_| ());
    for said in [
        "container main is privileged",
        "container mesh has the capability NET_ADMIN",
        "hostPID",
        "hostPath runtime: /run/containerd/containerd.sock of the node, a socket",
    ] {
        assert_says(&preview.beyond, said);
    }
    assert!(!preview.beyond.iter().any(|way| way.contains("NET_RAW")), "the hooks see what that sends");
}

#[test]
fn owners_decide_on_a_replacement() {
    let of = |kind: &str| {
        preview("slow-answers.yaml", &Options::default(), |search| {
            let found = search.found.as_mut().expect("found");
            let (kind, name) = (kind.to_owned(), "x".to_owned());
            found.spec.owner = Some(crate::spec::Owner { kind, name, replicas: None, ready: None });
        })
        .service
    };
    for (kind, replacement, why) in [
        ("ReplicaSet", Some(false), "counts"),
        ("StatefulSet", Some(false), "its name"),
        ("DaemonSet", Some(false), "this node's"),
        ("Node", Some(false), "static pod"),
        ("Job", Some(true), "backoffLimit"),
        ("Rollout", None, "not known here"),
    ] {
        let service = of(kind);
        assert_eq!(service.replacement, replacement, "{kind}");
        assert!(service.replacement_why.contains(why), "{kind}: {}", service.replacement_why);
    }
    let bare = preview("tcp.yaml", &Options::default(), |_| ()).service;
    assert_eq!((bare.owner, bare.replacement), (None, Some(false)));
    assert_says(&of("Job").dangers, "activeDeadlineSeconds: kubelet ends the pod 600 s after it was started");
    assert_says(&of("Job").dangers, "a Job deletes the pod");
    assert!(!of("Job").dangers.iter().any(|danger| danger.contains("restarts count")), "it is not started again");
}

#[test]
fn without_a_specification_it_says_how_to_give_one() {
    let search = Search { failed: vec!["kubelet did not answer".to_owned()], ..Search::default() };
    let uid = UID.parse().expect("a UID");
    let options = Options::default();
    let subject =
        Subject { uid, pod: None, isolated: true, search: &search, options: &options, obstacles: &[], has_lsm: false };
    let preview = look(&subject, at(0));
    assert!(preview.containers.is_empty() && preview.pod.isolated && !preview.pod.present);
    assert_says(&preview.unknown, "kubelet did not answer");
    assert_says(&preview.unknown, "--pod-manifest pod.yaml");
    assert_says(&preview.evidence.lost, "20 to 61 s after the cut");
}
