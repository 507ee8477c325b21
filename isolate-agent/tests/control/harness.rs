//! A control socket in a folder of its own, and a task that answers its commands in the loop's place.

use std::{collections::BTreeMap, path::PathBuf, process::Output, sync::Arc, time::Duration};

use isolate_agent::{
    control::{
        Command, Commands, SocketCounters, bind,
        protocol::{
            AddRequest, Code, Coverage, Isolation, Outcome, Outcomes, Record, RemoveRequest, Status, Verification,
        },
        serve,
    },
    settings::{Layer, Settings},
    verify::Examined,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{Mutex, mpsc, oneshot},
    task::JoinHandle,
};

/// Longer than a command waits before it looks whether the daemon is alive.
const SLOW: Duration = Duration::from_secs(6);
pub(crate) const UID: &str = "0f0e0d0c-1234-4000-8000-0123456789ab";
pub(crate) const SIBLING: &str = "0f0e0d0c-1234-4000-8000-0123456789ac";

/// What reached the loop.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    Add(AddRequest, String),
    Remove(RemoveRequest, String),
}

pub(crate) struct Node {
    pub(crate) settings: Settings,
    pub(crate) counters: SocketCounters,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<()>>,
    pub(crate) folder: TempDir,
}

pub(crate) fn settings(folder: &TempDir) -> Settings {
    assert!(rustix::process::geteuid().is_root(), "the control socket answers root only: run these tests as root");
    let layer = Layer { run_dir: Some(folder.path().join("run")), ..Layer::default() };
    Settings::try_from(layer).expect("valid settings")
}

impl Node {
    /// A node where `add` ends with the codes that the reason lists between commas, or takes its time if it is `slow`.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = settings(&folder);
        let listener = bind(&settings).expect("a socket");
        let (sender, mut receiver) = mpsc::channel(8);
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let recorded = Arc::clone(&seen);
        drop(tokio::spawn(async move {
            while let Some(command) = receiver.recv().await {
                answer(command, &recorded).await;
            }
        }));
        let (stop, stopped) = oneshot::channel();
        let counters = SocketCounters::default();
        let served = tokio::spawn(serve(listener, Commands::ordinary(sender), counters.clone(), async {
            stopped.await.expect("the test stops the server");
        }));
        Self { settings, counters, seen, stop: Some(stop), served: Some(served), folder }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.settings.socket()
    }

    pub(crate) async fn seen(&self) -> Vec<Seen> {
        self.seen.lock().await.clone()
    }

    pub(crate) async fn stop(mut self) -> TempDir {
        self.stop.take().expect("not stopped yet").send(()).expect("the server runs");
        self.served.take().expect("not stopped yet").await.expect("the server ends well");
        self.folder
    }

    /// Writes these bytes and reads until the server closes: status, body.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> (u16, String) {
        let mut stream = UnixStream::connect(self.socket()).await.expect("the server listens");
        stream.write_all(bytes).await.expect("the server reads");
        read_answer(stream).await
    }

    pub(crate) async fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        self.raw((head + body).as_bytes()).await
    }

    /// Runs the real command against this node's socket.
    pub(crate) async fn command(&self, arguments: &[&str]) -> Output {
        command(arguments).env("ISOLATE_RUN_DIR", &self.settings.run_dir).output().await.expect("the command starts")
    }
}

pub(crate) fn command(arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_isolate-agent"));
    command.args(arguments).env_clear().kill_on_drop(true);
    command
}

pub(crate) async fn read_answer(mut stream: UnixStream) -> (u16, String) {
    let mut answer = Vec::new();
    // The kernel hands out the answer first, then the reset that says that not all of the request was read.
    match stream.read_to_end(&mut answer).await {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("no answer: {error}"),
        _ => {}
    }
    let answer = String::from_utf8(answer).expect("UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer.as_str(), ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}

async fn answer(command: Command, seen: &Mutex<Vec<Seen>>) {
    match command {
        Command::Add { request, by, received, real_time: _, reply } => {
            let codes = request.reason.clone().unwrap_or_default();
            if codes == "slow" {
                tokio::time::sleep(SLOW).await;
            }
            let outcomes = outcomes(&request.uids, &codes);
            assert!(received.elapsed().as_secs() < 60, "the request arrived before it was handed on");
            seen.lock().await.push(Seen::Add(request, by.await.expect("who asks is told")));
            reply.send(outcomes).expect("the server waits");
        }
        Command::Remove { request, by, reply } => {
            let outcomes = outcomes(&request.uids, "done");
            seen.lock().await.push(Seen::Remove(request, by));
            reply.send(outcomes).expect("the server waits");
        }
        Command::Examine { text, reply } => {
            reply.send(Examined::Other(verification(&text))).expect("the server waits");
        }
        Command::Sandbox { reply, .. } => reply.send(()).expect("the plugin waits"),
        Command::Status { reply } => reply.send(status()).expect("the server waits"),
        Command::Figures { .. } => unreachable!("nobody here runs in a pod"),
    }
}

fn outcomes(uids: &[String], codes: &str) -> Outcomes {
    let mut codes = codes.split(',').map(|code| serde_json::from_value::<Code>(code.into()).unwrap_or(Code::Done));
    let outcome = |query: &String| {
        let code = codes.next().unwrap_or(Code::Done);
        let message = format!("pod {query}: {code:?}");
        Outcome { query: query.clone(), uid: None, pod: None, code, message, open: Vec::new(), enforced_after_us: None }
    };
    Outcomes { results: uids.iter().map(outcome).collect(), verifications: Vec::new() }
}

fn verification(text: &str) -> Verification {
    let message = format!("pod {text} is not isolated");
    let (query, code) = (text.to_owned(), Code::NoSuchPod);
    Verification { query, uid: None, code, message, proofs: Vec::new(), open: Vec::new() }
}

fn status() -> Status {
    let isolation = |uid: &str| Isolation {
        uid: uid.to_owned(),
        namespace: Some("default".to_owned()),
        name: Some("web-0".to_owned()),
        labels: BTreeMap::new(),
        ips: Vec::new(),
        present: true,
        host_network: false,
        reason: None,
        by: "root (uid 0)".to_owned(),
        since: "2026-03-01T03:00:00Z".parse().expect("a time"),
        keep_loopback: false,
        probe_ports: Vec::new(),
        allow: Vec::new(),
        until: None,
        record: Record::Saved,
        coverage: Coverage::Full,
        open: Vec::new(),
        hooks: Vec::new(),
        drops: Vec::new(),
        exempted: Vec::new(),
    };
    Status {
        taken_at: "2026-03-01T04:00:00Z".parse().expect("a time"),
        version: "0.1.0".to_owned(),
        isolations: vec![isolation(UID), isolation(SIBLING)],
        pods: 3,
        pods_armed: 3,
        unarmed: Vec::new(),
        kernel_errors: Vec::new(),
        runtime: None,
        warnings: Vec::new(),
    }
}
