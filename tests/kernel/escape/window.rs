//! The window of what appears late: frames that get out of an isolated pod by an interface that has just come, before the agent
//! has cut it. Measured, and shown to close.
//!
//! A process of the pod waits for the interface and sends as soon as it is there; the observer stands behind the hook.

use std::{
    env,
    fmt::Write as _,
    iter,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use isolate_tests::{
    agent::{Agent, Daemon},
    feature::Feature,
    frame::EXPERIMENT,
    netdev,
    observe::Observer,
    process::{self, Process},
    program, wait,
};
use libtest_mimic::Trial;

use super::{known, rtnetlink, run::Setting, stage::node_id};
use crate::{cri, scene::Scene, suite};

/// Has them measured and printed alone.
const PRINT: &str = "ISOLATE_WINDOWS";

/// Measurements of each kind when the document is written, and when it is only shown that the window closes.
const ROUNDS: usize = 15;
const FEW: usize = 2;
/// What the document says of the measurements.
pub(super) const INTRODUCTION: &str = "\
What comes to a pod that is isolated already (one more interface, a new sandbox) is cut when the daemon has seen it, not before. A
process of the pod waits for the interface and sends frames as soon as it is there, some ten thousand a second; counted are those
that came past the host end's hook (of the macvlan: that arrived at a neighbour), and the time from the first to the last of them.
*busy*: two endless loops for each core run beside it; *idle*: nothing of the measurement does, whatever else the machine had to do.
The new sandbox's first process is what sends, and no NRI plugin is in use:
with NRI nothing gets out (`nri::a_sandbox_is_cut_before_its_first_frame`).";
/// Until a process that was just started waits for the interface, and the agent has looked at it.
const SETTLED: Duration = Duration::from_millis(800);
/// Longer than most windows: until then nothing else asks for the processor.
const QUIET: Duration = Duration::from_millis(200);
/// The interface inside the pod, and its end on the node.
const INNER: &str = "far0";
const OUTER: &str = "late0";

/// What appears late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    PluggedIn,
    OwnVeth,
    OwnMacvlan,
}

/// What got out before the cut: frames, and the microseconds from the first to the last of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Window {
    micros: u64,
    frames: usize,
}

/// Measurements of one kind.
pub(crate) struct Series {
    what: &'static str,
    load: &'static str,
    windows: Vec<Window>,
}

pub(super) fn trials() -> Vec<Trial> {
    let closes = || {
        for late in [Late::PluggedIn, Late::OwnVeth, Late::OwnMacvlan] {
            let scene = Windowed::new();
            if late != Late::PluggedIn && program::lsm_missing().is_none() {
                let refused = scene.appear(late).expect_err("the LSM hook refuses the pod an interface of its own");
                eprintln!("{late:?}: refused: {refused}");
                continue;
            }
            eprintln!("{late:?}: {:?}", iter::repeat_with(|| scene.measure(late)).take(FEW).collect::<Vec<_>>());
        }
    };
    vec![suite::trial("escape::the_window_of_a_new_interface_closes", &[], closes)]
}

/// Prints the measurements, where that is asked for.
pub(super) fn printer() -> Option<Trial> {
    env::var_os(PRINT)?;
    Some(suite::trial("escape::windows", &[], || eprintln!("{}", table(&measure_all()))))
}

/// Measures everything that can be measured here.
pub(super) fn measure_all() -> Vec<Series> {
    let mut all = Vec::new();
    for late in [Late::PluggedIn, Late::OwnVeth, Late::OwnMacvlan] {
        let scene = Windowed::new();
        all.extend(idle_and_busy(late.title(), ROUNDS, || scene.measure(late)));
    }
    if Feature::Containerd.missing().is_none() {
        let mut sandboxes = cri::window::Sandboxes::new();
        all.extend(idle_and_busy("a new sandbox of the pod (containerd, runc)", ROUNDS, || sandboxes.measure()));
    }
    all
}

/// The rows of a table.
pub(super) fn table(all: &[Series]) -> String {
    let mut text = "| what appears | the node | frames: median | most | milliseconds: median | most |\n".to_owned();
    text += "|---|---|---|---|---|---|\n";
    for Series { what, load, windows } in all {
        let of = |value: &dyn Fn(&Window) -> u64| {
            let mut values: Vec<u64> = windows.iter().map(value).collect();
            values.sort_unstable();
            (values[values.len() / 2], values[values.len() - 1])
        };
        let frames = of(&|window| u64::try_from(window.frames).unwrap_or(u64::MAX));
        let micros = of(&|window| window.micros);
        let millis = |micros: u64| format!("{}.{}", micros / 1000, micros % 1000 / 100);
        writeln!(
            text,
            "| {what} | {load} | {} | {} | {} | {} |",
            frames.0,
            frames.1,
            millis(micros.0),
            millis(micros.1)
        )
        .expect("a string takes it");
    }
    text
}

