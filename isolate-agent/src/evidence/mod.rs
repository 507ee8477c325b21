//! The evidence bundle: what a pod is at one moment, read from the node's side into one archive.
//!
//! Changes nothing, and executes and follows nothing that is the pod's. What changes from moment to moment comes first
//! ([`Bundle::volatile`]); executables, which stay, come last ([`Bundle::lasting`]). Everything is bounded, and what was
//! left out is listed.

mod archive;
mod bounded;
mod executables;
mod proc;
mod tools;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::Serialize;
use thiserror::Error;

use self::{
    archive::{Archive, Member},
    bounded::Attempts,
    executables::Executables,
    proc::{MOST_BYTES, Process},
    tools::TOOLS,
};
use crate::pod::PodUid;

/// Version of the bundle's own form.
pub const BUNDLE_VERSION: u32 = 1;
/// Processes that are read; of a fork bomb the first ones.
const MOST_PROCESSES: usize = 4096;
/// What a process's own memory is waited for.
const PATIENCE: Duration = Duration::from_millis(300);
/// What a tool may take, where there is time: for `ss` the kernel loads a module for each kind of socket, if it must.
const TOOL_PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no bundle.
#[derive(Debug, Error)]
pub enum EvidenceError {
    /// The file cannot be made.
    #[error("cannot make the evidence file {}: {source}; it must not exist yet, and its folder must", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be written to its end.
    #[error("cannot write the evidence file {}: {source}; what is in it so far may be read with `zstd -dc | tar t`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What the bundle is about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The pod.
    pub uid: PodUid,
    /// What the node knows of it, for a person.
    pub description: String,
    /// Its pod-level cgroup directories.
    pub cgroups: Vec<PathBuf>,
    /// Its processes.
    pub pids: BTreeSet<i32>,
    /// Files of the agent's own about it, with their names in the archive.
    pub records: Vec<(String, Vec<u8>)>,
}

/// What a finished bundle holds.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Where it is.
    pub path: PathBuf,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// Files in it.
    pub files: usize,
    /// What could not be had.
    pub problems: usize,
    /// Whether all that changes from moment to moment was read before its time was over.
    pub complete: bool,
}

/// The last file of the archive.
#[derive(Debug, Serialize)]
struct Manifest<'a> {
    version: u32,
    tool: &'static str,
    tool_version: &'static str,
    tool_revision: &'static str,
    pod: PodUid,
    node: String,
    kernel: String,
    began: Timestamp,
    ended: Timestamp,
    with_environment_values: bool,
    complete: bool,
    files: &'a [Member],
    problems: &'a [Problem],
}

/// Something that could not be had.
#[derive(Debug, Serialize)]
struct Problem {
    what: String,
    why: String,
}

/// A bundle that is being written.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    archive: Archive,
    subject: Subject,
    with_values: bool,
    began: Timestamp,
    processes: Vec<Process>,
    attempts: Attempts,
    problems: Vec<Problem>,
    complete: bool,
}

impl Bundle {
    /// Makes the file, readable by root alone.
    pub fn create(path: &Path, subject: Subject, with_values: bool) -> Result<Self, EvidenceError> {
        let archive =
            Archive::create(path).map_err(|source| EvidenceError::Create { path: path.to_owned(), source })?;
        let began = Timestamp::now();
        Ok(Self {
            path: path.to_owned(),
            archive,
            subject,
            with_values,
            began,
            processes: Vec::new(),
            attempts: Attempts::default(),
            problems: Vec::new(),
            complete: true,
        })
    }

    /// Reads what changes from moment to moment, until then at the latest: sockets, processes, routes and rules, cgroups.
    /// `progress` is told what comes next.
    pub fn volatile(&mut self, until: Instant, progress: impl Fn(&str)) -> Result<(), EvidenceError> {
        let read = self.read_volatile(until, progress);
        read.map_err(|source| self.failed(source))
    }

