//! The agent under test: its commands, and its daemon as a child.

mod daemon;

use std::{
    cell::Cell,
    env,
    fmt::Debug,
    fs,
    os::unix::{net::UnixStream, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

pub use self::daemon::{Daemon, request};
use crate::{netns::Netns, node::Node, process, wait};

/// Names the binary under test.
const PROGRAM_ENV: &str = "ISOLATE_AGENT_BIN";
/// Where the daemon's metrics are, in the node's own namespace.
pub const METRICS: &str = "127.0.0.1:9477";

thread_local! {
    static VETH_HOOK: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Has the agents that `test` makes attach to interfaces in this way, as `--veth-hook` names it.
pub fn attaching_by<T>(veth_hook: &'static str, test: impl FnOnce() -> T) -> T {
    /// The next test may run on the same thread.
    struct Reset(Option<&'static str>);
    impl Drop for Reset {
        fn drop(&mut self) {
            VETH_HOOK.set(self.0);
        }
    }
    let _reset = Reset(VETH_HOOK.replace(Some(veth_hook)));
    test()
}

/// What a command gave.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it said about it.
    pub stderr: String,
}

impl Output {
    /// Panics unless it ended with this code.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "most callers want the check alone")]
    pub fn expect(self, code: i32) -> Self {
        assert!(self.code == code, "exit code {}, not {code}\n{}\n{}", self.code, self.stdout, self.stderr);
        self
    }

    /// Both streams, for a look at what a person would read.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Its standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON: {error}\n{}", self.text()))
    }
}

/// A node that the agent can run on.
pub trait Host: Debug + Send + Sync {
    /// A folder for what belongs to it.
    fn folder(&self) -> &Path;
    /// Its network namespace.
    fn netns(&self) -> &Netns;
    /// A command that will run as a service of it.
    fn command(&self, program: PathBuf) -> Command;
    /// What the agent is told about where to work.
    fn places(&self) -> Vec<(&'static str, PathBuf)>;
}

impl Host for Node {
    fn folder(&self) -> &Path {
        Self::folder(self)
    }

    fn netns(&self) -> &Netns {
        Self::netns(self)
    }

    fn command(&self, program: PathBuf) -> Command {
        Self::command(self, program)
    }

    fn places(&self) -> Vec<(&'static str, PathBuf)> {
        let folder = Self::folder(self);
        vec![
            ("--run-dir", folder.join("run")),
            ("--state-dir", folder.join("state")),
            ("--bpffs", folder.join("bpf/isolate-agent")),
            ("--cgroup-root", self.cgroup().to_owned()),
        ]
    }
}

/// The agent on one node.
#[derive(Clone, Debug)]
pub struct Agent {
    node: Arc<dyn Host>,
    options: Vec<String>,
    daemon_options: Vec<String>,
    environment: Vec<(String, String)>,
    program: PathBuf,
}

impl Agent {
    /// The agent of this node, which works in the node's folder.
    pub fn new(node: &(impl Host + Clone + 'static)) -> Self {
        let mut options = Vec::new();
        for (option, place) in node.places() {
            options.extend([option.to_owned(), place.display().to_string()]);
        }
        if let Some(veth_hook) = VETH_HOOK.get() {
            options.extend(["--veth-hook".to_owned(), veth_hook.to_owned()]);
        }
        let node = Arc::new(node.clone());
        Self { node, options, daemon_options: Vec::new(), environment: Vec::new(), program: program() }
    }

    /// The same with another place than the node's folder for what this option names.
    #[must_use]
    pub fn with(mut self, option: &str, place: &Path) -> Self {
        let at = self.options.iter().position(|given| given == option).expect("it is one of the places");
        self.options[at + 1] = place.display().to_string();
        self
    }

    /// The same with another way to attach to interfaces.
    #[must_use]
    pub fn with_veth_hook(mut self, veth_hook: &str) -> Self {
        if let Some(at) = self.options.iter().position(|given| given == "--veth-hook") {
            self.options.drain(at..at + 2);
        }
        self.options.extend(["--veth-hook".to_owned(), veth_hook.to_owned()]);
        self
    }

    /// The same node's agent after an upgrade: of the next layout, and with faults that can be asked for.
    #[must_use]
    pub fn upgraded(&self) -> Self {
        let program = next_program().unwrap_or_else(|why| panic!("{why}"));
        Self { program, ..self.clone() }
    }

    /// The steps at which a fault can be asked for, of an agent that has them.
    pub fn steps(&self) -> Vec<String> {
        let listed = self.clone().with_variable("ISOLATE_FAULT", "list").run(&["list"]).expect(0);
        listed.stdout.lines().map(str::to_owned).collect()
    }

    /// Runs a command that is to crash after a step; whether it came there.
    pub fn crashes_at(&self, step: &str, arguments: &[&str]) -> bool {
        let command = self.clone().with_variable("ISOLATE_FAULT", step).command(arguments).output();
        let output = command.expect("the agent can be started");
        match output.status.signal() {
            Some(libc::SIGABRT) => true,
            None => false,
            other => panic!("{step}: signal {other:?}\n{}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// The same with a variable in the environment of every command.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with an option that only the daemon has.
    #[must_use]
    pub fn with_daemon_option(mut self, option: &str, value: &str) -> Self {
        self.daemon_options.extend([option.to_owned(), value.to_owned()]);
        self
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.node.folder().join("run/agent.sock")
    }

    /// The folder of the records.
    pub fn state(&self) -> PathBuf {
        self.node.folder().join("state")
    }

    /// A command, not started yet: the first argument is the verb.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.complete(self.node.command(self.program.clone()), arguments)
    }

    /// The same for a thread that lives in the node's namespace, and starts it where it is itself: for who times it.
    pub fn command_here(&self, arguments: &[&str]) -> Command {
        self.complete(Command::new(&self.program), arguments)
    }

    fn complete(&self, mut command: Command, arguments: &[&str]) -> Command {
        let (verb, rest) = arguments.split_first().expect("a command has a verb");
        command.arg(verb).args(&self.options).args(rest).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        output(&mut self.command(arguments))
    }

    /// `add`, which must succeed and cover the pod fully.
    #[track_caller]
    pub fn add(&self, arguments: &[&str]) -> Output {
        self.run(&[&["add"], arguments].concat()).expect(0)
    }

    /// `remove`, which must succeed.
    #[track_caller]
    pub fn remove(&self, arguments: &[&str]) -> Output {
        self.run(&[&["remove"], arguments].concat()).expect(0)
    }

    /// The UIDs that `list` names.
    #[track_caller]
    pub fn isolated(&self) -> Vec<String> {
        let output = self.run(&["list", "-o", "name"]).expect(0);
        output.stdout.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    }

    /// What `list -o json` says about one isolated pod.
    #[track_caller]
    pub fn isolation(&self, uid: &str) -> serde_json::Value {
        let json = self.run(&["list", "-o", "json"]).expect(0).json();
        let all = json.get("isolations").unwrap_or(&json).as_array().expect("a list of isolations");
        all.iter().find(|one| one["uid"] == uid).unwrap_or_else(|| panic!("{uid} is not listed: {json:#}")).clone()
    }

    /// Waits for what follows the isolation of a pod.
    #[track_caller]
    pub fn await_the_rest(&self, uid: &str) {
        wait::until("no hook of the pod is to come", || {
            let isolation = self.isolation(uid);
            isolation["hooks"].as_array().expect("a list of hooks").iter().all(|hook| hook["state"] != "pending")
        });
    }

    /// How many packets were dropped for a pod, by all hooks in both directions.
    #[track_caller]
    pub fn drops(&self, uid: &str) -> u64 {
        let isolation = self.isolation(uid);
        let drops = isolation["drops"].as_array().expect("a list of drops");
        drops.iter().map(|drop| drop["packets"].as_u64().expect("a number of packets")).sum()
    }

    /// Starts the daemon and waits until its socket answers.
    #[track_caller]
    pub fn daemon(&self) -> Daemon {
        let log = self.node.folder().join("daemon.log");
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).expect("the node's folder is writable");
        let errors = file.try_clone().expect("a descriptor can be copied");
        let child = self
            .command(&["daemon"])
            .args(&self.daemon_options)
            .stdout(file)
            .stderr(errors)
            .spawn()
            .expect("the agent can be started");
        let mut daemon = Daemon { child, log, agent: self.clone() };
        let socket = self.socket();
        wait::until("the daemon answers", || {
            let ended = daemon.child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "the daemon ended: {}\n{}", ended.expect("just seen"), daemon.log());
            UnixStream::connect(&socket).is_ok()
        });
        // It listens before it has its programs, and on a slow machine a command would not wait that long.
        let stream = UnixStream::connect(&socket).expect("it did just now");
        stream.set_read_timeout(Some(wait::DEADLINE)).expect("a socket has a timeout");
        request(stream, "GET", "/v1/openapi.json", b"");
        daemon
    }
}

/// Runs a command of the agent to its end.
pub fn output(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap_or_else(|| panic!("{command:?}: {}", output.status));
    Output { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// The agent of the next layout, or why there is none.
pub(crate) fn next_program() -> Result<PathBuf, String> {
    process::beside("isolate-agent-next").ok_or_else(|| "the next agent is not built: `cargo xtask test`".to_owned())
}

/// The binary under test.
pub fn program() -> PathBuf {
    if let Some(path) = env::var_os(PROGRAM_ENV) {
        return path.into();
    }
    process::beside("isolate-agent")
        .unwrap_or_else(|| panic!("the agent is not built: `cargo build -p isolate-agent`, or {PROGRAM_ENV}=PATH"))
}
