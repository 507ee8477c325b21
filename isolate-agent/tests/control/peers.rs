//! Who may ask, and with what.

use std::{fs, os::unix::fs::PermissionsExt, process::Output};

use isolate_agent::control::protocol::{Code, ErrorBody, Outcomes};
use tokio::process::Command;

use super::harness::{Node, UID};

async fn curl(node: &Node, before: &[&str], arguments: &[&str]) -> Output {
    let words: Vec<&str> = before.iter().copied().chain(["curl", "--silent", "--show-error"]).collect();
    Command::new(words[0])
        .args(&words[1..])
        .args(["--max-time", "30", "--unix-socket"])
        .arg(node.socket())
        .args(arguments)
        .output()
        .await
        .expect("curl is installed")
}

#[tokio::test]
async fn curl_can_drive_it() {
    let node = Node::start();
    let body = format!(r#"{{"uids":["{UID}"],"reason":"done"}}"#);
    let output = curl(&node, &[], &["-d", &body, "http://localhost/v1/isolations"]).await;
    let outcomes: Outcomes = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(outcomes.worst(), Code::Done);

    let large = node.folder.path().join("large");
    fs::write(&large, vec![b' '; 10_000_000]).expect("a file");
    let upload = format!("@{}", large.display());
    // With and without `Expect: 100-continue`.
    for header in ["X-Any: 1", "Expect:"] {
        let arguments = ["-H", header, "--data-binary", &upload, "http://localhost/v1/isolations"];
        let output = curl(&node, &[], &arguments).await;
        let refusal: ErrorBody = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        assert!(refusal.message.contains("larger than"), "{refusal:?}");
    }
    drop(node.stop().await);
}

#[tokio::test]
async fn only_root_is_answered() {
    let node = Node::start();
    let mode = fs::metadata(node.socket()).expect("the socket is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let url = "http://localhost/v1/status";
    let output = curl(&node, &nobody, &[url]).await;
    assert!(!output.status.success() && output.stdout.is_empty(), "the mode keeps others out: {output:?}");

    // Whoever gets past the mode is still refused, by what the kernel says about the peer.
    fs::set_permissions(node.folder.path(), PermissionsExt::from_mode(0o755)).expect("the folder is ours");
    fs::set_permissions(node.socket(), PermissionsExt::from_mode(0o666)).expect("the socket is ours");
    let output = curl(&node, &nobody, &["-w", "%{http_code}", url]).await;
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    let body = text.strip_suffix("403").unwrap_or_else(|| panic!("{output:?}"));
    let refusal: ErrorBody = serde_json::from_str(body).expect("an ErrorBody");
    assert_eq!(refusal.code, Code::Refused);
    assert!(refusal.message.contains("uid 65534"), "{}", refusal.message);
    assert_eq!(node.counters.refused_peers.get(), 1);

    let output = curl(&node, &[], &["-w", "%{http_code}", "-o", "/dev/null", url]).await;
    assert_eq!(output.stdout, b"200", "root goes on");
    drop(node.stop().await);
}