    /// Hashes executables, and copies those that no name leads to any more.
    pub fn lasting(&mut self, until: Instant, progress: impl Fn(&str)) -> Result<(), EvidenceError> {
        progress(&format!("executables of {} processes", self.processes.len()));
        let mut executables = Executables::default();
        for process in &self.processes {
            if Instant::now() >= until {
                self.problems.push(Problem { what: "executables".to_owned(), why: "the time was over".to_owned() });
                break;
            }
            if let Err(why) = executables.take(process, until, &mut self.attempts) {
                self.problems.push(Problem { what: format!("executable of process {}", process.pid), why });
            }
        }
        let added = executables.add_to(&mut self.archive, |what| progress(what));
        for (what, why) in added.map_err(|source| self.failed(source))? {
            self.problems.push(Problem { what, why });
        }
        Ok(())
    }

    /// Ends it with its manifest.
    pub fn finish(mut self) -> Result<Summary, EvidenceError> {
        let own = |name: &str| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
        let manifest = Manifest {
            version: BUNDLE_VERSION,
            tool: env!("CARGO_PKG_NAME"),
            tool_version: env!("CARGO_PKG_VERSION"),
            tool_revision: crate::REVISION,
            pod: self.subject.uid,
            node: own("hostname").trim().to_owned(),
            kernel: own("osrelease").trim().to_owned(),
            began: self.began,
            ended: Timestamp::now(),
            with_environment_values: self.with_values,
            complete: self.complete,
            files: &self.archive.members.clone(),
            problems: &self.problems,
        };
        let bytes = serde_json::to_vec_pretty(&manifest).map_err(|error| self.failed(error.into()))?;
        self.archive.add("manifest.json", &bytes, false).map_err(|source| self.failed(source))?;
        let (path, files) = (self.path, self.archive.members.len());
        let sha256 = self.archive.finish().map_err(|source| EvidenceError::Write { path: path.clone(), source })?;
        Ok(Summary { path, sha256, files, problems: self.problems.len(), complete: self.complete })
    }

    fn read_volatile(&mut self, until: Instant, progress: impl Fn(&str)) -> io::Result<()> {
        self.open_processes();
        for (name, bytes) in std::mem::take(&mut self.subject.records) {
            self.archive.add(&name, &bytes, false)?;
        }
        self.archive.add("pod.txt", self.subject.description.clone().as_bytes(), false)?;
        let mut namespaces = BTreeMap::new();
        for process in &self.processes {
            if let Some(inode) = process.namespaces().get("net") {
                namespaces.entry(*inode).or_insert_with(|| process.clone());
            }
        }
        for (inode, process) in &namespaces {
            progress(&format!("sockets of network namespace {inode}"));
            self.sockets(*inode, process, until)?;
        }
        // Before the processes, of which there may be thousands.
        for (inode, process) in &namespaces {
            progress(&format!("routes, neighbours and rules of network namespace {inode}"));
            self.tools(*inode, process, until)?;
        }
        progress(&format!("{} processes", self.processes.len()));
        self.read_processes(until)?;
        progress("cgroups");
        self.cgroups(until)?;
        // What is on disk can be read even if this process ends here.
        self.archive.flush()
    }

    fn open_processes(&mut self) {
        for pid in self.subject.pids.iter().take(MOST_PROCESSES) {
            match Process::open(*pid) {
                Ok(process) => self.processes.push(process),
                Err(error) => {
                    self.problems.push(Problem { what: format!("process {pid}"), why: error.to_string() });
                }
            }
        }
        let left = self.subject.pids.len().saturating_sub(MOST_PROCESSES);
        if left > 0 {
            let why = format!("only {MOST_PROCESSES} are read");
            self.problems.push(Problem { what: format!("{left} more processes"), why });
        }
    }

    /// Whether the time is over; noted once.
    fn is_over(&mut self, until: Instant, what: &str) -> bool {
        if Instant::now() < until {
            return false;
        }
        self.complete = false;
        self.problems.push(Problem { what: what.to_owned(), why: "the time was over".to_owned() });
        true
    }

