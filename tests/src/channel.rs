//! The ways in which one end can send something to another, each tried with a fresh mark.
//!
//! A channel carries if what was sent arrives: nothing is inferred from an error or from silence at the sender. TCP needs
//! both directions, all others show one.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use crate::{
    frame::{EXPERIMENT, Mac, Mark, arp_request, echo_request, ethernet},
    process::{Process, Socket},
    wait,
    wire::{Answer, Family, Kind},
};

/// How long the receiver waits for what is expected not to come.
const SILENCE: Duration = Duration::from_millis(200);
/// How long a single try waits for what is expected to come.
const PATIENCE: Duration = Duration::from_secs(2);

/// One end: a process, and the interface by which the other reaches it.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Who sends or receives.
    pub process: &'a Process,
    /// The interface's name, for frames.
    pub device: &'a str,
    /// Its hardware address.
    pub mac: Mac,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl End<'_> {
    fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

/// A way to send something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// A new TCP connection, and data on it.
    Tcp(Family),
    /// A datagram.
    Udp(Family),
    /// An echo request, seen by a raw socket at the receiver.
    Icmp(Family),
    /// A packet of an unknown protocol, raw socket to raw socket.
    Raw(Family),
    /// A broadcast ARP request from an `AF_PACKET` socket.
    Arp,
    /// A unicast frame of an unknown ethertype from an `AF_PACKET` socket.
    Frame,
}

impl Channel {
    /// What any two ends can use between them that have a route to each other.
    pub const ROUTED: [Self; 8] = [
        Self::Tcp(Family::V4),
        Self::Tcp(Family::V6),
        Self::Udp(Family::V4),
        Self::Udp(Family::V6),
        Self::Icmp(Family::V4),
        Self::Icmp(Family::V6),
        Self::Raw(Family::V4),
        Self::Raw(Family::V6),
    ];
    /// The same without raw sockets: what an ordinary process uses.
    pub const ORDINARY: [Self; 4] =
        [Self::Tcp(Family::V4), Self::Tcp(Family::V6), Self::Udp(Family::V4), Self::Udp(Family::V6)];
    /// What needs a common link as well.
    pub const LINK: [Self; 2] = [Self::Arp, Self::Frame];

    fn delivers(self, from: &End<'_>, to: &End<'_>, patience: Duration) -> bool {
        match self {
            Self::Tcp(family) => tcp(from, to, family, patience),
            Self::Udp(family) => {
                let receiver = to.process.socket(Kind::Udp, family, patience);
                let address = receiver.bind(SocketAddr::new(to.ip(family), 0));
                datagram(&receiver, &Mark::new(), |mark| {
                    from.process.socket(Kind::Udp, family, patience).send_to(address, mark.bytes());
                })
            }
            Self::Icmp(family) => raw(Kind::Icmp, from, to, family, patience),
            Self::Raw(family) => raw(Kind::Raw, from, to, family, patience),
            Self::Arp => frame(from, to, patience, |mark| arp_request(from.mac, from.v4, to.v4, mark)),
            Self::Frame => frame(from, to, patience, |mark| ethernet(to.mac, from.mac, EXPERIMENT, mark.bytes())),
        }
    }
}

/// Two ends that were seen to reach each other: only then does silence between them mean that something cuts them off.
#[derive(Clone, Debug)]
pub struct Path<'a> {
    channels: Vec<Channel>,
    one: End<'a>,
    other: End<'a>,
    both_ways: bool,
}

impl<'a> Path<'a> {
    /// The path of these channels; panics unless all of them carry, both ways.
    #[track_caller]
    pub fn shown(channels: impl IntoIterator<Item = Channel>, one: End<'a>, other: End<'a>) -> Self {
        let path = Self::unseen(channels, one, other);
        path.assert_flows();
        path
    }

    /// The same from the one to the other only.
    #[track_caller]
    pub fn shown_one_way(channels: impl IntoIterator<Item = Channel>, one: End<'a>, other: End<'a>) -> Self {
        let path = Self { both_ways: false, ..Self::unseen(channels, one, other) };
        path.assert_flows();
        path
    }

