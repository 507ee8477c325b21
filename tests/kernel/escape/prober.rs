//! kubelet probing a pod all the time, while somebody in it tries to get out.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use isolate_tests::{
    process::Process,
    wait,
    wire::{Family, Kind},
};

use super::run::Setting;
use crate::{probes::kubelet, scene::Scene};

/// Where the pod answers.
pub(super) const PORT: u16 = 8080;
/// Between two probes, and as long as a step of one may take.
const PAUSE: Duration = Duration::from_millis(100);

/// Probes until it is dropped.
pub(super) struct Prober {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    answered: AtomicU64,
    stop: AtomicBool,
}

impl Prober {
    pub(super) fn start(scene: &Scene, setting: Setting) -> Self {
        let (kubelet, server) = (kubelet::process(&scene.node), scene.web.start_container());
        let end = scene.web.end();
        let (family, ip): (_, IpAddr) =
            if setting == Setting::V6Only { (Family::V6, end.v6.into()) } else { (Family::V4, end.v4.into()) };
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || probe(&kubelet, &server, family, SocketAddr::new(ip, PORT), &shared));
        Self { state, thread: Some(thread) }
    }

    /// Panics unless a probe is answered from now on.
    pub(super) fn assert_answered(&self) {
        let before = self.state.answered.load(Ordering::Relaxed);
        wait::until("a probe is answered", || self.state.answered.load(Ordering::Relaxed) > before + 1);
    }
}

/// An attacker may take the interface away for a while: a probe that fails is no end.
fn probe(kubelet: &Process, server: &Process, family: Family, address: SocketAddr, state: &State) {
    let listener = server.socket(Kind::Tcp, family, PAUSE);
    listener.bind(address);
    while !state.stop.load(Ordering::Relaxed) {
        let client = kubelet.socket(Kind::Tcp, family, PAUSE);
        let called = client.connect(address).is_ok();
        if let Ok(accepted) = listener.accept()
            && called
        {
            client.send(b"GET /healthz HTTP/1.1\r\n\r\n");
            accepted.recv();
            accepted.send(b"HTTP/1.1 200 OK\r\n\r\nok");
            if client.recv().is_ok() {
                state.answered.fetch_add(1, Ordering::Relaxed);
            }
        }
        thread::sleep(PAUSE);
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("clean-up: the prober has panicked");
        }
    }
}