    /// What procfs has of a namespace: sockets of every family, tables, counters.
    fn sockets(&mut self, inode: u64, process: &Process, until: Instant) -> io::Result<()> {
        for name in process.list("net") {
            let file = format!("net/{inode}/proc/{name}");
            if self.is_over(until, &file) {
                break;
            }
            let (process, path) = (process.clone(), format!("net/{name}"));
            self.attempt(&file, until, move || process.read(&path, MOST_BYTES))?;
        }
        Ok(())
    }

    fn read_processes(&mut self, until: Instant) -> io::Result<()> {
        let boot = proc::boot_time()?;
        for process in self.processes.clone() {
            let pid = process.pid;
            if self.is_over(until, &format!("processes from {pid} on")) {
                break;
            }
            let (of, with_values) = (process.clone(), self.with_values);
            let file = format!("processes/{pid}/process.json");
            self.attempt(&file, until, move || Ok(serde_json::to_vec_pretty(&of.facts(boot)?)?))?;
            let of = process.clone();
            let file = format!("processes/{pid}/strings.json");
            self.attempt(&file, until, move || Ok(serde_json::to_vec_pretty(&of.strings(with_values)?)?))?;
            for name in ["maps", "mountinfo", "limits", "io", "stack", "wchan"] {
                let of = process.clone();
                let file = format!("processes/{pid}/{name}");
                self.attempt(&file, until, move || of.read(name, MOST_BYTES))?;
            }
        }
        Ok(())
    }

    fn tools(&mut self, inode: u64, process: &Process, until: Instant) -> io::Result<()> {
        let namespace = match process.network_namespace() {
            Ok(namespace) => namespace,
            Err(error) => {
                self.problems.push(Problem { what: format!("network namespace {inode}"), why: error.to_string() });
                return Ok(());
            }
        };
        for tool in &TOOLS {
            let file = format!("net/{inode}/{}", tool.file);
            if self.is_over(until, &file) {
                break;
            }
            match tool.run(&namespace, TOOL_PATIENCE.min(until.saturating_duration_since(Instant::now()))) {
                Ok((output, more)) => self.archive.add(&file, &output, more)?,
                Err(error) => self.problems.push(Problem { what: file, why: error.to_string() }),
            }
        }
        Ok(())
    }

    fn cgroups(&mut self, until: Instant) -> io::Result<()> {
        for root in self.subject.cgroups.clone() {
            let mut folders = Vec::new();
            // What vanishes meanwhile is gone.
            drop(crate::inventory::cgroup::descend(&root, |folder| {
                folders.push(folder.path.to_owned());
                folders.len() < MOST_PROCESSES
            }));
            for folder in folders {
                if self.is_over(until, &folder.display().to_string()) {
                    return Ok(());
                }
                for path in plain_files(&folder) {
                    let file = format!("cgroup{}", path.display());
                    self.attempt(&file, until, move || read_bounded(&path))?;
                }
            }
        }
        Ok(())
    }

    /// Adds a file if it can be had in time.
    fn attempt(
        &mut self,
        file: &str,
        until: Instant,
        read: impl FnOnce() -> io::Result<Vec<u8>> + Send + 'static,
    ) -> io::Result<()> {
        let patience = PATIENCE.min(until.saturating_duration_since(Instant::now()));
        let why = match self.attempts.run(patience, read) {
            Ok(Ok(bytes)) => {
                let cut_short = bytes.len() as u64 >= MOST_BYTES;
                return self.archive.add(file, &bytes, cut_short);
            }
            Ok(Err(error)) => error.to_string(),
            Err(gave_up) => gave_up.to_string(),
        };
        self.problems.push(Problem { what: file.to_owned(), why });
        Ok(())
    }

    fn failed(&self, source: io::Error) -> EvidenceError {
        EvidenceError::Write { path: self.path.clone(), source }
    }
}

/// The files of a cgroup that can be read.
fn plain_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .filter(|entry| {
            entry.metadata().is_ok_and(|file| {
                use std::os::unix::fs::PermissionsExt as _;
                file.is_file() && file.permissions().mode() & 0o400 != 0
            })
        })
        .map(|entry| entry.path())
        .collect();
    files.sort_unstable();
    files
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    File::options().read(true).custom_flags(flags).open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}
