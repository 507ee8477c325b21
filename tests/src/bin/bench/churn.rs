//! Pods that come and go, twenty a second: how soon each is armed, and what that costs the daemon.

use std::{
    collections::VecDeque,
    thread,
    time::{Duration, Instant},
};

use aya::programs::TcAttachType::{Egress, Ingress};
use isolate_tests::{
    agent::{Agent, Daemon},
    bpf::tcx_chain,
    node::Node,
    wait,
};

use crate::{
    cpu,
    crowd::{self, CrowdPod},
    growth::Measure,
    options::Options,
    scale::{await_armed, millis},
};

/// From one pod to the next.
const PERIOD: Duration = Duration::from_millis(50);
/// How many live at a time.
const ALIVE: usize = 20;
/// Numbers of these pods on the node begin here.
const FIRST: u32 = 10_000;
const PAUSE: Duration = Duration::from_millis(3);

/// A pod that came.
struct Guest {
    pod: CrowdPod,
    since: Instant,
    armed: bool,
}

/// Has pods come and go beside the `residents`, and takes what is measured to `put`.
pub(crate) fn run(
    options: &Options,
    node: &Node,
    agent: &Agent,
    daemon: &Daemon,
    residents: u32,
    put: &mut impl FnMut(Measure, f64),
) {
    let mut guests: VecDeque<Guest> = VecDeque::new();
    let (start, before) = (Instant::now(), cpu::process_nanos(daemon.pid()));
    let mut next = start;
    for number in 0..options.churn_pods {
        let since = Instant::now();
        let pod = crowd::start(node, FIRST + number, 1).pop().expect("one was started");
        guests.push_back(Guest { pod, since, armed: false });
        if guests.len() > ALIVE
            && let Some(guest) = guests.pop_front()
        {
            crowd::stop(node, guest.pod);
        }
        next += PERIOD;
        while Instant::now() < next {
            look(node, &mut guests, put);
            thread::sleep(PAUSE);
        }
    }
    let used = cpu::process_nanos(daemon.pid()) - before;
    put(Measure::ChurnCpu, used / 1e9 / start.elapsed().as_secs_f64() * 100.0);
    wait::until("the last pods are armed", || {
        look(node, &mut guests, put);
        guests.iter().all(|guest| guest.armed)
    });
    for guest in guests {
        crowd::stop(node, guest.pod);
    }
    await_armed(node, usize::try_from(residents).expect("it was a number of pods"));
    wait::until("those that went are forgotten", || {
        agent.run(&["status", "-o", "json"]).expect(0).json()["pods"].as_u64() == Some(residents.into())
    });
}

/// Notes those that are armed by now.
fn look(node: &Node, guests: &mut VecDeque<Guest>, put: &mut impl FnMut(Measure, f64)) {
    for guest in guests.iter_mut().filter(|guest| !guest.armed) {
        let armed = |direction| !tcx_chain(node.netns(), &guest.pod.veth, direction).is_empty();
        if armed(Egress) && armed(Ingress) {
            guest.armed = true;
            put(Measure::ChurnArmed, millis(guest.since));
        }
    }
}
