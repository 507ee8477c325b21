//! IP sockets of every family that a pod's processes can have, and how a probe goes through them.

use std::{
    ffi::c_int,
    io,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::frame::checksum;

/// Pause between two looks at a socket.
const TURN: Duration = Duration::from_millis(1);
/// For experiments (RFC 3692); Linux has no handler for it.
pub(super) const UNKNOWN: u8 = 253;

/// What a probe carries.
pub(super) type Mark = [u8; 16];

/// What a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Udp,
    Icmp,
    Raw,
    Tcp,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Icmp => "ICMP",
            Self::Raw => "raw",
            Self::Tcp => "TCP",
        }
    }
}

/// A kind over IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) kind: Kind,
    pub(super) v6: bool,
}

/// Sockets that one side needs for one line: TCP needs one that listens and two that connect.
pub(super) const SET: [Shape; 12] = {
    let mut set = [Shape { kind: Kind::Tcp, v6: false }; 12];
    let mut at = 0;
    while at < set.len() {
        set[at].kind = [Kind::Udp, Kind::Icmp, Kind::Raw, Kind::Tcp, Kind::Tcp, Kind::Tcp][at % 6];
        set[at].v6 = at >= 6;
        at += 1;
    }
    set
};

impl Shape {
    /// What to ask socket(2) for.
    pub(super) fn arguments(self) -> [c_int; 3] {
        let domain = if self.v6 { libc::AF_INET6 } else { libc::AF_INET };
        let (style, protocol) = match (self.kind, self.v6) {
            (Kind::Udp, _) => (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
            (Kind::Tcp, _) => (libc::SOCK_STREAM, libc::IPPROTO_TCP),
            (Kind::Icmp, false) => (libc::SOCK_RAW, libc::IPPROTO_ICMP),
            (Kind::Icmp, true) => (libc::SOCK_RAW, libc::IPPROTO_ICMPV6),
            (Kind::Raw, _) => (libc::SOCK_RAW, c_int::from(UNKNOWN)),
        };
        [domain, style, protocol]
    }

    pub(super) fn open(self) -> io::Result<OwnedFd> {
        let [domain, style, protocol] = self.arguments();
        Socket::new(Domain::from(domain), Type::from(style), Some(Protocol::from(protocol))).map(Into::into)
    }
}

/// The sockets of one side, in the order of [`SET`]; none where the kernel has no such family.
#[derive(Debug)]
pub(super) struct Sockets(Vec<Option<Socket>>);

impl Sockets {
    pub(super) fn new(sockets: Vec<Option<OwnedFd>>) -> Self {
        let ready = |socket: OwnedFd| {
            let socket = Socket::from(socket);
            socket.set_nonblocking(true).is_ok().then_some(socket)
        };
        Self(sockets.into_iter().map(|socket| socket.and_then(ready)).collect())
    }

    /// Those of a kind, bound to this address.
    pub(super) fn bound(&self, kind: Kind, at: IpAddr) -> io::Result<Vec<&Socket>> {
        let shape = Shape { kind, v6: at.is_ipv6() };
        let such = SET.iter().zip(&self.0).filter(|(of, _)| **of == shape);
        let sockets: Option<Vec<&Socket>> = such.map(|(_, socket)| socket.as_ref()).collect();
        let sockets = sockets.ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
        for socket in &sockets {
            socket.bind(&SocketAddr::new(at, 0).into())?;
        }
        Ok(sockets)
    }
}

/// Where a socket is bound.
pub(super) fn address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Sends a mark as the kind of socket has it.
pub(super) fn send(socket: &Socket, kind: Kind, to: SocketAddr, mark: &Mark) -> io::Result<()> {
    let data = match kind {
        Kind::Icmp => echo(to.is_ipv6(), mark),
        Kind::Udp | Kind::Raw | Kind::Tcp => mark.to_vec(),
    };
    // A raw IPv6 socket takes a port for a protocol, and refuses another than its own.
    let to = if kind == Kind::Udp { to } else { SocketAddr::new(to.ip(), 0) };
    socket.send_to(&data, &to.into()).map(drop)
}

/// An echo request. The checksum of `ICMPv6` is the kernel's to make.
fn echo(v6: bool, mark: &Mark) -> Vec<u8> {
    let mut packet = [&[if v6 { 128 } else { 8 }, 0, 0, 0, 0, 0, 0, 0][..], mark].concat();
    if !v6 {
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    packet
}

/// Reads what comes until it is `last`, or for so long. Whether `last` came, and whether `other` did.
pub(super) fn received(socket: &Socket, last: &Mark, other: &Mark, patience: Duration) -> (bool, bool) {
    let (end, mut found) = (Instant::now() + patience, false);
    loop {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 256];
        match socket.recv(&mut buffer) {
            Ok(length) => {
                // SAFETY: the kernel has filled that many bytes.
                let data = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) };
                let carries = |mark: &Mark| data.windows(mark.len()).any(|window| window == mark);
                found |= carries(other);
                if carries(last) {
                    return (true, found);
                }
            }
            Err(_) if Instant::now() > end => return (false, found),
            Err(_) => thread::sleep(TURN),
        }
    }
}

/// Accepts until a connection from `last` comes, or for so long. Whether it did, and whether one from `other` did.
pub(super) fn accepted(listener: &Socket, last: SocketAddr, other: SocketAddr, patience: Duration) -> (bool, bool) {
    let (end, mut found) = (Instant::now() + patience, false);
    loop {
        match listener.accept() {
            Ok((_, from)) => {
                let from = from.as_socket();
                found |= from == Some(other);
                if from == Some(last) {
                    return (true, found);
                }
            }
            Err(_) if Instant::now() > end => return (false, found),
            Err(_) => thread::sleep(TURN),
        }
    }
}
