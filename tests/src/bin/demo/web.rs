//! Web pages that are served, and requests for them without end. Every request is a connection of its own.

use std::{
    mem,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use isolate_tests::{
    process::{Process, Socket},
    wire::{Family, Kind},
};

/// From the beginning of a request to that of the next.
const PERIOD: Duration = Duration::from_millis(200);
/// How long a visitor waits for each step of an answer: a healthy one comes within milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the server waits for a visitor before it looks whether to stop.
const TURN: Duration = Duration::from_millis(200);

/// A web server with one page.
pub(crate) struct Server<'a> {
    listener: Socket<'a>,
    page: String,
}

impl<'a> Server<'a> {
    /// Listens; visitors wait until it runs.
    pub(crate) fn new(process: &'a Process, address: SocketAddr, page: &str) -> Self {
        let listener = process.socket(Kind::Tcp, Family::V4, TURN);
        listener.bind(address);
        Self { listener, page: format!("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n{page}\n") }
    }

    /// Answers until told to stop.
    pub(crate) fn run(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            if let Ok(visitor) = self.listener.accept()
                && visitor.recv().is_ok()
            {
                visitor.send(self.page.as_bytes());
            }
        }
    }
}

/// Requests from one process to one server, one after the other.
pub(crate) struct Visits<'a> {
    visitor: &'a Process,
    server: SocketAddr,
    tally: Mutex<(Instant, Tally)>,
}

/// The requests of a stretch of time: those that began and ended in it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) made: u32,
    pub(crate) answered: u32,
}

impl<'a> Visits<'a> {
    pub(crate) fn new(visitor: &'a Process, server: SocketAddr) -> Self {
        Self { visitor, server, tally: Mutex::new((Instant::now(), Tally::default())) }
    }

    /// Makes requests until told to stop.
    pub(crate) fn run(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            let answered = self.visit();
            self.add(start, answered);
            thread::sleep(PERIOD.saturating_sub(start.elapsed()));
        }
    }

    /// Begins a stretch; returns the one before.
    pub(crate) fn begin(&self) -> Tally {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        mem::replace(&mut *tally, (Instant::now(), Tally::default())).1
    }

    fn add(&self, start: Instant, answered: bool) {
        let (since, tally) = &mut *self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        if start >= *since {
            tally.made += 1;
            tally.answered += u32::from(answered);
        }
    }

    fn visit(&self) -> bool {
        let socket = self.visitor.socket(Kind::Tcp, Family::V4, PATIENCE);
        socket.connect(self.server).is_ok()
            && socket.send(b"GET / HTTP/1.0\r\n\r\n").is_ok()
            && socket.recv().data.starts_with(b"HTTP/1.0 200")
    }
}
