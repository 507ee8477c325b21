//! Packet sockets: one that sends probes, one that sees those that arrive. Each is made in the calling thread's namespace.

use std::{
    ffi::c_int,
    io,
    mem::MaybeUninit,
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

use super::frame::Mac;

/// Of `linux/if_packet.h`.
const PACKET_QDISC_BYPASS: c_int = 20;
const PACKET_IGNORE_OUTGOING: c_int = 23;
/// Pause between two looks at a socket.
const TURN: Duration = Duration::from_millis(1);

/// What became of a frame that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It went out.
    Gone,
    /// A program on the way out dropped it, or a queue was full: for tcx the kernel tells a packet socket so.
    Refused,
}

/// Sends frames on one interface.
#[derive(Debug)]
pub(super) struct Sender {
    socket: Socket,
    /// The address of the interface.
    pub(super) address: Mac,
}

impl Sender {
    /// `past_queue` sends past the queueing layer: no tcx program of this interface sees it, nor any rule of the pod's.
    pub(super) fn new(ifindex: u32, past_queue: bool) -> io::Result<Self> {
        let socket = bound(ifindex, 0, |_| Ok(()))?;
        if past_queue {
            set(&socket, PACKET_QDISC_BYPASS)?;
        }
        let name = socket.local_addr()?;
        // SAFETY: a packet socket's name is a sockaddr_ll, and the storage is large enough for any.
        let own = unsafe { &*name.as_ptr().cast::<libc::sockaddr_ll>() };
        if own.sll_hatype != libc::ARPHRD_ETHER || own.sll_halen != 6 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it is no Ethernet interface"));
        }
        let address = own.sll_addr[..6].try_into().expect("six of eight bytes");
        Ok(Self { socket, address })
    }

    /// Sends a frame.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<Sent> {
        match self.socket.send(frame) {
            Ok(_) => Ok(Sent::Gone),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Sent::Refused),
            Err(error) => Err(error),
        }
    }
}

/// Sees the frames from one source address that come to an interface, before any tcx program does.
#[derive(Debug)]
pub(super) struct Tap(Socket);

impl Tap {
    pub(super) fn new(ifindex: u32, source: Mac) -> io::Result<Self> {
        let protocol = u16::try_from(libc::ETH_P_ALL).expect("an ethertype has 16 bits");
        let before_it_is_bound = |socket: &Socket| {
            set(socket, PACKET_IGNORE_OUTGOING)?;
            socket.attach_filter(&from(source))
        };
        let socket = bound(ifindex, protocol, before_it_is_bound)?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// How many have come, waiting for that many for some time.
    pub(super) fn count(&self, expected: u64, patience: Duration) -> u64 {
        let (end, mut count) = (Instant::now() + patience, 0);
        let mut frame = [MaybeUninit::uninit(); 64];
        while count < expected {
            match self.0.recv(&mut frame) {
                Ok(_) => count += 1,
                Err(_) if Instant::now() > end => break,
                Err(_) => thread::sleep(TURN),
            }
        }
        count
    }
}

/// A filter that takes the frames from this address: the first four bytes, then the other two.
fn from(source: Mac) -> [SockFilter; 6] {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let [first @ .., fifth, sixth] = source;
    let step = |code, jf, k| SockFilter::new(code, 0, jf, k);
    [
        step(LOAD_WORD, 0, 6),
        step(JUMP_IF_EQUAL, 3, u32::from_be_bytes(first)),
        step(LOAD_HALF, 0, 10),
        step(JUMP_IF_EQUAL, 1, u16::from_be_bytes([fifth, sixth]).into()),
        step(RETURN, 0, u32::MAX),
        step(RETURN, 0, 0),
    ]
}

/// With protocol 0 it receives nothing, and it is made so: never a frame of another interface.
fn bound(ifindex: u32, protocol: u16, prepare: impl FnOnce(&Socket) -> io::Result<()>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    prepare(&socket)?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is what the kernel reads for AF_PACKET, and fits the storage.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).expect("a family has 16 bits");
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = ifindex.cast_signed();
    let length = size_of::<libc::sockaddr_ll>().try_into().expect("it has 20 bytes");
    // SAFETY: the storage holds a sockaddr_ll of this length.
    socket.bind(&unsafe { SockAddr::new(storage, length) })?;
    Ok(socket)
}

fn set(socket: &Socket, option: c_int) -> io::Result<()> {
    let (on, length) = (1 as c_int, libc::socklen_t::try_from(size_of::<c_int>()).expect("four"));
    // SAFETY: the option's value is an int that lives until the call returns, and the length is an int's.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
