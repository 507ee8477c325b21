//! A stream of numbered datagrams from one process to another, and the count of those that arrived.

use std::{fs, net::SocketAddr, time::Duration};

use crate::{process::Process, process::Socket, wait, wire::Request};

/// Pause between two datagrams: a rate that fills a socket's buffer only where its process gets no processor for long.
const PAUSE: Duration = Duration::from_millis(1);

/// A running stream.
#[derive(Debug)]
pub struct Flood<'a> {
    sender: &'a Process,
    receiver: &'a Process,
    stream: Socket<'a>,
    sink: Socket<'a>,
    /// What had found a buffer of the receiver's namespace full before.
    turned_away: i64,
}

impl<'a> Flood<'a> {
    /// Starts to send from `sender` to a port that `receiver` opens on `address`, and waits for the first datagrams, so that
    /// the stream is known to flow.
    pub fn start(sender: &'a Process, receiver: &'a Process, address: SocketAddr) -> Self {
        let (sink, bound) = receiver.made(&Request::Sink(address));
        let to = SocketAddr::new(address.ip(), u16::try_from(bound.value).expect("a port has 16 bits"));
        let (stream, _) = sender.made(&Request::Flood { to, pause: PAUSE });
        let flood = Self { sender, receiver, stream, sink, turned_away: turned_away(receiver) };
        wait::until("the stream flows", || flood.received() > 10);
        flood
    }

    /// How many different datagrams have arrived so far.
    pub fn received(&self) -> i64 {
        self.receiver.call(&Request::Counted(self.sink.handle())).value
    }

    /// Stops the sender and waits for what is still on its way; returns how many datagrams were sent and lost on the way. One
    /// that found the receiver's buffer full has arrived.
    pub fn lost(self) -> i64 {
        let sent = self.sender.call(&Request::StopFlood(self.stream.handle())).value;
        wait::happens_within(Duration::from_secs(5), || self.received() == sent);
        let lost = sent - self.received();
        if lost == 0 { 0 } else { lost - (turned_away(self.receiver) - self.turned_away) }
    }
}

/// Datagrams that found the buffer of their socket full, in the namespace of a process (`RcvbufErrors` of `/proc/PID/net/snmp`).
fn turned_away(process: &Process) -> i64 {
    let read = |file: &str| fs::read_to_string(format!("/proc/{}/net/{file}", process.pid())).unwrap_or_default();
    let (v4, v6) = (read("snmp"), read("snmp6"));
    // Two lines: names, values.
    let mut udp = v4.lines().filter(|line| line.starts_with("Udp:")).map(str::split_whitespace);
    let names = udp.next().into_iter().flatten();
    let pairs = names.zip(udp.next().into_iter().flatten()).chain(v6.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().zip(words.next())
    }));
    let errors = |name: &str| name == "RcvbufErrors" || name == "Udp6RcvbufErrors";
    pairs.filter(|(name, _)| errors(name)).filter_map(|(_, value)| value.parse::<i64>().ok()).sum()
}
