//! The socket as a file.

use std::{fs, os::unix::fs::PermissionsExt, os::unix::net::UnixListener};

use isolate_agent::control::{ControlError, bind};

use super::harness::{Node, settings};

#[tokio::test]
async fn the_socket_of_a_live_daemon_is_left_alone() {
    let node = Node::start();
    let error = bind(&node.settings).expect_err("the socket is in use");
    assert!(error.to_string().contains("another daemon answers on"), "{error}");
    assert_eq!(node.request("GET", "/v1/status", "").await.0, 200, "it still answers");

    // Also one that knows nothing of our lock.
    let folder = tempfile::tempdir().expect("a folder");
    let settings = settings(&folder);
    fs::create_dir(&settings.run_dir).expect("a folder");
    let _other = UnixListener::bind(settings.socket()).expect("a socket");
    assert!(matches!(bind(&settings), Err(ControlError::InUse { .. })));
    drop(node.stop().await);
}

#[tokio::test]
async fn the_socket_of_a_dead_daemon_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = settings(&folder);
    fs::create_dir(&settings.run_dir).expect("a folder");
    drop(UnixListener::bind(settings.socket()).expect("a socket"));
    assert!(settings.socket().exists(), "std leaves the file behind, as kill -9 does");
    let listener = bind(&settings).expect("the stale file is replaced");
    assert_eq!(fs::metadata(settings.socket()).expect("a socket").permissions().mode() & 0o777, 0o600);
    drop(listener);
    assert!(!settings.socket().exists(), "removed by its owner");
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = settings(&folder);
    fs::create_dir(&settings.run_dir).expect("a folder");
    fs::write(settings.socket(), "evidence").expect("a file");
    assert!(matches!(bind(&settings), Err(ControlError::NotASocket { .. })));
    assert_eq!(fs::read(settings.socket()).expect("still there"), b"evidence");
}

#[tokio::test]
async fn a_folder_that_others_can_write_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = settings(&folder);
    fs::create_dir(&settings.run_dir).expect("a folder");
    fs::set_permissions(&settings.run_dir, PermissionsExt::from_mode(0o1777)).expect("ours");
    let error = bind(&settings).expect_err("anybody could replace the socket");
    assert!(error.to_string().contains("1777"), "{error}");
}

#[tokio::test]
async fn a_path_that_the_kernel_cannot_take_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = settings(&folder);
    settings.run_dir = folder.path().join("x".repeat(120));
    let error = bind(&settings).expect_err("too long");
    assert!(matches!(error, ControlError::Bind { .. }) && error.to_string().contains("107"), "{error}");
}

#[tokio::test]
async fn a_stopped_server_leaves_no_socket() {
    let node = Node::start();
    let socket = node.socket();
    let folder = node.stop().await;
    assert!(!socket.exists());
    drop(folder);
}