/// Measures on a quiet node, then while every core has twice as much to do as it can.
pub(crate) fn idle_and_busy(what: &'static str, rounds: usize, mut measure: impl FnMut() -> Window) -> [Series; 2] {
    let quiet = iter::repeat_with(&mut measure).take(rounds).collect();
    let stop = AtomicBool::new(false);
    let busy = thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(2, std::num::NonZero::get);
        for _ in 0..2 * cores {
            scope.spawn(|| {
                // Also ends when a measurement fails.
                let start = Instant::now();
                while !stop.load(Ordering::Relaxed) && start.elapsed() < 10 * wait::DEADLINE {
                    std::hint::spin_loop();
                }
            });
        }
        let busy = iter::repeat_with(&mut measure).take(rounds).collect();
        stop.store(true, Ordering::Relaxed);
        busy
    });
    [Series { what, load: "idle", windows: quiet }, Series { what, load: "busy", windows: busy }]
}

/// What the observers saw of a flood. Each frame carries its number, and how old its sender was.
pub(crate) fn window(payloads: &[Vec<u8>]) -> Window {
    let age =
        |payload: &Vec<u8>| payload.get(8..16).map(|age| u64::from_be_bytes(age.try_into().expect("eight bytes")));
    let ages = || payloads.iter().filter_map(age);
    let micros = ages().max().unwrap_or_default() - ages().min().unwrap_or_default();
    Window { micros, frames: payloads.len() }
}

/// Waits until frames of the flood are dropped and none gets out any more; what had got out.
pub(crate) fn closed(agent: &Agent, uid: &str, dropped: u64, seen: impl Fn() -> Vec<Vec<u8>>) -> Window {
    let more = |than: u64| wait::until("the flood is dropped", || agent.drops(uid) > than + 100);
    more(dropped);
    let payloads = seen();
    more(agent.drops(uid));
    assert_eq!(seen().len(), payloads.len(), "frames got out after the cut");
    window(&payloads)
}

impl Late {
    const fn title(self) -> &'static str {
        match self {
            Self::PluggedIn => "an interface that the node plugs in",
            Self::OwnVeth => "a veth into the node's namespace that the pod makes",
            Self::OwnMacvlan => "a macvlan on the node's bridge that the pod makes",
        }
    }
}

/// An isolated pod that may change its network. Dropped from top to bottom.
struct Windowed {
    attacker: Process,
    _daemon: Daemon,
    scene: Scene,
}

impl Windowed {
    fn new() -> Self {
        let scene = Scene::with(&Setting::Changing.spec());
        let daemon = scene.agent.daemon();
        let attacker = scene.web.start_container();
        let code = if known::is_partly_covered(Setting::Changing) { 5 } else { 0 };
        scene.agent.run(&["add", scene.web.uid()]).expect(code);
        Self { attacker, _daemon: daemon, scene }
    }

    /// Has it come; an error if the pod was refused it.
    fn appear(&self, late: Late) -> Result<(), String> {
        let Scene { web, node, .. } = &self.scene;
        let up = format!("link set {INNER} up");
        match late {
            Late::PluggedIn => {
                netdev::ip(
                    node.netns(),
                    &[
                        format!("link add {OUTER} type veth peer name {INNER} netns {}", web.netns().name()),
                        format!("link set {OUTER} up"),
                    ],
                );
                netdev::ip(web.netns(), &[up]);
                Ok(())
            }
            Late::OwnVeth => {
                let id = node_id(web).expect("the pod knows the node's").parse().expect("an id is a number");
                rtnetlink::veth_into(&self.attacker, id, OUTER, None, INNER)
                    .and_then(|()| rtnetlink::up(&self.attacker, INNER))
                    .map_err(|error| format!("{error:?}"))
            }
            Late::OwnMacvlan => {
                let id = node_id(web).expect("the pod knows the node's");
                let bridge = netdev::index(node.netns(), "cni0");
                let add = format!("link add {INNER} link-netnsid {id} link if{bridge} type macvlan mode bridge");
                [add, up].iter().try_for_each(|command| {
                    let output = web.command("ip").args(command.split(' ')).output().expect("ip can be started");
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    if output.status.success() { Ok(()) } else { Err(said) }
                })
            }
        }
    }

    fn measure(&self, late: Late) -> Window {
        let Scene { agent, web, neighbour, node } = &self.scene;
        let flood = Flood::start(web.command(process::program()));
        let observer = match late {
            Late::OwnMacvlan => Observer::start(neighbour.netns(), "eth0"),
            Late::PluggedIn | Late::OwnVeth => Observer::everywhere(node.netns(), EXPERIMENT),
        };
        thread::sleep(SETTLED);
        let dropped = agent.drops(web.uid());
        self.appear(late).unwrap_or_else(|error| panic!("{late:?}: {error}"));
        thread::sleep(QUIET);
        let window = closed(agent, web.uid(), dropped, || observer.payloads(EXPERIMENT));
        drop(flood);
        netdev::ip(web.netns(), &[format!("link del {INNER}")]);
        window
    }
}

/// A process of the pod that sends frames as soon as the interface is there; dropping it ends it.
struct Flood(Child);

impl Flood {
    fn start(mut command: Command) -> Self {
        command.args(["flood", INNER]).stdin(Stdio::null());
        Self(command.spawn().expect("pod-proc can be started"))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("clean-up: flood: {error}");
        }
    }
}
