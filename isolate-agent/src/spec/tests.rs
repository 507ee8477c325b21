//! Manifests, as the Kubernetes documentation has them and worse, against what isolation needs of them.

use std::path::{Path, PathBuf};

use super::{
    document::{self, Candidate, Wanted, choose},
    *,
};

const UID: &str = "3f1c2d64-9b0e-4c57-8a21-5d7e6f0a1b2c";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pods").join(name)
}

fn candidates(name: &str) -> Vec<Candidate> {
    document::read_file(&fixture(name)).expect(name)
}

fn only(name: &str) -> PodSpec {
    let [Candidate { spec, problems, .. }] = &candidates(name)[..] else { unreachable!("{name} has one pod") };
    assert_eq!(problems, &[], "{name}");
    spec.clone()
}

fn timing(initial: u64, period: u64, timeout: u64, failure: u64) -> Timing {
    Timing {
        initial_delay_secs: initial,
        period_secs: period,
        timeout_secs: timeout,
        failure_threshold: failure,
        success_threshold: 1,
    }
}

#[test]
fn the_pages_of_the_documentation() {
    use Protocol::{Grpc, Http, Tcp};
    for (name, kind, reach, expected, ports) in [
        ("exec-liveness.yaml", ProbeKind::Liveness, None, timing(5, 5, 1, 3), vec![]),
        ("http-liveness.yaml", ProbeKind::Liveness, Some((Http, 8080)), timing(3, 3, 1, 3), vec![8080]),
        ("tcp.yaml", ProbeKind::Liveness, Some((Tcp, 8080)), timing(15, 10, 1, 3), vec![8080]),
        ("tcp.yaml", ProbeKind::Readiness, Some((Tcp, 8080)), timing(15, 10, 1, 3), vec![8080]),
        ("grpc.yaml", ProbeKind::Liveness, Some((Grpc, 2379)), timing(10, 10, 1, 3), vec![2379]),
        ("named-port.yaml", ProbeKind::Liveness, Some((Http, 8081)), timing(0, 10, 1, 3), vec![8081]),
        ("startup.yaml", ProbeKind::Startup, Some((Http, 8080)), timing(0, 10, 1, 30), vec![8080]),
        ("startup.yaml", ProbeKind::Liveness, Some((Http, 8080)), timing(0, 10, 1, 1), vec![8080]),
        ("probe-grace.yaml", ProbeKind::Liveness, Some((Http, 8080)), timing(0, 60, 1, 1), vec![8080]),
    ] {
        let pod = only(name);
        let probe = pod.containers[0].probe(kind).expect(name);
        let action = reach.map_or(Action::Exec, |(protocol, port)| {
            Action::Network(Network { protocol, port: Some(port), host: None })
        });
        assert_eq!((&probe.action, probe.timing), (&action, expected), "{name}");
        assert_eq!(pod.probe_ports().into_iter().collect::<Vec<_>>(), ports, "{name}");
        assert_eq!(pod.has_exec_probe(), reach.is_none(), "{name}");
    }
    let long = only("probe-grace.yaml");
    assert_eq!((long.grace_secs, long.containers[0].probes[0].grace_secs), (3600, Some(60)));
    assert_eq!(only("tcp.yaml").grace_secs, 30, "the default");
}

#[test]
fn a_pod_with_its_state() {
    let pod = only("scene.yaml");
    assert_eq!(pod.uid, UID.parse().ok());
    assert_eq!((pod.namespace.as_deref(), pod.node.as_deref()), (Some("shop"), Some("node1")));
    let owner = pod.owner.expect("an owner");
    assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("ReplicaSet", "web-5d6f7c8b9"));
    assert_eq!(pod.ready, Some(true));
    let [web, worker] = &pod.containers[..] else { unreachable!("it has two containers") };
    let since = "2026-03-01T03:00:02Z".parse().ok();
    let state = ContainerState { running_since: since, started: Some(true), ready: Some(true), restarts: 0 };
    assert_eq!((web.state, worker.probes.len()), (Some(state), 0));
    assert_eq!(pod.volumes[0].kind, VolumeKind::EmptyDir { memory: false });
    assert_eq!(pod.volumes[1].kind, VolumeKind::Persistent);
}

