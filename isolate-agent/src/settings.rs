//! Where the agent works and how: the merged result of flags, environment and configuration file.

use std::{net::SocketAddr, path::PathBuf};

/// Pods that can be isolated at once, unless set otherwise.
pub const DEFAULT_MAX_ISOLATED: u32 = 4096;

/// Where the agent works and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Folder of the socket and the lock.
    pub run_dir: PathBuf,
    /// Folder of the records.
    pub state_dir: PathBuf,
    /// Folder on a BPF file system for pinned maps, programs and links.
    pub bpffs: PathBuf,
    /// The cgroup tree; found from the mounts if not set.
    pub cgroup_root: Option<PathBuf>,
    /// Pods that can be isolated at once; sizes the maps when they are made.
    pub max_isolated: u32,
    /// Where Prometheus scrapes.
    pub metrics_addr: SocketAddr,
    /// Which pods carry the programs before they are isolated.
    pub arm: Arm,
    /// Form of the log lines.
    pub log_format: LogFormat,
}

/// Which pods carry the programs before they are isolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// All: isolating one is a map write.
    All,
    /// None: the programs are attached with the isolation.
    OnDemand,
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}

impl Settings {
    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    /// The lock that whoever changes anything holds.
    pub fn lock(&self) -> PathBuf {
        self.run_dir.join("lock")
    }
}
