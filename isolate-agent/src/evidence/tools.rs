//! The node's own tools, run in the pod's network namespace: what they print is evidence that people know how to read.
//!
//! The programs are the node's and so is their file system; only the network is the pod's. None of them changes anything.

use std::{
    io::{self, Read as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where the node keeps them: not what a variable says.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Longest output that is kept of one.
const MOST_BYTES: u64 = 16 << 20;
const MOST_COMPLAINT: u64 = 4096;

/// One tool and what it is asked.
pub(super) struct Tool {
    /// What its output is called in the archive.
    pub(super) file: &'static str,
    command: &'static [&'static str],
}

const fn tool(file: &'static str, command: &'static [&'static str]) -> Tool {
    Tool { file, command }
}

/// Sockets first: they are what a cut changes.
pub(super) const TOOLS: [Tool; 12] = [
    tool("ss.txt", &["ss", "--all", "--numeric", "--extended", "--info", "--memory", "--no-header"]),
    tool("neighbours.json", &["ip", "-json", "neighbour", "show", "nud", "all"]),
    tool("routes.json", &["ip", "-json", "route", "show", "table", "all"]),
    tool("routes6.json", &["ip", "-6", "-json", "route", "show", "table", "all"]),
    tool("rules.json", &["ip", "-json", "rule", "show"]),
    tool("addresses.json", &["ip", "-json", "-details", "address", "show"]),
    tool("iptables.txt", &["iptables-save", "--counters"]),
    tool("ip6tables.txt", &["ip6tables-save", "--counters"]),
    tool("nftables.txt", &["nft", "--handle", "--numeric", "list", "ruleset"]),
    tool("qdiscs.json", &["tc", "-json", "qdisc", "show"]),
    tool("bridge.json", &["bridge", "-json", "fdb", "show"]),
    tool("xfrm.txt", &["ip", "xfrm", "state"]),
];

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
pub(super) enum ToolError {
    #[error("the node has no {0}")]
    Absent(&'static str),
    #[error("{name} cannot be run: {source}")]
    Run { name: &'static str, source: io::Error },
    #[error("{name} failed: {said}")]
    Failed { name: &'static str, said: String },
    #[error("{0} took too long and was ended")]
    TooLong(&'static str),
}

impl Tool {
    /// What it prints in `namespace`, and whether there was more than is kept.
    pub(super) fn run(&self, namespace: &OwnedFd, patience: Duration) -> Result<(Vec<u8>, bool), ToolError> {
        let (name, arguments) = self.command.split_first().expect("a command has a name");
        let failed = |source| ToolError::Run { name, source };
        let program = find(name).ok_or(ToolError::Absent(name))?;
        let namespace = namespace.try_clone().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PATH", FOLDERS.join(":")).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: between fork and exec it makes one system call and allocates nothing.
        unsafe {
            command
                .pre_exec(move || Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?));
        }
        let mut child = command.spawn().map_err(failed)?;
        let (mut out, mut err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let (sender, done) = mpsc::channel();
        let reader = thread::spawn(move || {
            let (mut output, mut complaint) = (Vec::new(), Vec::new());
            let read = out.by_ref().take(MOST_BYTES + 1).read_to_end(&mut output);
            // Closed early, so that one that has more to say ends; its complaints fit the pipe.
            drop(out);
            drop(err.by_ref().take(MOST_COMPLAINT).read_to_end(&mut complaint));
            // Whoever waited for it has given up.
            sender.send(()).unwrap_or_default();
            (read.map(|_| output), complaint)
        });
        let in_time = done.recv_timeout(patience).is_ok();
        if !in_time {
            child.kill().map_err(failed)?;
        }
        let status = child.wait().map_err(failed)?;
        let (output, complaint) = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let mut output = output.map_err(failed)?;
        if !in_time {
            return Err(ToolError::TooLong(name));
        }
        let more = output.len() as u64 > MOST_BYTES;
        if !status.success() && !more {
            return Err(ToolError::Failed { name, said: super::proc::text(complaint.trim_ascii()) });
        }
        output.truncate(usize::try_from(MOST_BYTES).expect("some MiB"));
        Ok((output, more))
    }
}

fn find(name: &str) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| PathBuf::from(folder).join(name)).find(|path| path.is_file())
}
