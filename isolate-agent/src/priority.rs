//! Real-time priority for requests to isolate, and for nothing else.
//!
//! Niceness counts within one cgroup, and with `sched_autogroup_enabled` within one session: against a pod that uses every core
//! the daemon has its share like everybody, and waits for its turn. Two threads need not: the one that takes requests in, which
//! listens to root alone, and the main thread, while it has a request to isolate. Events, scans and scrapes, which pods and
//! others can cause, have ordinary priority.

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};

/// Before all ordinary threads, behind everything else that is real-time.
const LOWEST: libc::c_int = 1;
/// What a thread may use of a core in a row with it, in microseconds: one with a bug in it ends with the process (SIGXCPU, see
/// `RLIMIT_RTTIME` in `getrlimit(2)`) instead of keeping the core from the node. Isolating 4096 pods takes a part of that.
const IN_A_ROW: u64 = 10_000_000;
/// The calling thread, to `sched_setscheduler(2)`.
const CALLER: libc::pid_t = 0;

/// Real-time priority, once this process has it.
#[derive(Clone, Debug, Default)]
pub struct RealTime(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    granted: AtomicBool,
    /// Requests that the main thread runs for.
    requests: AtomicUsize,
}

impl RealTime {
    /// Gives it to the calling thread for good, and from now on to the main thread with each [`Self::lend`].
    ///
    /// Needs `CAP_SYS_NICE` or an `RLIMIT_RTPRIO`. Before the cgroups of the node have the cpu controller it must not be called:
    /// see [`spares_controller`].
    pub fn take(&self) -> io::Result<()> {
        let given = getrlimit(Resource::Rttime).maximum.unwrap_or(IN_A_ROW);
        let limit = Some(given.min(IN_A_ROW));
        setrlimit(Resource::Rttime, Rlimit { current: limit, maximum: limit })?;
        schedule(CALLER, libc::SCHED_RR, LOWEST)?;
        self.0.granted.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Lends it to the main thread, until what this returns is dropped. Does nothing before [`Self::take`].
    pub fn lend(&self) -> Lent {
        if !self.0.granted.load(Ordering::Relaxed) {
            return Lent(None);
        }
        if self.0.requests.fetch_add(1, Ordering::AcqRel) == 0 {
            log(schedule(main_thread(), libc::SCHED_RR, LOWEST));
        }
        Lent(Some(self.clone()))
    }
}

/// A request that the main thread has real-time priority for.
#[derive(Debug)]
pub struct Lent(Option<RealTime>);

impl Drop for Lent {
    fn drop(&mut self) {
        // Whoever comes after the last one raises it after this count, and sends its request after that: the main thread, which
        // ends this one first, may lower itself in between, and stays raised for nobody.
        if let Some(RealTime(inner)) = &self.0
            && inner.requests.fetch_sub(1, Ordering::AcqRel) == 1
        {
            log(schedule(main_thread(), libc::SCHED_OTHER, 0));
        }
    }
}

/// Takes from a new thread what it inherits from one that is real-time; its niceness stays.
pub fn ordinary() {
    log(schedule(CALLER, libc::SCHED_OTHER, 0));
}

/// Whether a real-time thread stands in nobody's way. A kernel with `CONFIG_RT_GROUP_SCHED` gives no cgroup its cpu controller
/// while one lives outside the root (`Documentation/admin-guide/cgroup-v2.rst`), and kubelet needs that controller. Once the
/// `root` of the tree has given it out, or a v1 hierarchy has it, such a kernel refuses the priority instead.
pub fn spares_controller(root: Option<&Path>) -> bool {
    let given = root.and_then(|root| fs::read_to_string(root.join("cgroup.subtree_control")).ok());
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    given.is_some_and(|given| given.split_whitespace().any(|name| name == "cpu")) || has_v1(&own)
}

/// Whether a `/proc/PID/cgroup` shows the cpu controller in a v1 hierarchy (`cgroups(7)`).
fn has_v1(own: &str) -> bool {
    let mut controllers = own.lines().filter_map(|line| line.split(':').nth(1)).flat_map(|names| names.split(','));
    controllers.any(|name| name == "cpu")
}

fn main_thread() -> libc::pid_t {
    Pid::as_raw(Some(rustix::process::getpid()))
}

fn schedule(thread: libc::pid_t, policy: libc::c_int, priority: libc::c_int) -> io::Result<()> {
    // The system call, since musl's function only refuses. Its parameter is one int (sched_setscheduler(2)).
    // SAFETY: the kernel reads that int during the call and keeps no pointer.
    let set = unsafe { libc::syscall(libc::SYS_sched_setscheduler, thread, policy, &raw const priority) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Without it all works, later.
fn log(set: io::Result<()>) {
    if let Err(error) = set {
        tracing::debug!(%error, "the priority of a thread cannot be changed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_is_found_in_v1() {
        assert!(has_v1("4:cpu,cpuacct:/\n0::/\n"));
        assert!(has_v1("1:cpu:/kubepods\n"));
        assert!(!has_v1("3:cpuset:/\n2:cpuacct:/\n1:name=cpu:/\n0::/cpu\n"));
        assert!(!has_v1(""));
    }

    #[test]
    fn the_controller_is_found_in_the_root() {
        let root = tempfile::tempdir().expect("a folder");
        let given = |names: &str| {
            fs::write(root.path().join("cgroup.subtree_control"), names).expect("it is ours");
            spares_controller(Some(root.path()))
        };
        assert!(given("cpuset cpu io memory pids\n"));
        let v1 = has_v1(&fs::read_to_string("/proc/self/cgroup").expect("proc is mounted"));
        assert_eq!(given("cpuset memory pids\n"), v1);
    }
}
