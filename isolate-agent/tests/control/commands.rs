//! The real command against a control socket.

use std::{fs, os::unix::net::UnixListener, process::Output, time::Instant};

use isolate_agent::control::protocol::{Isolation, Outcomes, Status};

use super::harness::{Node, SIBLING, Seen, UID, command};

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

#[tokio::test]
async fn exit_codes_follow_the_gravest_outcome() {
    let node = Node::start();
    for (codes, expected) in [
        ("done,done", 0),
        ("done,partly_covered", 5),
        ("partly_covered,refused", 4),
        ("no_such_pod,refused", 3),
        ("no_such_pod,usage", 2),
        ("failed,usage", 1),
    ] {
        let output = node.command(&["add", UID, SIBLING, "--reason", codes]).await;
        assert_eq!(code(&output), expected, "{codes}: {output:?}");
        let lines = text(&output.stdout).lines().count() + text(&output.stderr).lines().count();
        assert_eq!(lines, 2, "one line a pod, successes on stdout: {output:?}");
    }
    let output = node.command(&["add", UID, SIBLING, "--reason", "done,failed"]).await;
    assert_eq!(text(&output.stdout), format!("pod {UID}: Done\n"));
    assert_eq!(text(&output.stderr), format!("isolate-agent: pod {SIBLING}: Failed\n"));
    drop(node.stop().await);
}

#[tokio::test]
async fn flags_reach_the_loop_with_who_asked() {
    let node = Node::start();
    let arguments = ["add", UID, "--reason", "done", "--keep-loopback", "--force", "--dry-run", "-o", "json"];
    let output = node.command(&arguments).await;
    let outcomes: Outcomes = serde_json::from_slice(&output.stdout).expect("Outcomes");
    assert_eq!(outcomes.results.len(), 1);
    assert_eq!(code(&node.command(&["remove", "--all"]).await), 0);
    let seen = node.seen().await;
    let [Seen::Add(add, by), Seen::Remove(remove, _)] = &seen[..] else {
        panic!("the loop saw {seen:?}");
    };
    assert!(add.keep_loopback && add.force && add.dry_run && add.reason.as_deref() == Some("done"), "{add:?}");
    assert!(by.contains("(uid 0) with isolate-agent, pid "), "{by}");
    assert!(remove.all && remove.uids.is_empty(), "{remove:?}");
    drop(node.stop().await);
}

#[tokio::test]
async fn list_and_status_print_the_protocol() {
    let node = Node::start();
    let names = node.command(&["list", "-o", "name"]).await;
    assert_eq!(text(&names.stdout), format!("{UID}\n{SIBLING}\n"));
    let list: Vec<Isolation> =
        serde_json::from_slice(&node.command(&["list", "-o", "json"]).await.stdout).expect("list");
    assert_eq!(list.len(), 2);
    let status: Status = serde_json::from_slice(&node.command(&["status", "-o", "json"]).await.stdout).expect("Status");
    assert_eq!(status.pods, 3);
    let one = node.command(&["status", SIBLING, "-o", "json"]).await;
    assert_eq!(serde_json::from_slice::<Isolation>(&one.stdout).expect("Isolation").uid, SIBLING);

    let absent = node.command(&["status", "ffffffff"]).await;
    assert_eq!((code(&absent), text(&absent.stdout)), (3, ""));
    let ambiguous = node.command(&["status", "0f0e0d0c"]).await;
    assert_eq!(code(&ambiguous), 2);
    assert!(text(&ambiguous.stderr).contains(UID) && text(&ambiguous.stderr).contains(SIBLING), "{ambiguous:?}");

    let table = node.command(&["list"]).await;
    assert!(text(&table.stdout).starts_with("UID\tPOD\tSINCE\tUNTIL\tBY\tCOVERAGE\tDROPPED\tREASON\n"), "{table:?}");
    assert!(!text(&table.stdout).contains('\x1b'));
    drop(node.stop().await);
}

#[tokio::test]
async fn a_terminal_gets_colour_unless_told_otherwise() {
    let node = Node::start();
    let line = format!("{} list --run-dir {}", env!("CARGO_BIN_EXE_isolate-agent"), node.settings.run_dir.display());
    for (no_color, coloured) in [("", true), ("1", false)] {
        let output = tokio::process::Command::new("script")
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .env("NO_COLOR", no_color)
            .env("TERM", "xterm")
            .output()
            .await
            .expect("script(1) of util-linux is installed");
        assert_eq!(code(&output), 0, "{output:?}");
        assert_eq!(text(&output.stdout).contains("\x1b["), coloured, "NO_COLOR={no_color}: {output:?}");
        assert!(!text(&output.stdout).contains('\t'), "{output:?}");
    }
    drop(node.stop().await);
}