    /// The path of these channels between ends of which one is new: it could not show it, because it was cut from its start.
    /// To be told apart from two ends that never reach each other by letting it flow afterwards.
    pub fn unseen(channels: impl IntoIterator<Item = Channel>, one: End<'a>, other: End<'a>) -> Self {
        Self { channels: channels.into_iter().collect(), one, other, both_ways: true }
    }

    /// The same path, used by another process on the first side: one that could not show it, because it came later.
    #[must_use]
    pub fn used_by(&self, process: &'a Process) -> Self {
        Self { one: End { process, ..self.one }, ..self.clone() }
    }

    /// Panics unless every channel carries before long, each way that the path has.
    #[track_caller]
    pub fn assert_flows(&self) {
        for (channel, from, to) in self.ways() {
            let what = format!("{channel:?} carries from {} to {}", from.v4, to.v4);
            wait::until(&what, || channel.delivers(from, to, PATIENCE));
        }
    }

    /// Panics if any channel carries, in any way that the path has.
    #[track_caller]
    pub fn assert_cut(&self) {
        let open = self.open();
        assert!(open.is_empty(), "not cut: {open:?}");
    }

    /// The channels that carry now, in words: one try each.
    pub fn open(&self) -> Vec<String> {
        let open = self.ways().filter(|(channel, from, to)| channel.delivers(from, to, SILENCE));
        open.map(|(channel, from, to)| format!("{channel:?} from {} to {}", from.v4, to.v4)).collect()
    }

    fn ways(&self) -> impl Iterator<Item = (Channel, &End<'a>, &End<'a>)> {
        let back = self.both_ways.then_some((&self.other, &self.one));
        let ways = [Some((&self.one, &self.other)), back].into_iter().flatten();
        self.channels.iter().flat_map(move |&channel| ways.clone().map(move |(from, to)| (channel, from, to)))
    }
}

fn tcp(from: &End<'_>, to: &End<'_>, family: Family, patience: Duration) -> bool {
    let listener = to.process.socket(Kind::Tcp, family, patience);
    let address = listener.bind(SocketAddr::new(to.ip(family), 0));
    let client = from.process.socket(Kind::Tcp, family, patience);
    let connected = client.connect(address).is_ok();
    // An accept without a connect would be a handshake that only the client thinks has failed.
    let Ok(accepted) = listener.accept() else { return connected };
    datagram(&accepted, &Mark::new(), |mark| {
        client.send(mark.bytes());
    })
}

fn raw(kind: Kind, from: &End<'_>, to: &End<'_>, family: Family, patience: Duration) -> bool {
    let receiver = to.process.socket(kind, family, patience);
    let mark = Mark::new();
    let packet = if kind == Kind::Icmp { echo_request(family == Family::V6, &mark) } else { mark.bytes().to_vec() };
    datagram(&receiver, &mark, |_| {
        from.process.socket(kind, family, patience).send_to(SocketAddr::new(to.ip(family), 0), &packet);
    })
}

fn frame(from: &End<'_>, to: &End<'_>, patience: Duration, build: impl Fn(&Mark) -> Vec<u8>) -> bool {
    // An isolated pod may be refused the socket itself.
    let Ok(receiver) = to.process.try_packet(to.device, patience) else { return false };
    datagram(&receiver, &Mark::new(), |mark| {
        if let Ok(sender) = from.process.try_packet(from.device, patience) {
            sender.send(&build(mark));
        }
    })
}

/// Sends the mark and reads what arrives until it does, or nothing more comes.
fn datagram(receiver: &Socket<'_>, mark: &Mark, send: impl FnOnce(&Mark)) -> bool {
    /// Other traffic that a raw socket may see in between.
    const MOST: usize = 200;
    send(mark);
    (0..MOST).map(|_| receiver.recv()).take_while(Answer::is_ok).any(|answer| mark.is_in(&answer.data))
}
