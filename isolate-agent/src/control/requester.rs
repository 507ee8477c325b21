//! Who asks: from the socket's peer credentials and from procfs, for the record and the log. Decides nothing.

use std::{fmt, fs, io, path::Path};

use tokio::net::{UnixStream, unix::UCred};

use crate::{inventory::uid_in_name, pod::PodUid};

/// `loginuid` of a process that no login led to.
const NO_LOGIN: u32 = u32::MAX;

/// A process that asks for something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requester {
    /// Its effective user id, as the kernel vouches for it.
    pub uid: u32,
    /// Its process id; none if it lives in a pid namespace that this process cannot see.
    pub pid: Option<i32>,
    /// The pod that it runs in, if it runs in one.
    pub pod: Option<PodUid>,
    /// Name of the user who logged in to start it, or else of `uid`.
    name: String,
    command: Option<String>,
}

impl Requester {
    /// The process at the other end of a connection.
    pub fn of_peer(stream: &UnixStream) -> io::Result<Self> {
        let peer: UCred = stream.peer_cred()?;
        Ok(Self::look_up(peer.uid(), peer.pid().filter(|pid| *pid > 0)))
    }

    /// This process: a command that does the work itself.
    pub fn of_this_process() -> Self {
        Self::look_up(rustix::process::geteuid().as_raw(), Some(rustix::process::getpid().as_raw_pid()))
    }

    fn look_up(uid: u32, pid: Option<i32>) -> Self {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let read = |file: &str| fs::read_to_string(Path::new("/proc").join(pid?.to_string()).join(file)).ok();
        let login = read("loginuid").and_then(|text| text.trim().parse().ok()).filter(|login| *login != NO_LOGIN);
        let name = user_name(&passwd, login.unwrap_or(uid));
        let pod = read("cgroup").and_then(|text| text.lines().flat_map(|line| line.split('/')).find_map(uid_in_name));
        Self { uid, pid, pod, name, command: read("comm").map(|c| printable(&c)) }
    }
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (uid {})", self.name, self.uid)?;
        if let Some(command) = &self.command {
            write!(f, " with {command}")?;
        }
        self.pid.map_or(Ok(()), |pid| write!(f, ", pid {pid}"))
    }
}

/// The name of a user in a passwd file, or its number.
fn user_name(passwd: &str, uid: u32) -> String {
    let number = uid.to_string();
    passwd
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            (fields.nth(1)? == number).then(|| printable(name))
        })
        .unwrap_or_else(|| format!("user {number}"))
}

/// A process chooses its own name: it must not steer the terminal that shows it.
fn printable(text: &str) -> String {
    text.trim_end_matches('\n').chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\n\nbroken\nalice:x:1000:1000::/home/alice:/bin/sh\n";
        assert_eq!(user_name(passwd, 0), "root");
        assert_eq!(user_name(passwd, 1000), "alice");
        assert_eq!(user_name(passwd, 4711), "user 4711");
        assert_eq!(user_name("", 0), "user 0");
    }

    #[test]
    fn a_requester_is_one_line() {
        let whole = Requester {
            uid: 0,
            pid: Some(123),
            pod: None,
            name: "alice".to_owned(),
            command: Some("isolate-agent".to_owned()),
        };
        assert_eq!(whole.to_string(), "alice (uid 0) with isolate-agent, pid 123");
        let bare = Requester { uid: 0, pid: None, pod: None, name: "root".to_owned(), command: None };
        assert_eq!(bare.to_string(), "root (uid 0)");
        assert_eq!(printable("ev\x1b[2Jil\n"), "ev?[2Jil");
    }

    #[test]
    fn this_process_knows_itself() {
        let me = Requester::of_this_process();
        assert_eq!(me.pid, i32::try_from(std::process::id()).ok());
        assert!(me.command.is_some(), "procfs names this process");
    }
}
