//! The outside observer: an `AF_PACKET` socket that records what really arrives on an interface.
//!
//! It never stands where a frame may still be dropped: a tap sees a frame before the tcx ingress program of the same
//! interface does. To watch what comes out of a pod, listen at the receiver; to watch what goes in, listen in the pod.

use std::{
    io::{self, Read as _},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::{
    frame::{Mac, Mark},
    netns::Netns,
};

/// How often the observer looks whether it is to stop.
const TURN: Duration = Duration::from_millis(20);
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
    frames: Arc<Mutex<Vec<Frame>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Observer {
    /// Starts to record on `device` in `netns`; when it returns, no frame is missed any more.
    pub fn start(netns: &Netns, device: &str) -> Self {
        let socket = netns.enter(|| packet_socket(device, TURN)).unwrap_or_else(|e| panic!("observe {device}: {e}"));
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (frames, stop) = (Arc::clone(&frames), Arc::clone(&stop));
            move || record(&socket, &frames, &stop)
        });
        Self { frames, stop, thread: Some(thread) }
    }

    /// How many of the recorded frames are such.
    pub fn count(&self, such: impl Fn(&Frame) -> bool) -> usize {
        self.frames.lock().expect("the recorder does not panic").iter().filter(|frame| such(frame)).count()
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

    /// Forgets what was recorded, to begin a new stretch.
    pub fn forget(&self) {
        self.frames.lock().expect("the recorder does not panic").clear();
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("clean-up: an observer panicked");
        }
    }
}

fn record(mut socket: &Socket, frames: &Mutex<Vec<Frame>>, stop: &AtomicBool) {
    let mut buffer = [0; KEPT];
    while !stop.load(Ordering::Relaxed) {
        match socket.read(&mut buffer) {
            Ok(length) if length >= 14 => {
                frames.lock().expect("nobody panics while counting").push(Frame(buffer[..length].to_vec()));
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // The interface went away or down: nothing arrives any more.
            Err(_) => std::thread::sleep(TURN),
        }
    }
}

/// An `AF_PACKET` socket for all frames of one interface of the calling thread's namespace.
pub fn packet_socket(device: &str, timeout: Duration) -> io::Result<Socket> {
    let all = u16::try_from(libc::ETH_P_ALL).expect("an ethertype has 16 bits");
    // With protocol 0 it receives nothing before it is bound, so never a frame of another interface.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    let index = rustix::net::netdevice::name_to_index(&socket, device)?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is what the kernel reads for AF_PACKET, and fits the storage.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).expect("a family has 16 bits");
    address.sll_protocol = all.to_be();
    address.sll_ifindex = index.cast_signed();
    let length = size_of::<libc::sockaddr_ll>().try_into().expect("it has 20 bytes");
    // SAFETY: the storage holds a sockaddr_ll of this length.
    let address = unsafe { SockAddr::new(storage, length) };
    socket.bind(&address)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    Ok(socket)
}
