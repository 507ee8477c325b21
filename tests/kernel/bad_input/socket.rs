//! What nobody should send to the control socket.

use std::{
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use isolate_tests::{
    agent::{self, Agent},
    pod::Pod,
    wait,
};

use super::isolated;
use crate::{scene::Scene, suite::trials};

trials![
    requests_that_make_no_sense,
    callers_that_are_not_root,
    root_in_an_isolated_pod,
    root_in_an_isolated_pod_that_has_ended,
];

const ISOLATIONS: &str = "/v1/isolations";

fn requests_that_make_no_sense() {
    let scene = Scene::new();
    let daemon = scene.agent.daemon();
    let path = isolated(&scene);
    let huge = vec![b'x'; 10 << 20];
    let cases: [(&str, &[u8]); 5] = [
        ("10 MB", &huge),
        ("no JSON", b"{\"uids\": ["),
        ("unknown field", br#"{"uids": [], "releaseEverything": true}"#),
        ("wrong type", br#"{"uids": "all"}"#),
        ("nothing", b""),
    ];
    for endpoint in [ISOLATIONS, "/v1/isolations/remove"] {
        for (what, body) in cases {
            let (status, answer) = daemon.control("POST", endpoint, body);
            assert!((400..500).contains(&status), "{endpoint}, {what}: {status} {answer}");
            let error: serde_json::Value = serde_json::from_str(&answer).expect("errors are JSON");
            assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{what}: {answer}");
        }
    }
    assert_eq!(daemon.control("GET", "/v2/isolations", b"").0, 404);
    assert_eq!(daemon.control("PATCH", ISOLATIONS, b"{}").0, 405);
    assert_eq!(scene.agent.isolated(), [scene.web.uid()], "the daemon still answers");
    path.assert_cut();
}

fn callers_that_are_not_root() {
    let scene = Scene::new();
    let Scene { agent, node, .. } = &scene;
    let _daemon = agent.daemon();
    let path = isolated(&scene);
    let mode = std::fs::metadata(agent.socket()).expect("the socket is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Even when the socket's mode lets them in, they are refused by who they are.
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(agent.socket(), open.clone()).expect("root may");
    std::fs::set_permissions(agent.socket().parent().expect("it lies in a folder"), open).expect("root may");
    let mut curl = node.command("setpriv");
    curl.args(["--reuid=65534", "--regid=65534", "--clear-groups", "curl", "--silent", "--max-time", "20"]);
    curl.args(["--write-out", "%{http_code}", "--unix-socket"]).arg(agent.socket());
    curl.args([
        "--data",
        r#"{"all": true}"#,
        "--header",
        "Content-Type: application/json",
        "http://agent/v1/isolations/remove",
    ]);
    let answer = agent::output(curl.stdin(Stdio::null()));
    assert!(answer.code != 0 || answer.stdout.ends_with("403"), "{answer:?}");
    assert_eq!(agent.isolated(), [scene.web.uid()]);
    path.assert_cut();
}

/// A socket that is mounted into a pod goes past every hook.
fn root_in_an_isolated_pod() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let _daemon = agent.daemon();
    let from = |pod| agent::output(&mut release(agent, pod, web.uid())).stdout;
    assert_eq!(from(web), "200", "it cannot ask while it is healthy");
    let path = isolated(&scene);
    assert_eq!(from(web), "403");
    path.assert_cut();
    assert_eq!(from(neighbour), "200", "a healthy pod's root is root");
    path.assert_flows();
}

/// Who has asked and is gone by the time it is listened to cannot be told from who runs in no pod.
fn root_in_an_isolated_pod_that_has_ended() {
    let scene = Scene::new();
    let Scene { agent, web, .. } = &scene;
    let daemon = agent.daemon();
    let path = isolated(&scene);
    daemon.hold();
    let mut curl = release(agent, web, web.uid()).spawn().expect("curl is installed");
    // Nobody has read what it sent.
    let unread = |line: &str| line.split_whitespace().nth(3)?.parse::<u32>().ok().filter(|bytes| *bytes > 0);
    wait::until("its request waits", || {
        agent::output(web.command("ss").args(["--unix", "--no-header"]))
            .stdout
            .lines()
            .any(|line| unread(line).is_some())
    });
    curl.kill().expect("it waits");
    curl.wait().expect("a child can be waited for");
    daemon.go_on();
    // Who asks now comes after it.
    assert_eq!(agent.isolated(), [web.uid()]);
    assert!(daemon.log().contains("it ended before it was listened to"), "it is not told of");
    path.assert_cut();
}

/// A command by which a pod's root asks for another pod, or its own, to be released.
fn release(agent: &Agent, from: &Pod, uid: &str) -> Command {
    let mut curl = from.command("curl");
    curl.args(["--silent", "--max-time", "20", "--write-out", "%{http_code}", "--output", "/dev/null"]);
    curl.args(["--request", "DELETE", "--unix-socket"]).arg(agent.socket());
    curl.arg(format!("http://agent{ISOLATIONS}/{uid}")).stdin(Stdio::null()).stdout(Stdio::piped());
    curl
}
