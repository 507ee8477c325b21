//! What a test asks of a process in a pod, and what it answers: one JSON line each way on stdin and stdout.
//!
//! A request is one system call wherever that is possible, so that an answer is exactly what the process saw.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::fuzz::Actors;

/// A socket of the process, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Handle(pub u32);

/// What kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Raw ICMP or `ICMPv6`.
    Icmp,
    /// Raw IP with protocol 253 (for experiments, RFC 3692), which the kernel itself does nothing with.
    Raw,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One thing to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// `socket`; the answer carries a handle. Every later call on it ends with EAGAIN (connect: EINPROGRESS) after `timeout`.
    Socket {
        /// Its kind.
        kind: Kind,
        /// Its family.
        family: Family,
        /// How long a call on it blocks.
        timeout: Duration,
    },
    /// An `AF_PACKET` socket on an interface; the answer carries a handle.
    Packet {
        /// The interface's name.
        device: String,
        /// How long a call on it blocks.
        timeout: Duration,
    },
    /// `bind` and, for TCP, `listen`; the answer's value is the port.
    Bind(Handle, SocketAddr),
    /// `connect`.
    Connect(Handle, SocketAddr),
    /// `accept`; the answer carries a handle.
    Accept(Handle),
    /// `send`.
    Send(Handle, Vec<u8>),
    /// `sendto`.
    SendTo(Handle, SocketAddr, Vec<u8>),
    /// `recv`; the answer carries the data.
    Recv(Handle),
    /// `unshare(CLONE_NEWNET)`: the process goes on in a new, empty network namespace; its sockets stay where they are.
    LeaveNetwork,
    /// Gives up all capabilities, but for a thread that sleeps and keeps them.
    HideCapabilities,
    /// Keeps bytes in memory, in place of those before.
    Remember(Vec<u8>),
    /// The bytes that were kept last; the answer carries them.
    Recall,
    /// Writes a file.
    Write(PathBuf, Vec<u8>),
    /// Reads a file; the answer carries the data.
    Read(PathBuf),
    /// `close`.
    Close(Handle),
    /// Sends numbered datagrams until told to stop; the answer carries a handle.
    Flood {
        /// Where to.
        to: SocketAddr,
        /// Pause between two.
        pause: Duration,
    },
    /// Ends a flood; the answer's value is how many `send` calls succeeded.
    StopFlood(Handle),
    /// Counts the numbered datagrams that arrive; the answer carries a handle and the port as its value.
    Sink(SocketAddr),
    /// What a sink has counted: the answer's value is the number of different datagrams.
    Counted(Handle),
    /// A call that no ordinary program makes.
    Raw(Raw),
}

/// What an attacker does: sockets of any family, addresses as the kernel reads them, and the ways around `send`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Raw {
    /// `socket` with these numbers; the answer carries a handle.
    Open {
        /// Address family.
        domain: i32,
        /// Type.
        style: i32,
        /// Protocol.
        protocol: i32,
    },
    /// `setsockopt`.
    Set {
        /// On which socket.
        socket: Handle,
        /// Level.
        level: i32,
        /// Option.
        name: i32,
        /// Its value's bytes.
        value: Vec<u8>,
    },
    /// `bind` to a `sockaddr`.
    Bind(Handle, Vec<u8>),
    /// `sendto` with flags, to a `sockaddr` if there is one.
    Send {
        /// On which socket.
        socket: Handle,
        /// Flags.
        flags: i32,
        /// The address, or none on a connected socket.
        to: Option<Vec<u8>>,
        /// What is sent.
        data: Vec<u8>,
    },
    /// A call that sends the data on a connected or bound socket.
    SendBy(Handle, Call, Vec<u8>),
    /// One frame, through a ring that the process shares with the kernel.
    SendThrough(Ring, String, Vec<u8>),
    /// Gives a socket to whoever connects to this path: listens, accepts one, sends it by `SCM_RIGHTS`.
    Give(Handle, PathBuf),
    /// Connects to such a path; the answer carries the handle of the socket that came.
    Take(PathBuf),
    /// A TUN device; the answer carries a handle on which `send` is a packet that the device receives.
    Tun(String),
    /// Attaches a program that lets everything pass, as the first one, until the handle is closed.
    Program(Hook, String),
    /// Runs loaded programs on random frames, as if this process had sent them; the answer carries the lowest byte of what each
    /// said, or that the kernel refused the frame.
    Fuzz {
        /// The pins of the programs, or of their links.
        programs: Vec<PathBuf>,
        /// The interface, in the namespace of this process.
        ifindex: u32,
        /// What the frames are made from.
        seed: u64,
        /// Who occurs in them.
        actors: Actors,
        /// How many.
        frames: usize,
    },
}

/// A system call that sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// `sendmmsg`.
    Many,
    /// `sendfile` from a file in memory.
    File,
    /// `splice` from a pipe.
    Splice,
    /// A send operation of `io_uring`.
    Uring,
}

/// Memory shared with the kernel, out of which it sends frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ring {
    /// `PACKET_TX_RING`.
    Packet,
    /// `AF_XDP` in copy mode.
    Xdp,
}

/// Where a program can be attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hook {
    /// tcx, what comes in.
    TcIn,
    /// tcx, what goes out.
    TcOut,
    /// XDP, generic mode.
    Xdp,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The system call's return value.
    pub value: i64,
    /// Its errno, or 0.
    pub errno: i32,
    /// How long it took.
    pub elapsed: Duration,
    /// What it received.
    pub data: Vec<u8>,
    /// The socket it made.
    pub handle: Option<Handle>,
}

impl Answer {
    /// Whether the call succeeded.
    pub fn is_ok(&self) -> bool {
        self.errno == 0
    }

    /// The symbolic name of its errno, for the ones that a network gives; `ok` for none.
    pub fn errno_name(&self) -> String {
        let name = match self.errno {
            0 => "ok",
            libc::EPERM => "EPERM",
            libc::EAGAIN => "EAGAIN",
            libc::EINPROGRESS => "EINPROGRESS",
            libc::ECONNREFUSED => "ECONNREFUSED",
            libc::ECONNRESET => "ECONNRESET",
            libc::EHOSTUNREACH => "EHOSTUNREACH",
            libc::ENETUNREACH => "ENETUNREACH",
            libc::ETIMEDOUT => "ETIMEDOUT",
            libc::ENOBUFS => "ENOBUFS",
            libc::EPIPE => "EPIPE",
            libc::EACCES => "EACCES",
            libc::EINVAL => "EINVAL",
            libc::ENODEV => "ENODEV",
            libc::ENOTCONN => "ENOTCONN",
            libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
            libc::EAFNOSUPPORT => "EAFNOSUPPORT",
            libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
            libc::ESOCKTNOSUPPORT => "ESOCKTNOSUPPORT",
            libc::EOPNOTSUPP => "EOPNOTSUPP",
            libc::ENOSYS => "ENOSYS",
            other => return format!("errno {other}"),
        };
        name.to_owned()
    }
}
