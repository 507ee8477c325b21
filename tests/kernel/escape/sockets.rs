//! Sockets: what a program sends with ordinary means, and by every call that the kernel has for it.

use std::{fs, net::SocketAddr};

use isolate_tests::{
    frame::{Mark, echo_request},
    observe::Frame,
    packet::{UDP, ipv4, sockaddr, udp},
    process::Process,
    wire::{Call, Family, Handle, Kind, Raw, Request},
};

use super::{
    Escape, Halt, escape,
    run::Setting::Bridged,
    stage::{DISCARD as PORT, Stage, State, done},
};

/// For experiments (RFC 3692).
const EXPERIMENT: i32 = 253;
const IPPROTO_SCTP: i32 = 132;
const IPPROTO_UDPLITE: i32 = 136;
const IPPROTO_DCCP: i32 = 33;
const SOCK_DCCP: i32 = 6;
/// Where the ports of handshakes begin, one for each channel.
const HANDSHAKES: u16 = 21000;
const IPPROTO_MPTCP: i32 = 262;
/// `UDP_SEGMENT` of `SOL_UDP`, `linux/udp.h`.
const SOL_UDP: i32 = 17;
const UDP_SEGMENT: i32 = 103;

pub(super) const ALL: &[Escape] = &[
    escape(Bridged, "TCP over IPv4", |s, mark| tcp(s, mark, Family::V4, 0, connect_and_send)),
    escape(Bridged, "TCP over IPv6", |s, mark| tcp(s, mark, Family::V6, 0, connect_and_send)),
    escape(Bridged, "TCP with data in the SYN (fast open)", |s, mark| tcp(s, mark, Family::V4, 0, fast_open)),
    escape(Bridged, "TCP by several paths (MPTCP)", |s, mark| {
        tcp(s, mark, Family::V4, IPPROTO_MPTCP, connect_and_send)
    }),
    escape(Bridged, "TCP from a file (sendfile)", |s, mark| {
        tcp(s, mark, Family::V4, 0, |s, socket, to, mark| by(s, socket, to, mark, Call::File))
    }),
    escape(Bridged, "TCP from a pipe (splice)", |s, mark| {
        tcp(s, mark, Family::V4, 0, |s, socket, to, mark| by(s, socket, to, mark, Call::Splice))
    }),
    escape(Bridged, "TCP through io_uring", |s, mark| {
        tcp(s, mark, Family::V4, 0, |s, socket, to, mark| by(s, socket, to, mark, Call::Uring))
    }),
    escape(Bridged, "established connection that the pod opened", |s, mark| old(s, mark, s.old.outbound[0])),
    escape(Bridged, "established connection that the pod accepted", |s, mark| old(s, mark, s.old.inbound[0])),
    escape(Bridged, "UDP over IPv4", |s, mark| datagram(s, mark, v4(s, PORT))),
    escape(Bridged, "UDP over IPv6", |s, mark| datagram(s, mark, v6(s, PORT))),
    escape(Bridged, "UDP to the node's DNS port", |s, mark| {
        datagram(s, mark, SocketAddr::new(s.scene.node.end(s.peer()).v4.into(), 53))
    }),
    escape(Bridged, "UDP broadcast", |s, mark| {
        let socket = s.open(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        s.set(socket, libc::SOL_SOCKET, libc::SO_BROADCAST, 1)?;
        s.send(socket, ([255, 255, 255, 255], PORT).into(), mark.bytes())?;
        Ok(s.arrives(mark))
    }),
    escape(Bridged, "UDP multicast over IPv4", |s, mark| datagram(s, mark, ([239, 1, 2, 3], PORT).into())),
    escape(Bridged, "UDP multicast over IPv6", |s, mark| {
        datagram(s, mark, ("ff0e::1234".parse::<std::net::Ipv6Addr>().expect("it is an address"), PORT).into())
    }),
    escape(Bridged, "UDP by a connected socket from before", |s, mark| {
        s.raw(Raw::Send { socket: s.old.datagram, flags: 0, to: None, data: mark.bytes().to_vec() })?;
        Ok(s.arrives(mark))
    }),
    escape(Bridged, "UDP in bulk (sendmmsg)", |s, mark| {
        connected(s, mark, |s, socket| s.raw(Raw::SendBy(socket, Call::Many, mark.bytes().to_vec())).map(drop))
    }),
    escape(Bridged, "UDP through io_uring", |s, mark| {
        connected(s, mark, |s, socket| s.raw(Raw::SendBy(socket, Call::Uring, mark.bytes().to_vec())).map(drop))
    }),
    escape(Bridged, "UDP without copying (MSG_ZEROCOPY)", |s, mark| {
        connected(s, mark, |s, socket| {
            s.set(socket, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1)?;
            s.raw(Raw::Send { socket, flags: libc::MSG_ZEROCOPY, to: None, data: mark.bytes().to_vec() }).map(drop)
        })
    }),
    escape(Bridged, "UDP in segments (UDP_SEGMENT)", |s, mark| {
        connected(s, mark, |s, socket| {
            s.set(socket, SOL_UDP, UDP_SEGMENT, 600)?;
            let data = [mark.bytes(), &[b'.'; 1500]].concat();
            s.raw(Raw::Send { socket, flags: 0, to: None, data }).map(drop)
        })
    }),
    escape(Bridged, "UDP with IP options", |s, mark| {
        connected(s, mark, |s, socket| {
            // Four times "no operation".
            s.raw(Raw::Set { socket, level: libc::IPPROTO_IP, name: libc::IP_OPTIONS, value: vec![1; 4] })?;
            s.raw(Raw::Send { socket, flags: 0, to: None, data: mark.bytes().to_vec() }).map(drop)
        })
    }),
    escape(Bridged, "UDP with a mark and a bound device", |s, mark| {
        connected(s, mark, |s, socket| {
            s.set(socket, libc::SOL_SOCKET, libc::SO_MARK, 0xca7)?;
            s.raw(Raw::Set { socket, level: libc::SOL_SOCKET, name: libc::SO_BINDTODEVICE, value: b"eth0".to_vec() })?;
            s.raw(Raw::Send { socket, flags: 0, to: None, data: mark.bytes().to_vec() }).map(drop)
        })
    }),
    escape(Bridged, "UDP-Lite", |s, mark| other(s, mark, libc::SOCK_DGRAM, IPPROTO_UDPLITE)),
    escape(Bridged, "SCTP", |s, mark| handshake(s, mark, libc::SOCK_SEQPACKET, IPPROTO_SCTP)),
    escape(Bridged, "DCCP", |s, mark| handshake(s, mark, SOCK_DCCP, IPPROTO_DCCP)),
    escape(Bridged, "raw IPv4 of an unknown protocol", |s, mark| other(s, mark, libc::SOCK_RAW, EXPERIMENT)),
    escape(Bridged, "raw IPv4 of the GRE protocol", |s, mark| other(s, mark, libc::SOCK_RAW, libc::IPPROTO_GRE)),
    escape(Bridged, "raw IPv6 of an unknown protocol", |s, mark| {
        let socket = s.open(libc::AF_INET6, libc::SOCK_RAW, EXPERIMENT)?;
        s.send(socket, v6(s, 0), mark.bytes())?;
        Ok(s.arrives(mark))
    }),
    escape(Bridged, "raw IPv4 with a header of its own and a false source", |s, mark| {
        let socket = s.open(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
        let to = s.neighbour().v4;
        s.send(socket, (to, 0).into(), &ipv4([198, 51, 100, 7].into(), to, UDP, &udp(PORT, PORT, mark.bytes())))?;
        Ok(s.arrives(mark))
    }),
    escape(Bridged, "ICMP echo", |s, mark| ping(s, mark, Kind::Icmp, Family::V4)),
    escape(Bridged, "ICMPv6 echo", |s, mark| ping(s, mark, Kind::Icmp, Family::V6)),
    escape(Bridged, "ICMP echo by an unprivileged ping socket", |s, mark| {
        let socket = s.open(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP)?;
        s.send(socket, v4(s, 0), &echo_request(false, mark))?;
        Ok(s.arrives(mark))
    }),
    escape(Bridged, "a socket of another cgroup, received by SCM_RIGHTS", scm_rights),
    escape(Bridged, "a process started after the isolation", |s, mark| {
        let late = s.scene.web.start_container();
        by_process(s, mark, &late)
    }),
    escape(Bridged, "a process that was moved to another cgroup", |s, mark| {
        let moved = s.scene.web.start_container();
        let procs = s.scene.node.service().join("cgroup.procs");
        fs::write(&procs, moved.pid().to_string()).expect("root may move a process");
        by_process(s, mark, &moved)
    }),
    escape(Bridged, "a process of another cgroup in the pod's namespace", |s, mark| by_process(s, mark, &s.stranger)),
];

pub(super) fn v4(s: &Stage, port: u16) -> SocketAddr {
    (s.neighbour().v4, port).into()
}

pub(super) fn v6(s: &Stage, port: u16) -> SocketAddr {
    (s.neighbour().v6, port).into()
}

pub(super) fn datagram(s: &Stage, mark: &Mark, to: SocketAddr) -> Result<bool, Halt> {
    let domain = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let socket = s.open(domain, libc::SOCK_DGRAM, 0)?;
    s.send(socket, to, mark.bytes())?;
    Ok(s.arrives(mark))
}

fn connected(s: &Stage, mark: &Mark, send: impl Fn(&Stage, Handle) -> Result<(), Halt>) -> Result<bool, Halt> {
    let socket = s.open(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    s.call(&Request::Connect(socket, v4(s, PORT)))?;
    send(s, socket)?;
    Ok(s.arrives(mark))
}

fn other(s: &Stage, mark: &Mark, style: i32, protocol: i32) -> Result<bool, Halt> {
    let socket = s.open(libc::AF_INET, style, protocol)?;
    let port = if style == libc::SOCK_RAW { 0 } else { PORT };
    s.send(socket, v4(s, port), mark.bytes())?;
    Ok(s.arrives(mark))
}

/// Nobody listens there, so data never follows: what must not get through is the first packet of the handshake.
fn handshake(s: &Stage, mark: &Mark, style: i32, protocol: i32) -> Result<bool, Halt> {
    let socket = s.open(libc::AF_INET, style, protocol)?;
    let port = HANDSHAKES + s.number();
    let sent = s.send(socket, v4(s, port), mark.bytes());
    let arrived = s.arrives_such(|frame| is_to(frame, protocol, port));
    sent.map(|_answer| arrived).or_else(|halt| if arrived { Ok(true) } else { Err(halt) })
}

fn ping(s: &Stage, mark: &Mark, kind: Kind, family: Family) -> Result<bool, Halt> {
    let socket = s.make(&Request::Socket { kind, family, timeout: s.patience() })?;
    let v6_family = family == Family::V6;
    s.send(socket, if v6_family { v6(s, 0) } else { v4(s, 0) }, &echo_request(v6_family, mark))?;
    Ok(s.arrives(mark))
}

type Sending = fn(&Stage, Handle, SocketAddr, &Mark) -> Result<(), Halt>;

/// A connection to a listener of the neighbour. Only data shows that it works; while it is cut, not even a SYN may come.
pub(super) fn tcp(s: &Stage, mark: &Mark, family: Family, protocol: i32, send: Sending) -> Result<bool, Halt> {
    let listener = s.peer().socket(Kind::Tcp, family, s.patience());
    let to = listener.bind(if family == Family::V4 { v4(s, 0) } else { v6(s, 0) });
    let domain = if family == Family::V4 { libc::AF_INET } else { libc::AF_INET6 };
    let socket = s.open(domain, libc::SOCK_STREAM, protocol)?;
    let outcome = send(s, socket, to, mark);
    let cut = s.state() == State::Cut;
    let arrived =
        s.arrives_such(|frame| mark.is_in(frame.bytes()) || (cut && is_to(frame, libc::IPPROTO_TCP, to.port())));
    outcome.map(|()| arrived).or_else(|halt| if arrived { Ok(true) } else { Err(halt) })
}

pub(super) fn connect_and_send(s: &Stage, socket: Handle, to: SocketAddr, mark: &Mark) -> Result<(), Halt> {
    s.call(&Request::Connect(socket, to))?;
    s.call(&Request::Send(socket, mark.bytes().to_vec())).map(drop)
}

fn fast_open(s: &Stage, socket: Handle, to: SocketAddr, mark: &Mark) -> Result<(), Halt> {
    let data = mark.bytes().to_vec();
    s.raw(Raw::Send { socket, flags: libc::MSG_FASTOPEN, to: Some(sockaddr(to)), data }).map(drop)
}

fn by(s: &Stage, socket: Handle, to: SocketAddr, mark: &Mark, call: Call) -> Result<(), Halt> {
    s.call(&Request::Connect(socket, to))?;
    s.raw(Raw::SendBy(socket, call, mark.bytes().to_vec())).map(drop)
}

fn old(s: &Stage, mark: &Mark, socket: Handle) -> Result<bool, Halt> {
    s.call(&Request::Send(socket, mark.bytes().to_vec()))?;
    Ok(s.arrives(mark))
}

/// The stranger's socket belongs to the cgroup in which it was made.
pub(super) fn scm_rights(s: &Stage, mark: &Mark) -> Result<bool, Halt> {
    let path = s.scene.node.folder().join("given.sock");
    if path.exists() {
        fs::remove_file(&path).expect("root may remove it");
    }
    let socket = s.stranger.socket(Kind::Udp, Family::V4, s.patience());
    let give = Request::Raw(Raw::Give(socket.handle(), path.clone()));
    done(&give, s.stranger.call(&give))?;
    let taken = s.make(&Request::Raw(Raw::Take(path)))?;
    s.send(taken, v4(s, PORT), mark.bytes())?;
    Ok(s.arrives(mark))
}

pub(super) fn by_process(s: &Stage, mark: &Mark, process: &Process) -> Result<bool, Halt> {
    let socket = process.socket(Kind::Udp, Family::V4, s.patience());
    let send = Request::SendTo(socket.handle(), v4(s, PORT), mark.bytes().to_vec());
    done(&send, process.call(&send))?;
    Ok(s.arrives(mark))
}

/// Whether a frame carries this protocol to this port.
fn is_to(frame: &Frame, protocol: i32, port: u16) -> bool {
    let bytes = frame.bytes();
    let carries = |byte: usize| bytes.get(byte).is_some_and(|carried| i32::from(*carried) == protocol);
    let header = match bytes.get(12..14) {
        Some([0x08, 0x00]) if carries(23) => 14 + usize::from(bytes[14] & 15) * 4,
        Some([0x86, 0xdd]) if carries(20) => 54,
        _ => return false,
    };
    bytes.get(header + 2..header + 4) == Some(&port.to_be_bytes())
}
