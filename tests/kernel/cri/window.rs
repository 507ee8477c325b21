//! The window of a new sandbox without NRI: raw frames that get out of an isolated pod before its new interface is cut.
//!
//! `cargo xtask test cri::window` prints the figures that `docs/guarantees.md` has.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use isolate_tests::{
    agent::Agent,
    cri::{CriNode, CriSpec},
    frame::EXPERIMENT,
    observe::Observer,
    wait,
};

use crate::suite::trials;

trials![the_window_of_a_new_sandbox needs Containerd];

const ROUNDS: usize = 5;

fn the_window_of_a_new_sandbox() {
    let node = CriNode::flooded();
    let agent = Agent::new(&node);
    let _daemon = agent.daemon();
    let mut web = node.pod(CriSpec::default());
    agent.run(&["add", web.uid()]);
    let mut measure = || {
        let bridge = Observer::start(node.netns(), "cni0");
        web.recreate();
        wait::until("the new interface is cut", || {
            agent.isolation(web.uid())["hooks"].as_array().is_some_and(|hooks| {
                hooks.iter().filter(|hook| hook["hook"] == "veth").all(|hook| hook["state"] == "holding")
            })
        });
        let frames = bridge.payloads(EXPERIMENT);
        let last = frames
            .last()
            .and_then(|payload| payload.get(8..16))
            .map_or(0, |age| u64::from_be_bytes(age.try_into().expect("eight bytes")));
        // The flood goes on, and nothing of it gets out any more.
        let dropped = agent.drops(web.uid());
        wait::until("the flood goes on", || agent.drops(web.uid()) > dropped + 100);
        assert_eq!(bridge.payloads(EXPERIMENT).len(), frames.len(), "frames got out after the cut");
        (frames.len(), last)
    };
    let quiet: Vec<_> = (0..ROUNDS).map(|_| measure()).collect();
    let stop = AtomicBool::new(false);
    let busy: Vec<_> = thread::scope(|scope| {
        let processors = thread::available_parallelism().map_or(2, std::num::NonZero::get);
        for _ in 0..processors {
            scope.spawn(|| {
                // Also ends when a measurement fails.
                let start = Instant::now();
                while !stop.load(Ordering::Relaxed) && start.elapsed() < 4 * wait::DEADLINE {
                    std::hint::spin_loop();
                }
            });
        }
        let busy = (0..ROUNDS).map(|_| measure()).collect();
        stop.store(true, Ordering::Relaxed);
        busy
    });
    for (name, mut rounds) in [("quiet node", quiet), ("every core busy", busy)] {
        rounds.sort_unstable();
        let (least, median, most) = (rounds[0], rounds[ROUNDS / 2], rounds[ROUNDS - 1]);
        let show =
            |(frames, micros): (usize, u64)| format!("{frames} frames, {}.{} ms", micros / 1000, micros % 1000 / 100);
        eprintln!(
            "window of a new sandbox, {name}: least {}; median {}; most {}",
            show(least),
            show(median),
            show(most)
        );
    }
}
