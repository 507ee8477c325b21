//! One core, and the time that is spent on it: by this thread, and by the kernel's softirq thread of that core.

use std::{fs, path::Path, path::PathBuf, thread};

use rustix::{
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// Nanoseconds that this thread has had a core, softirqs that ran on its back included.
#[expect(clippy::cast_precision_loss, reason = "threads of a benchmark run for less than 2^52 ns, which is a month")]
pub(crate) fn thread_nanos() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Runs `work` on a thread of its own that stays on one core (the last one that this process may use).
pub(crate) fn pinned<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            pin(last());
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Keeps this thread on one core.
pub(crate) fn pin(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).expect("a core that this process may use");
}

/// The last core that this process may use.
pub(crate) fn last() -> usize {
    let allowed = sched_getaffinity(None).expect("every thread has an affinity");
    (0..CpuSet::MAX_CPU).rev().find(|core| allowed.is_set(*core)).expect("it runs somewhere")
}

/// The softirq thread of a core: it takes over when there is too much for the backs of others.
#[derive(Debug)]
pub(crate) struct SoftirqThread(PathBuf);

impl SoftirqThread {
    /// That of the core that [`pinned`] uses.
    pub(crate) fn find() -> Option<Self> {
        let name = format!("ksoftirqd/{}", last());
        let is_it =
            |process: &PathBuf| fs::read_to_string(process.join("comm")).is_ok_and(|found| found.trim_end() == name);
        let mut processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
        processes.find(is_it).map(|process| Self(process.join("schedstat")))
    }

    /// Nanoseconds that it has had its core; 0 where it cannot be found.
    pub(crate) fn nanos(softirq: Option<&Self>) -> f64 {
        softirq.map_or(0.0, |softirq| on_core(&softirq.0))
    }
}

/// The first figure of a `schedstat` file: nanoseconds on a core.
fn on_core(schedstat: &Path) -> f64 {
    let text = fs::read_to_string(schedstat).unwrap_or_default();
    text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0.0)
}

/// Nanoseconds that all threads of a process have had a core.
pub(crate) fn process_nanos(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    tasks.into_iter().flatten().flatten().map(|task| on_core(&task.path().join("schedstat"))).sum()
}

/// Has this thread run as soon as it can, before all that is scheduled by share: it must sleep most of the time.
pub(crate) fn go_first() {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter lives until the call returns.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
    assert!(result == 0, "root may have real-time priority: {}", std::io::Error::last_os_error());
}
