//! One frame through an `AF_XDP` socket in copy mode, which needs no program on the sending side.

use std::{
    ffi::c_void,
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr, thread,
    time::{Duration, Instant},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use socket2::{Domain, Socket, Type};

use crate::calls::Done;

const CHUNK: usize = 4096;
const RING: u32 = 8;
/// The kernel sends during the call; only its worker may need a moment.
const SENDING: Duration = Duration::from_millis(20);

/// How long the kernel may take to let go of the interface's queue after an earlier socket.
const FREEING: Duration = Duration::from_secs(1);

pub(crate) fn send(device: &str, frame: &[u8]) -> io::Result<Done> {
    let socket = Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None)?;
    // SAFETY: a new anonymous mapping touches no memory of this program.
    let area =
        unsafe { mmap_anonymous(ptr::null_mut(), CHUNK, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }?;
    assert!(frame.len() <= CHUNK, "the frame fits a chunk");
    // SAFETY: the mapping has CHUNK bytes and nobody else knows it yet.
    unsafe { ptr::copy_nonoverlapping(frame.as_ptr(), area.cast(), frame.len()) };
    let chunk = u32::try_from(CHUNK).map_err(io::Error::other)?;
    let memory = libc::xdp_umem_reg {
        addr: area as u64,
        len: CHUNK as u64,
        chunk_size: chunk,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    option(&socket, libc::XDP_UMEM_REG, &memory)?;
    option(&socket, libc::XDP_UMEM_FILL_RING, &RING)?;
    option(&socket, libc::XDP_UMEM_COMPLETION_RING, &RING)?;
    option(&socket, libc::XDP_TX_RING, &RING)?;
    let offsets = offsets(&socket)?;
    let descriptors = usize::try_from(RING).map_err(io::Error::other)? * size_of::<libc::xdp_desc>();
    let length = usize::try_from(offsets.tx.desc).map_err(io::Error::other)? + descriptors;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of this program.
    let ring = unsafe {
        mmap(
            ptr::null_mut(),
            length,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::POPULATE,
            socket.as_fd(),
            u64::try_from(libc::XDP_PGOFF_TX_RING).map_err(io::Error::other)?,
        )
    }?;
    let sent = transmit(&socket, device, ring, &offsets, frame.len());
    // SAFETY: nobody uses the mappings any more; the ring's would keep the socket alive.
    unsafe { munmap(ring, length).and_then(|()| munmap(area, CHUNK)) }?;
    sent
}

fn transmit(
    socket: &Socket,
    device: &str,
    ring: *mut c_void,
    offsets: &libc::xdp_mmap_offsets,
    length: usize,
) -> io::Result<Done> {
    let start = Instant::now();
    loop {
        match bind(socket, device) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && start.elapsed() < FREEING => {
                thread::sleep(SENDING);
            }
            bound => break bound?,
        }
    }
    let at = |offset: u64| usize::try_from(offset).map_err(io::Error::other);
    let (first, producer) = (at(offsets.tx.desc)?, at(offsets.tx.producer)?);
    // SAFETY: both offsets are the kernel's own for this mapping; the producer index is written after its descriptor.
    unsafe {
        let len = length.try_into().map_err(io::Error::other)?;
        ring.byte_add(first).cast::<libc::xdp_desc>().write(libc::xdp_desc { addr: 0, len, options: 0 });
        ring.byte_add(producer).cast::<u32>().write_volatile(1);
    }
    rustix::net::send(socket, &[], rustix::net::SendFlags::DONTWAIT)?;
    thread::sleep(SENDING);
    Ok(Done::bytes(length))
}

fn bind(socket: &Socket, device: &str) -> io::Result<()> {
    // An AF_XDP socket does not answer questions about interfaces.
    let any = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    let mut address = libc::sockaddr_xdp {
        sxdp_family: u16::try_from(libc::AF_XDP).map_err(io::Error::other)?,
        sxdp_flags: libc::XDP_COPY,
        sxdp_ifindex: rustix::net::netdevice::name_to_index(&any, device)?,
        sxdp_queue_id: 0,
        sxdp_shared_umem_fd: 0,
    };
    let length = size_of::<libc::sockaddr_xdp>().try_into().map_err(io::Error::other)?;
    // SAFETY: the address is a sockaddr_xdp of this length.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw mut address).cast(), length) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn option<T>(socket: &Socket, name: i32, value: &T) -> io::Result<()> {
    let length = size_of::<T>().try_into().map_err(io::Error::other)?;
    // SAFETY: the value is what the option reads, of this length.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_XDP, name, ptr::from_ref(value).cast(), length) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn offsets(socket: &Socket) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: all zeroes is a valid value of these numbers.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::xdp_mmap_offsets>().try_into().map_err(io::Error::other)?;
    // SAFETY: the option writes at most `length` bytes, the size of the value.
    let got = unsafe {
        let value = (&raw mut offsets).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, value, &raw mut length)
    };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(offsets) }
}
