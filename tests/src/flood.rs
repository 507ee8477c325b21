//! A stream of numbered datagrams from one process to another, and the count of those that arrived.

use std::{net::SocketAddr, time::Duration};

use crate::{process::Process, process::Socket, wait, wire::Request};

/// Pause between two datagrams: a rate that never fills a socket's buffer, so a lost one was dropped on the way.
const PAUSE: Duration = Duration::from_millis(1);

/// A running stream.
#[derive(Debug)]
pub struct Flood<'a> {
    sender: &'a Process,
    receiver: &'a Process,
    stream: Socket<'a>,
    sink: Socket<'a>,
}

impl<'a> Flood<'a> {
    /// Starts to send from `sender` to a port that `receiver` opens on `address`, and waits for the first datagrams, so that
    /// the stream is known to flow.
    pub fn start(sender: &'a Process, receiver: &'a Process, address: SocketAddr) -> Self {
        let (sink, bound) = receiver.made(&Request::Sink(address));
        let to = SocketAddr::new(address.ip(), u16::try_from(bound.value).expect("a port has 16 bits"));
        let (stream, _) = sender.made(&Request::Flood { to, pause: PAUSE });
        let flood = Self { sender, receiver, stream, sink };
        wait::until("the stream flows", || flood.received() > 10);
        flood
    }

    /// How many different datagrams have arrived so far.
    pub fn received(&self) -> i64 {
        self.receiver.call(&Request::Counted(self.sink.handle())).value
    }

    /// Stops the sender and waits for what is still on its way; returns how many datagrams were sent and did not arrive.
    pub fn lost(self) -> i64 {
        let sent = self.sender.call(&Request::StopFlood(self.stream.handle())).value;
        wait::happens_within(Duration::from_secs(5), || self.received() == sent);
        sent - self.received()
    }
}
