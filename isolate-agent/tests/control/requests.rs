//! Requests, good and bad.

use std::time::Duration;

use isolate_agent::control::protocol::{Code, ErrorBody, Isolation, Outcomes, Status};
use tokio::{io::AsyncWriteExt, net::UnixStream, time::timeout};

use super::harness::{Node, SIBLING, Seen, UID, read_answer};

const PATIENCE: Duration = Duration::from_secs(30);

fn refusal(answer: &(u16, String)) -> ErrorBody {
    serde_json::from_str(&answer.1).unwrap_or_else(|error| panic!("no ErrorBody: {error} in {answer:?}"))
}

#[tokio::test]
async fn every_route_answers_its_type() {
    let node = Node::start();
    let (status, body) = node.request("POST", "/v1/isolations", &format!(r#"{{"uids":["{UID}"]}}"#)).await;
    assert_eq!(status, 200, "{body}");
    let outcomes: Outcomes = serde_json::from_str(&body).expect("Outcomes");
    assert_eq!(outcomes.results[0].query, UID);
    let (status, body) = node.request("POST", "/v1/isolations/remove", r#"{"all":true}"#).await;
    assert_eq!((status, body.as_str()), (200, r#"{"results":[]}"#));
    let (status, _body) = node.request("DELETE", &format!("/v1/isolations/{UID}"), "").await;
    assert_eq!(status, 200);
    let (status, body) = node.request("GET", "/v1/isolations", "").await;
    let list: Vec<Isolation> = serde_json::from_str(&body).expect("a list");
    assert_eq!((status, list.len()), (200, 2));
    let (status, body) = node.request("GET", "/v1/status", "").await;
    assert_eq!((status, serde_json::from_str::<Status>(&body).expect("Status").pods), (200, 3));
    let (status, body) = node.request("GET", &format!("/v1/status/{}", SIBLING.replace('-', "_")), "").await;
    assert_eq!((status, serde_json::from_str::<Isolation>(&body).expect("Isolation").uid.as_str()), (200, SIBLING));
    let (status, body) = node.request("GET", "/v1/openapi.json", "").await;
    assert_eq!((status, body.as_str()), (200, isolate_agent::control::openapi::document()));

    let seen = node.seen().await;
    let [Seen::Add(add, by), Seen::Remove(all, all_by), Seen::Remove(one, one_by)] = &seen[..] else {
        panic!("the loop saw {seen:?}");
    };
    assert_eq!(add.uids, [UID]);
    for by in [by, all_by, one_by] {
        assert!(by.contains("(uid 0) with ") && by.ends_with(&format!("pid {}", std::process::id())), "{by}");
    }
    assert!(all.all && one.uids == [UID] && !one.all, "{seen:?}");
    drop(node.stop().await);
}

#[tokio::test]
async fn the_gravest_outcome_is_the_http_status() {
    let node = Node::start();
    for (codes, expected) in [
        ("done,partly_covered", 200),
        ("partly_covered,refused", 409),
        ("no_such_pod,refused", 404),
        ("no_such_pod,usage", 400),
        ("failed,usage", 500),
    ] {
        let request = format!(r#"{{"uids":["{UID}","{SIBLING}"],"reason":"{codes}"}}"#);
        let (status, body) = node.request("POST", "/v1/isolations", &request).await;
        assert_eq!(status, expected, "{codes}");
        assert_eq!(serde_json::from_str::<Outcomes>(&body).expect("Outcomes").results.len(), 2, "{codes}");
    }
    drop(node.stop().await);
}

#[tokio::test]
async fn bad_requests_say_what_is_wrong_and_reach_nobody() {
    let node = Node::start();
    let long = "x".repeat(1025);
    for (method, path, body, status, said) in [
        ("POST", "/v1/isolations", r#"{"uids":["0f0e0d0c"],}"#, 400, "line 1 column 22"),
        ("POST", "/v1/isolations", "", 400, "EOF"),
        ("POST", "/v1/isolations", r#"{"uids":["0f0e0d0c"],"ttl":"1h"}"#, 400, "`ttl`"),
        ("POST", "/v1/isolations", r#"{"uids":"0f0e0d0c"}"#, 400, "sequence"),
        ("POST", "/v1/isolations", r"{}", 400, "`uids`"),
        ("POST", "/v1/isolations", r#"{"uids":[]}"#, 400, "at least one"),
        ("POST", "/v1/isolations", r#"{"uids":["web-0"]}"#, 400, "web-0"),
        ("POST", "/v1/isolations", r#"{"uids":["0f0e0d0c"],"reason":"a\u001bb"}"#, 400, "control character"),
        ("POST", "/v1/isolations", &format!(r#"{{"uids":["0f0e0d0c"],"reason":"{long}"}}"#), 400, "1025 bytes"),
        ("POST", "/v1/isolations/remove", r"{}", 400, "all"),
        ("POST", "/v1/isolations/remove", r#"{"uids":["0f0e0d0c"],"all":true}"#, 400, "not both"),
        ("DELETE", "/v1/isolations/web-0", "", 400, "web-0"),
        ("DELETE", "/v1/isolations/%ff", "", 400, "UTF-8"),
        ("GET", "/v1/status/web-0", "", 400, "web-0"),
        ("GET", "/v1/status/0f0e0d0c", "", 400, SIBLING),
        ("GET", "/v1/status/ffffffff", "", 404, "ffffffff"),
        ("GET", "/v2/status", "", 404, "/v2/status"),
        ("PUT", "/v1/isolations", "", 405, "PUT"),
    ] {
        let answer = node.request(method, path, body).await;
        assert_eq!(answer.0, status, "{method} {path} {body}: {answer:?}");
        let message = refusal(&answer).message;
        assert!(message.contains(said), "{method} {path} {body}: {message}");
    }
    assert!(node.seen().await.is_empty(), "{:?}", node.seen().await);
    assert!(node.counters.bad_requests.get() >= 16);
    drop(node.stop().await);
}

#[tokio::test]
async fn too_many_uids_are_refused() {
    let node = Node::start();
    let uids = |count| format!(r#"{{"uids":{}}}"#, serde_json::to_string(&vec![UID; count]).expect("JSON"));
    assert_eq!(node.request("POST", "/v1/isolations", &uids(4096)).await.0, 200);
    let answer = node.request("POST", "/v1/isolations", &uids(4097)).await;
    assert!(answer.0 == 400 && refusal(&answer).message.contains("4097"), "{answer:?}");
    drop(node.stop().await);
}

#[tokio::test]
async fn a_body_of_ten_megabytes_is_refused_before_it_is_read() {
    let node = Node::start();
    // Announced: answered on the head alone, not one byte of the body sent.
    let head = "POST /v1/isolations HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n";
    let answer = timeout(PATIENCE, node.raw(head.as_bytes())).await.expect("an answer before the body");
    assert_eq!((answer.0, refusal(&answer).code), (413, Code::Usage));

    // Not announced: cut when the limit is passed. The writer sees the end of it long before 10 MB.
    let mut stream = UnixStream::connect(node.socket()).await.expect("the server listens");
    stream
        .write_all(b"POST /v1/isolations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .expect("the server reads the head");
    let chunk = [b"10000\r\n".as_slice(), &vec![b' '; 0x10000], b"\r\n"].concat();
    let mut sent = 0;
    while sent < 10_000_000 && stream.write_all(&chunk).await.is_ok() {
        sent += 0x10000;
    }
    assert!(sent < 3_000_000, "{sent} bytes were taken");
    let answer = read_answer(stream).await;
    assert_eq!((answer.0, refusal(&answer).code), (413, Code::Usage));
    assert!(node.seen().await.is_empty());
    drop(node.stop().await);
}

#[tokio::test]
async fn a_client_that_dawdles_is_closed() {
    let node = Node::start();
    let mut idle = UnixStream::connect(node.socket()).await.expect("the server listens");
    idle.write_all(b"GET /v1/status HTTP/1.1\r\nHos").await.expect("the server reads");
    let (status, _body) = timeout(PATIENCE, read_answer(idle)).await.expect("closed by the server");
    assert!(matches!(status, 0 | 408), "{status}");
    let body = node.raw(b"POST /v1/isolations HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{").await;
    assert_eq!((body.0, refusal(&body).code), (408, Code::Usage));
    drop(node.stop().await);
}

#[tokio::test]
async fn idle_connections_do_not_lock_others_out() {
    let node = Node::start();
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(UnixStream::connect(node.socket()).await.expect("the kernel takes it"));
    }
    let answer = timeout(PATIENCE, node.request("GET", "/v1/status", "")).await.expect("an answer in time");
    assert_eq!(answer.0, 200);
    drop(idle);
    drop(node.stop().await);
}
