//! kubelet, as far as an isolated pod has to do with it: it probes a container from the node's side, and starts it anew when
//! the probe has failed often enough. What a container keeps over that is what kubelet lets it keep: nothing.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use crate::{
    node::Node,
    pod::Pod,
    process::Process,
    wire::{Answer, Family, Handle, Kind, Request},
};

/// What a container is marked with.
const MARK: &[u8] = b"found at the scene";

/// The numbers of a probe.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// From the beginning of one attempt to that of the next.
    pub period: Duration,
    /// How long an attempt waits.
    pub timeout: Duration,
    /// Failures in a row after which the container is started anew.
    pub failure_threshold: u32,
}

impl Numbers {
    /// Small ones, so that what takes half a minute elsewhere takes seconds.
    pub const SCALED_DOWN: Self =
        Self { period: Duration::from_secs(1), timeout: Duration::from_secs(1), failure_threshold: 2 };
}

/// A kubelet with one probe, which connects to a container's port (`tcpSocket`).
#[derive(Debug)]
pub struct Kubelet {
    process: Process,
    cgroup: PathBuf,
    numbers: Numbers,
}

impl Kubelet {
    /// Starts one as a service of the node.
    pub fn start(node: &Node, numbers: Numbers) -> Self {
        let cgroup = node.cgroup().join("system.slice/kubelet.service");
        fs::create_dir_all(&cgroup).unwrap_or_else(|error| panic!("{}: {error}", cgroup.display()));
        Self { process: Process::start(node.netns(), &cgroup), cgroup, numbers }
    }

    /// Its cgroup directory.
    pub fn cgroup(&self) -> &std::path::Path {
        &self.cgroup
    }

    /// Makes so many attempts, one a period, and does what kubelet does after each. Returns how many were answered.
    ///
    /// As in kubelet's prober a success ends a run of failures, and a new container begins with none.
    pub fn probe(&self, container: &mut Container<'_>, attempts: u32) -> u32 {
        let mut answered = 0;
        for _ in 0..attempts {
            let begun = Instant::now();
            if self.attempt(container) {
                answered += 1;
                container.failures = 0;
            } else {
                container.failures += 1;
            }
            if container.failures == self.numbers.failure_threshold {
                container.start_anew();
            }
            thread::sleep(self.numbers.period.saturating_sub(begun.elapsed()));
        }
        answered
    }

    fn attempt(&self, container: &Container<'_>) -> bool {
        let address = container.listens.expect("a container that is probed listens");
        let socket = self.process.socket(Kind::Tcp, Family::V4, self.numbers.timeout);
        let connected = socket.connect(address).is_ok();
        // Who closes first keeps the connection's end for a minute, and a new container could not listen there.
        drop(socket);
        if connected {
            container.accept();
        }
        connected
    }
}

/// A container with one process, which may listen on a port. Each start has a cgroup and a writable layer of its own.
#[derive(Debug)]
pub struct Container<'a> {
    pod: &'a Pod,
    layers: PathBuf,
    listens: Option<SocketAddr>,
    /// None for the moment between two of them.
    process: Option<Process>,
    listener: Option<Handle>,
    starts: u32,
    failures: u32,
}

/// What is left of what a container was marked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// A value in its memory.
    pub memory: bool,
    /// A file in its writable layer.
    pub layer: bool,
}

impl Marks {
    /// Everything.
    pub const BOTH: Self = Self { memory: true, layer: true };
    /// Nothing.
    pub const NONE: Self = Self { memory: false, layer: false };
}

impl<'a> Container<'a> {
    /// Starts it, and marks its memory and its writable layer.
    pub fn marked(node: &Node, pod: &'a Pod, name: &str, listens: Option<SocketAddr>) -> Self {
        let layers = node.folder().join("layers").join(name);
        let process = Some(pod.start_container());
        let mut container = Self { pod, layers, listens, process, listener: None, starts: 0, failures: 0 };
        container.begin();
        container.ask(&Request::Remember(MARK.to_vec()));
        container.ask(&Request::Write(container.mark_file(), MARK.to_vec()));
        assert_eq!(container.marks(), Marks::BOTH);
        container
    }

    /// How often it was started again.
    pub fn restarts(&self) -> u32 {
        self.starts - 1
    }

    /// What is left of its marks, told by itself.
    pub fn marks(&self) -> Marks {
        let is_mark = |answer: Answer| answer.data == MARK;
        Marks {
            memory: is_mark(self.process().call(&Request::Recall)),
            layer: is_mark(self.process().call(&Request::Read(self.mark_file()))),
        }
    }

    /// Ends its process and starts another one.
    fn start_anew(&mut self) {
        self.process = None;
        self.process = Some(self.pod.start_container());
        self.failures = 0;
        self.begin();
    }

    fn begin(&mut self) {
        self.starts += 1;
        let layer = self.layer();
        fs::create_dir_all(&layer).unwrap_or_else(|error| panic!("{}: {error}", layer.display()));
        self.listener = self.listens.map(|address| {
            let timeout = Duration::from_secs(1);
            let socket = Request::Socket { kind: Kind::Tcp, family: Family::V4, timeout };
            let listener = self.ask(&socket).handle.expect("a socket has a handle");
            self.ask(&Request::Bind(listener, address));
            listener
        });
    }

    /// Takes a connection off the queue and closes it, as a server would.
    fn accept(&self) {
        let listener = self.listener.expect("it listens");
        if let Some(accepted) = self.process().call(&Request::Accept(listener)).handle {
            self.ask(&Request::Close(accepted));
        }
    }

    fn ask(&self, request: &Request) -> Answer {
        let answer = self.process().call(request);
        assert!(answer.is_ok(), "{request:?}: {}", answer.errno_name());
        answer
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    fn layer(&self) -> PathBuf {
        self.layers.join(self.starts.to_string())
    }

    fn mark_file(&self) -> PathBuf {
        self.layer().join("mark")
    }
}
