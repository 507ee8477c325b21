//! A stream of numbered datagrams out of pods, every 50 µs, and what arrived of it: the clock by which a cut is timed.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use isolate_tests::node::Node;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use crate::{
    cpu,
    crowd::{self, CrowdPod, NODE},
};

/// From one datagram of a pod to its next.
pub(crate) const PERIOD: Duration = Duration::from_micros(50);
/// Datagrams of each pod before something happens to the stream, and after it was to have ended.
const LEAD_ROUNDS: usize = 20;
/// Room for what arrives until it is looked at.
const BUFFER_BYTES: usize = 64 << 20;

/// Where the datagrams of a node's pods arrive.
#[derive(Debug)]
pub(crate) struct Sink(UdpSocket);

/// What the packets of one pod say about a cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// From the request to the last datagram that got out, in microseconds.
    pub(crate) last_out: f64,
    /// From the request to the first one that did not.
    pub(crate) first_held: f64,
}

/// What happened while the stream flowed.
pub(crate) struct Cut<T> {
    /// For each pod.
    pub(crate) pods: Vec<Seen>,
    /// From the request to its end, in microseconds.
    pub(crate) whole: f64,
    /// What the request gave.
    pub(crate) result: T,
}

/// What was done while pods sent.
pub(crate) struct Beside<T> {
    /// When each round of datagrams was sent.
    times: Vec<Instant>,
    start: Instant,
    end: Instant,
    /// What it gave.
    pub(crate) result: T,
}

impl Sink {
    /// One on the node's own address.
    pub(crate) fn new(node: &Node) -> Self {
        let socket = node.netns().enter(|| UdpSocket::bind((NODE, crowd::PORT))).expect("the address is the node's");
        set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES).expect("root may have a large buffer");
        socket.set_nonblocking(true).expect("a socket can be set so");
        Self(socket)
    }

    /// Lets the pods send, all of them every `period`, makes the request, and looks at what arrived.
    ///
    /// Panics when a pod's datagrams did not flow before the request, or did after it had been answered.
    pub(crate) fn time<T>(&self, pods: &[&CrowdPod], period: Duration, request: impl FnOnce() -> T) -> Cut<T> {
        let Beside { times, start, end, result } = self.beside(pods, period, request);
        let mut last = vec![None; pods.len()];
        self.drain(|pod, number| last[pod] = last[pod].max(Some(number)));
        let seen = last.iter().enumerate().map(|(pod, last)| {
            let last = last.unwrap_or_else(|| panic!("nothing of {} arrived", pods[pod].uid));
            // Of a round over all pods, the time is that of its beginning.
            let out = times[last];
            let held = times.get(last + 1).copied().expect("the sender went on after the cut");
            assert!(out <= end, "a datagram of {} got out after the request had been answered", pods[pod].uid);
            Seen { last_out: micros(start, out), first_held: micros(start, held) }
        });
        let pods = seen.collect();
        Cut { pods, whole: micros(start, end), result }
    }

    /// Does something while a pod sends; how long that took, in microseconds.
    pub(crate) fn time_beside(&self, pod: &CrowdPod, act: impl FnOnce()) -> f64 {
        let Beside { start, end, .. } = self.beside(&[pod], PERIOD, act);
        micros(start, end)
    }

    /// Does something while the pods send, all of them every `period`.
    pub(crate) fn beside<T>(&self, pods: &[&CrowdPod], period: Duration, act: impl FnOnce() -> T) -> Beside<T> {
        self.drain(|_, _| ());
        let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let sender = scope.spawn(|| send(pods, period, &stop, &rounds));
            while rounds.load(Ordering::Relaxed) < LEAD_ROUNDS {
                thread::sleep(period);
            }
            let start = Instant::now();
            let result = act();
            let end = Instant::now();
            let sent = rounds.load(Ordering::Relaxed);
            while rounds.load(Ordering::Relaxed) < sent + LEAD_ROUNDS {
                thread::sleep(period);
            }
            stop.store(true, Ordering::Relaxed);
            Beside { times: sender.join().expect("the sender ends"), start, end, result }
        })
    }

    /// Waits until the pods' datagrams arrive again.
    pub(crate) fn await_flow(&self, pods: &[&CrowdPod]) {
        let mut flows = vec![false; pods.len()];
        isolate_tests::wait::until("the released pods' datagrams arrive", || {
            for (pod, sender) in pods.iter().enumerate().filter(|(pod, _)| !flows[*pod]).collect::<Vec<_>>() {
                sender.udp.send_to(&message(pod, 0), destination()).ok();
            }
            self.drain(|pod, _| flows[pod] = true);
            flows.iter().all(|flows| *flows)
        });
    }

    fn drain(&self, mut take: impl FnMut(usize, usize)) {
        let mut datagram = [0; 12];
        while self.0.recv(&mut datagram).is_ok_and(|length| length == datagram.len()) {
            let [a, b, c, d, number @ ..] = datagram;
            let number = usize::try_from(u64::from_be_bytes(number)).expect("a number that was sent");
            take(usize::try_from(u32::from_be_bytes([a, b, c, d])).expect("a pod's number"), number);
        }
    }
}

fn destination() -> SocketAddr {
    (NODE, crowd::PORT).into()
}

fn message(pod: usize, number: usize) -> [u8; 12] {
    let mut message = [0; 12];
    message[..4].copy_from_slice(&u32::try_from(pod).expect("few pods").to_be_bytes());
    message[4..].copy_from_slice(&(number as u64).to_be_bytes());
    message
}

/// Sends a datagram of each pod every `period`; returns when each round of them was sent.
fn send(pods: &[&CrowdPod], period: Duration, stop: &AtomicBool, rounds: &AtomicUsize) -> Vec<Instant> {
    cpu::pin(cpu::last());
    cpu::go_first();
    for pod in pods {
        pod.udp.set_nonblocking(true).expect("a socket can be set so");
    }
    let mut times = Vec::with_capacity(1 << 16);
    let mut next = Instant::now();
    // Bounded: a request that hangs must not be flooded for ever.
    while !stop.load(Ordering::Relaxed) && times.len() < 1 << 22 {
        let number = times.len();
        times.push(Instant::now());
        for (pod, sender) in pods.iter().enumerate() {
            // A cut pod is told so.
            sender.udp.send_to(&message(pod, number), destination()).ok();
        }
        rounds.store(times.len(), Ordering::Relaxed);
        next += period;
        let now = Instant::now();
        if next > now { thread::sleep(next - now) } else { next = now }
    }
    times
}

fn micros(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e6
}
