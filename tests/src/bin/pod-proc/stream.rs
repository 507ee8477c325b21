//! Numbered datagrams: a thread that sends them, and one that counts them.

use std::{
    collections::HashSet,
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

const TURN: Duration = Duration::from_millis(50);

/// Sends until stopped.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Flood {
    pub(crate) fn start(to: SocketAddr, pause: Duration) -> io::Result<Self> {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::spawn(move || send(&socket, to, pause, &seen));
        Ok(Self { stop, thread })
    }

    /// Ends it; returns how many sends succeeded.
    pub(crate) fn stop(self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_or(-1, |sent| i64::try_from(sent).unwrap_or(i64::MAX))
    }
}

fn send(socket: &UdpSocket, to: SocketAddr, pause: Duration, stop: &AtomicBool) -> u64 {
    let (mut number, mut sent) = (0_u64, 0);
    while !stop.load(Ordering::Relaxed) {
        sent += u64::from(socket.send_to(&number.to_be_bytes(), to).is_ok());
        number += 1;
        thread::sleep(pause);
    }
    sent
}

/// Counts what arrives until the process ends.
pub(crate) struct Sink {
    numbers: Arc<Mutex<HashSet<u64>>>,
}

impl Sink {
    pub(crate) fn start(address: SocketAddr) -> io::Result<(Self, u16)> {
        let socket = UdpSocket::bind(address)?;
        let port = socket.local_addr()?.port();
        let numbers = Arc::new(Mutex::new(HashSet::new()));
        let shared = Arc::downgrade(&numbers);
        socket.set_read_timeout(Some(TURN))?;
        thread::spawn(move || {
            let mut datagram = [0; 8];
            // Ends when the sink is closed.
            while let Some(numbers) = shared.upgrade() {
                if let Ok(8) = socket.recv(&mut datagram) {
                    let mut numbers = numbers.lock().unwrap_or_else(PoisonError::into_inner);
                    numbers.insert(u64::from_be_bytes(datagram));
                }
            }
        });
        Ok((Self { numbers }, port))
    }

    pub(crate) fn counted(&self) -> i64 {
        let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        i64::try_from(numbers.len()).unwrap_or(i64::MAX)
    }
}