#[test]
fn what_leads_round_the_network_is_read() {
    let pod = only("sidecar.yaml");
    let roles: Vec<Role> = pod.containers.iter().map(|container| container.role).collect();
    assert_eq!(roles, [Role::Init, Role::Sidecar, Role::Main]);
    assert_eq!(pod.containers[1].capabilities, ["NET_ADMIN", "NET_RAW"]);
    assert!(pod.containers[2].privileged && pod.host_pid && !pod.host_network);
    assert_eq!(pod.volumes[0].kind, VolumeKind::HostPath("/run/containerd/containerd.sock".to_owned()));
    assert_eq!(pod.volumes[1].kind, VolumeKind::EmptyDir { memory: true });
    assert_eq!(pod.probe_ports().into_iter().collect::<Vec<_>>(), [15021], "another host's port is not the pod's");
    let slow = only("slow-answers.yaml");
    assert_eq!((slow.restart_policy, slow.grace_secs, slow.deadline_secs), (RestartPolicy::Never, 0, Some(600)));
    assert!(slow.containers[0].has_pre_stop);
    assert_eq!(slow.probe_ports().into_iter().collect::<Vec<_>>(), [7000], "a number as text");
}

#[test]
fn what_is_wrong_is_named_and_hides_nothing() {
    let [Candidate { spec, problems, .. }] = &candidates("bad.yaml")[..] else { unreachable!("it has one pod") };
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for expected in [
        "metadata.labels.app: expected text, found 7",
        "spec.restartPolicy: expected Always, OnFailure or Never, found \"Sometimes\"",
        "spec.containers[0].livenessProbe: unknown type of probe: quic; known are exec, grpc, httpGet, tcpSocket",
        "spec.containers[1].livenessProbe: a probe does one thing, this one several: exec, tcpSocket",
        "spec.containers[2].ports[0].containerPort: 70000 is not in 1..=65535",
        "spec.containers[2].livenessProbe.tcpSocket.port: the container has no port named \"web\" (it names none)",
        "spec.containers[2].readinessProbe.tcpSocket.port: 0 is not in 1..=65535",
        "spec.containers[2].readinessProbe.periodSeconds: -5 is not in 0..=2147483647",
        "spec.containers[2].startupProbe.grpc.port: expected a whole number, found \"web\"",
        "spec.containers[2].startupProbe.successThreshold: 2 is not 1, which a startup probe has to have",
    ] {
        assert!(said.iter().any(|said| said == expected), "{expected} is missing in {said:#?}");
    }
    assert_eq!(said.len(), 10, "{said:#?}");
    let right = spec.containers[3].probe(ProbeKind::Liveness).expect("the good one is there");
    assert_eq!(right.timing, timing(0, 10, 2, 3), "0 is the default");
    assert_eq!(spec.probe_ports().into_iter().collect::<Vec<_>>(), [80]);
}

fn wanted(uid: &str, name: Option<(&str, &str)>) -> Wanted {
    let name = name.map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
    Wanted { uid: uid.parse().expect("a UID"), name }
}

#[test]
fn the_pod_that_is_meant_is_chosen() {
    let choose = |file: &str, wanted: Wanted| choose(candidates(file), &wanted, Path::new(file));
    let other = "aaaaaaaa-9b0e-4c57-8a21-5d7e6f0a1b2c";
    assert!(choose("scene.yaml", wanted(UID, None)).is_ok(), "by its UID");
    assert!(matches!(choose("scene.yaml", wanted(other, None)), Err(SpecError::OtherPods { .. })));
    assert!(choose("tcp.yaml", wanted(other, None)).is_ok(), "the only one, without a UID");
    assert!(choose("tcp.yaml", wanted(other, Some(("default", "by-tcp")))).is_ok());
    let error = choose("tcp.yaml", wanted(other, Some(("default", "other")))).expect_err("not its name");
    assert!(error.to_string().contains("tcp.yaml has nothing for pod default/other alone, but Pod default/by-tcp"));
    let error = choose("deployment.yaml", wanted(other, None)).expect_err("two may be meant");
    assert!(error.to_string().contains("Deployment shop/web, CronJob shop/report"), "{error}");
    let web = choose("deployment.yaml", wanted(other, Some(("shop", "web-5d6f7c8b9-x2x4z")))).expect("by name").spec;
    let owner = web.owner.expect("what makes it");
    assert_eq!((owner.kind.as_str(), owner.replicas, owner.ready), ("Deployment", Some(3), Some(2)));
    let report = choose("deployment.yaml", wanted(other, Some(("shop", "report-29000000-abcde")))).expect("by name");
    assert_eq!(report.spec.probe_ports().into_iter().collect::<Vec<_>>(), [9000]);
}

