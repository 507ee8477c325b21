//! What nobody should send to the control socket.

use std::{os::unix::fs::PermissionsExt as _, process::Stdio};

use isolate_tests::agent;

use super::isolated;
use crate::{scene::Scene, suite::trials};

trials![requests_that_make_no_sense, callers_that_are_not_root, root_in_an_isolated_pod];

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
    let from = |pod: &isolate_tests::pod::Pod| {
        let mut curl = pod.command("curl");
        curl.args(["--silent", "--max-time", "20", "--write-out", "%{http_code}", "--output", "/dev/null"]);
        curl.args(["--request", "DELETE", "--unix-socket"]).arg(agent.socket());
        curl.arg(format!("http://agent{ISOLATIONS}/{}", web.uid()));
        agent::output(curl.stdin(Stdio::null())).stdout
    };
    assert_eq!(from(web), "200", "it cannot ask while it is healthy");
    let path = isolated(&scene);
    assert_eq!(from(web), "403");
    path.assert_cut();
    assert_eq!(from(neighbour), "200", "a healthy pod's root is root");
    path.assert_flows();
}