#[tokio::test]
async fn bad_arguments_are_usage_errors_that_reach_nobody() {
    let node = Node::start();
    let long = "x".repeat(1025);
    for arguments in [
        &["add", "web-0"][..],
        &["add"],
        &["add", "0f0e0d0"],
        &["add", UID, "--reason", "two\nlines"],
        &["add", UID, "--reason", &long],
        &["add", UID, "--max-isolated", "0"],
        &["add", UID, "--max-isolated", "65537"],
        &["remove"],
        &["remove", UID, "--all"],
        &["remove", "../../etc"],
        &["status", "web-0"],
        &["list", "-o", "xml"],
        &["list", "--run-dir", "relative"],
        &["list", "--config", "/nonexistent/agent.toml"],
    ] {
        let output = node.command(arguments).await;
        assert_eq!(code(&output), 2, "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
    assert!(node.seen().await.is_empty());
    drop(node.stop().await);
}

#[tokio::test]
async fn flag_beats_environment_beats_file() {
    let node = Node::start();
    let elsewhere = node.folder.path().join("elsewhere");
    let file = node.folder.path().join("agent.toml");
    let run_dir = &node.settings.run_dir;
    let write = |path: &std::path::Path| {
        fs::write(&file, format!("run_dir = '{}'\n", path.display())).expect("a file");
    };
    let names = format!("{UID}\n{SIBLING}\n");
    write(run_dir);
    let by_file = command(&["list", "-o", "name"]).env("ISOLATE_CONFIG", &file).output().await.expect("starts");
    assert_eq!(text(&by_file.stdout), names);
    write(&elsewhere);
    let by_env = command(&["list", "-o", "name", "--config"]).arg(&file).env("ISOLATE_RUN_DIR", run_dir).output();
    assert_eq!(text(&by_env.await.expect("starts").stdout), names);
    for before_the_verb in [true, false] {
        let flag = ["--run-dir", run_dir.to_str().expect("UTF-8")];
        let verb = ["list", "-o", "name"];
        let words = if before_the_verb { [&flag[..], &verb].concat() } else { [&verb[..], &flag].concat() };
        let by_flag = command(&words).env("ISOLATE_RUN_DIR", &elsewhere).output().await.expect("starts");
        assert_eq!(text(&by_flag.stdout), names, "{words:?}: {by_flag:?}");
    }
    fs::write(&file, "run_dirr = '/x'\n").expect("a file");
    let unknown = command(&["list", "--config"]).arg(&file).output().await.expect("starts");
    assert_eq!(code(&unknown), 2);
    assert!(text(&unknown.stderr).contains("run_dirr"), "{unknown:?}");
    drop(node.stop().await);
}

#[tokio::test]
async fn a_daemon_that_hangs_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("agent.sock");
    // Connections wait in its backlog for ever, as with a daemon that SIGSTOP holds.
    let _stopped = UnixListener::bind(&socket).expect("a socket");
    let started = Instant::now();
    let output = command(&["add", UID]).env("ISOLATE_RUN_DIR", folder.path()).output().await.expect("starts");
    assert_eq!(code(&output), 1);
    assert!((5..20).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    let said = text(&output.stderr);
    assert!(said.contains(&format!("kill -9 {}", std::process::id())) && said.contains("stays isolated"), "{said}");
}

#[tokio::test]
async fn a_daemon_at_work_is_waited_for() {
    let node = Node::start();
    let output = node.command(&["add", UID, "--reason", "slow"]).await;
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(text(&output.stderr).contains("still at work"), "{output:?}");
    drop(node.stop().await);
}

#[tokio::test]
async fn fifty_commands_at_once_all_reach_the_loop() {
    let node = Node::start();
    let mut commands = tokio::task::JoinSet::new();
    for index in 0..50 {
        let arguments = if index % 2 == 0 { ["add", UID] } else { ["remove", UID] };
        let mut command = command(&arguments);
        command.env("ISOLATE_RUN_DIR", &node.settings.run_dir);
        commands.spawn(async move { command.output().await.expect("the command starts") });
    }
    for output in commands.join_all().await {
        assert!(code(&output) == 0 && output.stderr.is_empty(), "{output:?}");
    }
    let adds = node.seen().await.iter().filter(|seen| matches!(seen, Seen::Add(..))).count();
    assert_eq!((adds, node.seen().await.len()), (25, 50));
    drop(node.stop().await);
}

#[tokio::test]
async fn only_root_gets_anywhere() {
    let node = Node::start();
    // The build folder may be closed to others.
    fs::set_permissions(node.folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let binary = node.folder.path().join("isolate-agent");
    // By another process: a descriptor open for writing could slip into a child of another thread (ETXTBSY).
    let agent = env!("CARGO_BIN_EXE_isolate-agent");
    assert!(std::process::Command::new("cp").arg(agent).arg(&binary).status().expect("coreutils").success());
    for (arguments, expected) in [
        (&["list"][..], 1),
        (&["add", "web-0"], 1),
        (&["--version"], 0),
        (&["--help"], 0),
        (&["completions", "bash"], 0),
    ] {
        let output = tokio::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&binary)
            .args(arguments)
            .output()
            .await
            .expect("setpriv(1) of util-linux is installed");
        assert_eq!(code(&output), expected, "{arguments:?}: {output:?}");
        assert_eq!(text(&output.stderr).contains("needs root"), expected == 1, "{output:?}");
    }
    drop(node.stop().await);
}

#[tokio::test]
async fn a_reader_that_leaves_is_no_failure() {
    let line = format!("{} completions zsh | head -c 1", env!("CARGO_BIN_EXE_isolate-agent"));
    let output = tokio::process::Command::new("bash").args(["-o", "pipefail", "-c", &line]).output().await;
    assert_eq!(code(&output.expect("bash is installed")), 0);
}