#[test]
fn lists_json_and_what_is_no_manifest() {
    let list = r#"{"kind":"PodList","items":[{"metadata":{"name":"a","uid":"0f0e0d0c-1234-4000-8000-0123456789ab"},
        "spec":{"containers":[{"name":"x"}]}},{"spec":7},{"kind":"Secret"}]}"#;
    let found = document::candidates(list).expect("JSON is YAML");
    assert_eq!(
        found.iter().map(Candidate::label).collect::<Vec<_>>(),
        ["Pod default/a with UID 0f0e0d0c-1234-4000-8000-0123456789ab"]
    );
    for (text, said) in [("a: [", "did not find expected"), ("a: b: c", "mapping values"), ("\t\0", "")] {
        let error = document::candidates(text).expect_err(text);
        assert!(error.to_string().contains(said), "{error}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("empty.yaml");
    std::fs::write(&path, "kind: ConfigMap\n").expect("written");
    let sources = Sources { manifest: Some(path.clone()), ..Sources::default() };
    let uid = UID.parse().expect("a UID");
    assert!(matches!(sources.in_files(uid, None), Err(SpecError::NoPod { .. })));
    std::fs::remove_file(&path).expect("removed");
    assert!(matches!(sources.in_files(uid, None), Err(SpecError::Read { .. })));
}

#[test]
fn an_alias_bomb_is_refused() {
    let level = |level: u32| match level {
        0 => "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(),
        level => format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 9].join(",")),
    };
    let bomb: String = (0..12).map(level).collect();
    assert!(document::candidates(&bomb).is_err());
}

#[test]
fn static_pods_are_found_by_the_folder_of_their_logs() {
    let folder = tempfile::tempdir().expect("a folder");
    let (logs, manifests) = (folder.path().join("logs"), folder.path().join("manifests"));
    let hash = "0f0e0d0c12344000800000001234567b";
    for made in [logs.join(format!("kube-system_etcd-events-node1_{hash}")), manifests.clone()] {
        std::fs::create_dir_all(made).expect("folders");
    }
    let pod = |name: &str, port: u16| {
        format!(
            "kind: Pod\nmetadata: {{name: {name}, namespace: kube-system}}\n\
             spec: {{containers: [{{name: c, livenessProbe: {{tcpSocket: {{port: {port}}}}}}}]}}\n"
        )
    };
    std::fs::write(manifests.join("etcd.yaml"), pod("etcd", 1)).expect("written");
    std::fs::write(manifests.join("events.yaml"), pod("etcd-events", 2)).expect("written");
    std::fs::write(manifests.join(".hidden.yaml"), pod("etcd-events-node1", 3)).expect("written");
    std::fs::write(manifests.join("notes.txt"), "a: [").expect("written");
    let folders = NodeFolders { logs, manifests: vec![manifests, "/nonexistent".into()] };
    let sources = Sources { folders, ..Sources::default() };
    let search = sources.in_files(hash.parse().expect("a UID"), None).expect("no manifest was given");
    assert_eq!(search.name, Some(("kube-system".to_owned(), "etcd-events-node1".to_owned())));
    assert_eq!(search.found.expect("found").spec.probe_ports().into_iter().collect::<Vec<_>>(), [2]);
    assert_eq!(sources.in_files(UID.parse().expect("a UID"), None).expect("no manifest was given"), Search::default());
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        let _found = document::candidates(&text);
    }

    #[test]
    fn any_pod_is_read(probe in "[a-zA-Z]{0,12}", port in proptest::prelude::any::<i64>(), name in "\\PC{0,12}") {
        let pod = serde_json::json!({"kind": "Pod", "metadata": {"name": name, "uid": name}, "spec": {"containers": [
            {"name": name, "ports": [{"name": name, "containerPort": port}],
             "livenessProbe": {probe.as_str(): {"port": name}, "periodSeconds": port}},
            {"name": "good", "livenessProbe": {"tcpSocket": {"port": 80}}}]}});
        let found = document::candidates(&pod.to_string()).expect("JSON");
        proptest::prop_assert!(found[0].spec.probe_ports().contains(&80), "a bad container hid a good one");
    }
}
