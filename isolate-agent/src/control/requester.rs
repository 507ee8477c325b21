//! Who asks: from the socket's peer credentials and from procfs, for the record and the log. Decides nothing.

use std::{fs, io};

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
    /// Whether it had ended by the time it was looked at: its pod cannot be told then.
    pub ended: bool,
}

impl Requester {
    /// The process at the other end of a connection.
    pub fn of_peer(stream: &UnixStream) -> io::Result<Self> {
        let peer: UCred = stream.peer_cred()?;
        Ok(Self::of(peer.uid(), peer.pid().filter(|pid| *pid > 0)))
    }

    /// This process: a command that does the work itself.
    pub fn of_this_process() -> Self {
        Self::of(rustix::process::geteuid().as_raw(), Some(rustix::process::getpid().as_raw_pid()))
    }

    fn of(uid: u32, pid: Option<i32>) -> Self {
        let cgroups = pid.map(|pid| fs::read_to_string(proc_file(pid, "cgroup"))).transpose();
        let ended = cgroups.is_err();
        let cgroups = cgroups.ok().flatten().unwrap_or_default();
        let pod = cgroups.lines().flat_map(|line| line.split('/')).find_map(uid_in_name);
        Self { uid, pid, pod, ended }
    }

    /// It in one line: the user who logged in to start it, or else its own, and the program. Reads three files; a process that
    /// has ended has no program any more.
    pub fn describe(&self) -> String {
        let read = |file| fs::read_to_string(proc_file(self.pid?, file)).ok();
        let login = read("loginuid").and_then(|text| text.trim().parse().ok());
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = user_name(&passwd, login.filter(|login| *login != NO_LOGIN).unwrap_or(self.uid));
        self.line(&name, read("comm").as_deref())
    }

    fn line(&self, name: &str, program: Option<&str>) -> String {
        let with = program.map(|program| format!(" with {}", printable(program)));
        let pid = self.pid.map(|pid| format!(", pid {pid}"));
        format!("{name} (uid {}){}{}", self.uid, with.unwrap_or_default(), pid.unwrap_or_default())
    }
}

fn proc_file(pid: i32, file: &str) -> String {
    format!("/proc/{pid}/{file}")
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
        let whole = Requester { uid: 0, pid: Some(123), pod: None, ended: false };
        assert_eq!(whole.line("alice", Some("isolate-agent\n")), "alice (uid 0) with isolate-agent, pid 123");
        assert_eq!(whole.line("alice", Some("ev\x1b[2Jil\n")), "alice (uid 0) with ev?[2Jil, pid 123");
        let bare = Requester { pid: None, ..whole };
        assert_eq!(bare.line("root", None), "root (uid 0)");
    }

    #[test]
    fn who_has_ended_is_known_for_that() {
        // Larger than any pid (PID_MAX_LIMIT in include/linux/threads.h).
        assert!(Requester::of(0, Some(1 << 23)).ended);
        assert!(!Requester::of(0, None).ended, "its pid cannot be told");
    }

    #[test]
    fn this_process_knows_itself() {
        let me = Requester::of_this_process();
        assert_eq!(me.pid, i32::try_from(std::process::id()).ok());
        assert!(!me.ended);
        assert!(me.describe().contains(" with "), "procfs names this process: {}", me.describe());
    }
}
