//! Which threads of the daemon have real-time priority, and when: for requests to isolate, and for nothing else.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use isolate_tests::{agent::Daemon, wait};

use crate::{scene::Scene, suite::trials};

trials![requests_to_isolate_have_it_and_nothing_else needs CpuController];

/// As `proc_pid_stat(5)` shows it in field 41.
const SCHED_RR: u32 = 2;
const LISTENER: &str = "control";
const MAIN: &str = "isolate-agent";
/// Looks at a daemon that does something else.
const LOOKS: usize = 200;

/// The names of the daemon's threads that have it now.
fn real_time(daemon: &Daemon) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("the daemon runs");
    let stats = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    let name = |stat: String| {
        let (name, fields) = stat.split_once(" (")?.1.rsplit_once(") ")?;
        let policy: u32 = fields.split(' ').nth(41 - 3)?.parse().ok()?;
        (policy == SCHED_RR).then(|| name.to_owned())
    };
    stats.filter_map(name).collect()
}

/// Does something again and again meanwhile.
fn while_it<T>(acts: impl Fn() + Sync, looks: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                acts();
            }
        });
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(looks));
        over.store(true, Ordering::Relaxed);
        seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn requests_to_isolate_have_it_and_nothing_else() {
    let scene = Scene::new();
    let daemon = scene.agent.daemon();
    let listener_alone = || real_time(&daemon) == [LISTENER];
    wait::until("the thread that takes requests in has it", listener_alone);
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).expect("the daemon runs");
    let limit = limits.lines().find(|line| line.starts_with("Max realtime timeout")).expect("it is a limit");
    assert!(!limit.contains("unlimited"), "a bug could take a core for good: {limit}");
    let body = format!("{{\"uids\": [\"{}\"]}}", scene.web.uid());
    let add = || assert_eq!(daemon.control("POST", "/v1/isolations", body.as_bytes()).0, 200);
    let main_too = || real_time(&daemon).iter().any(|name| name == MAIN);
    while_it(add, || wait::until("the main thread has it while it isolates", main_too));
    wait::until("it gives it back", listener_alone);
    let others = || {
        daemon.page("/metrics");
        daemon.control("GET", "/v1/status", b"");
        daemon.control("DELETE", &format!("/v1/isolations/{}", scene.web.uid()), b"");
    };
    while_it(others, || (0..LOOKS).for_each(|_| assert_eq!(real_time(&daemon), [LISTENER])));
}
