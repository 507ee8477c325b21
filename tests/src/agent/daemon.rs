//! A running daemon: how it ends, and what it serves.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Child,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Agent, METRICS};
use crate::wait;

/// A running daemon. Dropping it stops it; what it printed is shown if the test panics.
#[derive(Debug)]
pub struct Daemon {
    pub(super) child: Child,
    pub(super) log: PathBuf,
    pub(super) agent: Agent,
}

impl Daemon {
    /// What it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("the daemon runs");
        self.child.wait().expect("a child can be waited for");
    }

    /// SIGTERM, as a service manager would; returns the exit code.
    pub fn stop(mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.child.wait().expect("a child can be waited for").code()
    }

    /// Keeps it from running, as a busy node does.
    pub fn hold(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it run again.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the daemon runs");
    }

    /// Gets a page of its HTTP server: status code and body.
    pub fn page(&self, path: &str) -> (u16, String) {
        let connect = || self.agent.node.netns().enter(|| TcpStream::connect(METRICS));
        // It may open this port after its socket.
        wait::until("the daemon serves metrics", || connect().is_ok());
        request(connect().expect("it did just now"), "GET", path, b"")
    }

    /// Waits for a whole look at the node that began after this.
    pub fn await_pass(&self) {
        let passes = || {
            let (_, text) = self.page("/metrics");
            let line = text.lines().find(|line| line.starts_with("isolate_reconcile_passes_total"));
            line.and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok()).expect("they are counted")
        };
        let seen = passes();
        wait::until("the agent has looked at the node", || passes() > seen + 1);
    }

    /// One request on its control socket: status code and body.
    pub fn control(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        request(UnixStream::connect(self.agent.socket()).expect("the daemon listens"), method, path, body)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}---", self.log());
        }
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("clean-up: daemon: {error}");
        }
    }
}

/// HTTP/1.0, so that the answer ends with the connection and is never chunked. A server may answer and close before it has
/// read a large body, so a failed write is no failure yet.
pub fn request(mut stream: impl Read + Write, method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: agent\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let mut answer = Vec::new();
    let received = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.unwrap_or_else(|| panic!("{method} {path}: {sent:?}, {received:?}, {answer:?}"));
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
