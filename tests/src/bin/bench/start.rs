//! Starts daemons, and waits for them without asking them anything. A question opens sockets; what is closed then waits for RCU;
//! and while RCU always has something to wait for, an attach waits for two grace periods where it needs one.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use isolate_tests::{
    agent::{Agent, Daemon},
    node::Node,
};

use crate::{micro, scale::millis};

/// Far more than attaching to a thousand pods takes, which is half a minute.
pub(crate) const LONGEST: Duration = Duration::from_mins(5);
/// Between two looks at the pins; later on a hundredth of what it has taken so far.
const PAUSE: Duration = Duration::from_millis(10);

/// A daemon that was just started.
pub(crate) struct Start {
    since: Instant,
    pub(crate) daemon: Daemon,
    /// Where it tells the service manager, which is us.
    socket: UnixDatagram,
}

impl Start {
    /// Starts it on this node.
    pub(crate) fn new(agent: &Agent, node: &Node) -> Self {
        let path = node.folder().join("notify.sock");
        // Of the start before.
        let _none_yet = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("the node's folder is writable");
        socket.set_read_timeout(Some(LONGEST)).expect("a socket has a timeout");
        let agent = agent.clone().with_variable("NOTIFY_SOCKET", &path.to_string_lossy());
        let since = Instant::now();
        Self { since, daemon: agent.daemon(), socket }
    }

    /// Waits until it says that every record is enforced; milliseconds since the start.
    pub(crate) fn ready(&self) -> f64 {
        let mut told = [0; 64];
        let length = self.socket.recv(&mut told).expect("it tells its service manager");
        let took = millis(self.since);
        assert_eq!(&told[..length], b"READY=1\n");
        // That is said after the first pass, whatever came of it; this only if all did.
        assert_eq!(self.daemon.page("/readyz").0, 200, "{}", self.daemon.log());
        took
    }

    /// Waits until so many pods are armed; milliseconds since the start.
    pub(crate) fn armed(&self, node: &Node, pods: usize) -> f64 {
        let links = micro::pins(node).join("links");
        while pinned(&links, "veth-") < 2 * pods {
            assert!(self.since.elapsed() < LONGEST, "never armed\n{}", self.daemon.log());
            thread::sleep(PAUSE.max(self.since.elapsed() / 100));
        }
        millis(self.since)
    }
}

/// How many links whose names begin like this are pinned.
fn pinned(links: &Path, kind: &str) -> usize {
    let of_kind = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(kind);
    fs::read_dir(links).map_or(0, |entries| entries.flatten().filter(of_kind).count())
}
