//! The outside observer: an `AF_PACKET` socket that records what really arrives on an interface.
//!
//! It never stands where a frame may still be dropped: a tap sees a frame before the tcx ingress program of the same
//! interface does. To watch what comes out of a pod, listen at the receiver; to watch what goes in, listen in the pod.

use std::{
    io::{self, Read as _},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::{
    frame::{Mac, Mark},
    netns::Netns,
    wait,
};

/// Pause between two looks at the socket, whose buffer holds hundreds of frames.
const TURN: Duration = Duration::from_millis(2);
/// Longer than a frame takes that has passed every hook: it waits for one softirq.
const IN_FLIGHT: Duration = Duration::from_millis(100);
/// Bytes of an Ethernet header.
const HEADER: usize = 14;
/// Bytes of a frame that are kept.
const KEPT: usize = 192;

/// A frame as it arrived, cut to its beginning.
#[derive(Clone, Debug)]
pub struct Frame(Vec<u8>);

impl Frame {
    /// Its sender.
    pub fn from(&self) -> Mac {
        Mac(self.0[6..12].try_into().expect("an Ethernet frame has 14 bytes"))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Records the frames of one interface until it is dropped.
#[derive(Debug)]
pub struct Observer {
    tape: Arc<Tape>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Tape {
    frames: Mutex<Vec<Frame>>,
    /// How often someone has asked for all that had arrived by then, and up to which question the recorder has it all.
    asked: AtomicU64,
    answered: AtomicU64,
    stop: AtomicBool,
}

impl Observer {
    /// Starts to record on `device` in `netns`; when it returns, no frame is missed any more.
    pub fn start(netns: &Netns, device: &str) -> Self {
        let socket = netns.enter(|| packet_socket(device, TURN));
        Self::record(socket.unwrap_or_else(|e| panic!("observe {device}: {e}")))
    }

    /// Begins a stretch: lets what was sent before arrive, and forgets it.
    pub fn begin<'a>(observers: impl IntoIterator<Item = &'a Self>) {
        thread::sleep(IN_FLIGHT);
        for observer in observers {
            observer.with_frames(Vec::clear);
        }
    }

    /// Like [`start`](Self::start), for one ethertype: such a tap stands behind the tcx ingress programs and the bridge, so it
    /// sees on a port what the port let in and a bridge does not forward.
    pub fn behind(netns: &Netns, device: &str, ethertype: u16) -> Self {
        let socket = netns.enter(|| packet_socket_for(device, ethertype, TURN));
        Self::record(socket.unwrap_or_else(|e| panic!("observe {device}: {e}")))
    }

    /// The same on every interface of the namespace: what the programs of one let in, wherever it would go from there.
    pub fn everywhere(netns: &Netns, ethertype: u16) -> Self {
        let socket = netns.enter(|| packet_socket_at(0, ethertype, TURN));
        Self::record(socket.unwrap_or_else(|e| panic!("observe all interfaces: {e}")))
    }

    fn record(socket: Socket) -> Self {
        socket.set_nonblocking(true).expect("a socket can be made non-blocking");
        let tape = Arc::new(Tape::default());
        let shared = Arc::clone(&tape);
        let thread = thread::spawn(move || shared.record(&socket));
        Self { tape, thread: Some(thread) }
    }

    /// Forgets what has arrived.
    pub fn forget(&self) {
        self.with_frames(Vec::clear);
    }

    /// How many of the frames that have arrived are such.
    pub fn count(&self, such: impl Fn(&Frame) -> bool) -> usize {
        self.with_frames(|frames| frames.iter().filter(|frame| such(frame)).count())
    }

    /// How many came from this interface.
    pub fn from(&self, mac: Mac) -> usize {
        self.count(|frame| frame.from() == mac)
    }

    /// How many came from any other interface than this one.
    pub fn not_from(&self, mac: Mac) -> usize {
        self.count(|frame| frame.from() != mac)
    }

    /// How many carry the mark.
    pub fn marked(&self, mark: &Mark) -> usize {
        self.count(|frame| mark.is_in(frame.bytes()))
    }

    /// What those of this ethertype carried, in the order in which they arrived.
    pub fn payloads(&self, ethertype: u16) -> Vec<Vec<u8>> {
        let such = |frame: &&Frame| frame.bytes().get(HEADER - 2..HEADER) == Some(&ethertype.to_be_bytes()[..]);
        self.with_frames(|frames| frames.iter().filter(such).map(|frame| frame.bytes()[HEADER..].to_vec()).collect())
    }

    fn with_frames<T>(&self, read: impl FnOnce(&mut Vec<Frame>) -> T) -> T {
        let question = self.tape.asked.fetch_add(1, Ordering::SeqCst) + 1;
        // The recorder looks every few milliseconds: the pause of an ordinary wait would be most of the time.
        let start = Instant::now();
        while self.tape.answered.load(Ordering::SeqCst) < question {
            assert!(start.elapsed() < wait::DEADLINE, "the observer does not catch up");
            thread::sleep(TURN / 4);
        }
        read(&mut self.tape.frames.lock().expect("nobody panics while counting"))
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.tape.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("clean-up: an observer panicked");
        }
    }
}

impl Tape {
    fn record(&self, mut socket: &Socket) {
        let mut buffer = [0; KEPT];
        while !self.stop.load(Ordering::Relaxed) {
            let question = self.asked.load(Ordering::SeqCst);
            // Until it would block, or the interface went away and nothing arrives any more.
            while let Ok(length) = socket.read(&mut buffer) {
                if let Some(frame) = buffer.get(..length).filter(|frame| frame.len() >= HEADER) {
                    self.frames.lock().expect("nobody panics while counting").push(Frame(frame.to_vec()));
                }
            }
            self.answered.store(question, Ordering::SeqCst);
            thread::sleep(TURN);
        }
    }
}

/// An `AF_PACKET` socket for all frames of one interface of the calling thread's namespace.
pub fn packet_socket(device: &str, timeout: Duration) -> io::Result<Socket> {
    packet_socket_for(device, u16::try_from(libc::ETH_P_ALL).expect("an ethertype has 16 bits"), timeout)
}

fn packet_socket_for(device: &str, ethertype: u16, timeout: Duration) -> io::Result<Socket> {
    let any = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    packet_socket_at(rustix::net::netdevice::name_to_index(&any, device)?, ethertype, timeout)
}

/// Index 0 stands for all interfaces.
fn packet_socket_at(index: u32, ethertype: u16, timeout: Duration) -> io::Result<Socket> {
    // With protocol 0 it receives nothing before it is bound, so never a frame of another interface.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is what the kernel reads for AF_PACKET, and fits the storage.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).expect("a family has 16 bits");
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = index.cast_signed();
    let length = size_of::<libc::sockaddr_ll>().try_into().expect("it has 20 bytes");
    // SAFETY: the storage holds a sockaddr_ll of this length.
    let address = unsafe { SockAddr::new(storage, length) };
    socket.bind(&address)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    Ok(socket)
}
