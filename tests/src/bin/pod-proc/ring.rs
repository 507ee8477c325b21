//! Sending out of memory that is shared with the kernel: `io_uring` and a packet socket's TX ring.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    time::Duration,
};

use io_uring::{IoUring, opcode, types};
use isolate_tests::observe;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use socket2::Socket;

use crate::calls::Done;

const PAGE: usize = 4096;
const SEND_TIMEOUT: Duration = Duration::from_millis(150);

pub(crate) fn uring(socket: &Socket, data: &[u8]) -> io::Result<Done> {
    let mut ring = IoUring::new(1)?;
    let length = data.len().try_into().map_err(io::Error::other)?;
    let send = opcode::Send::new(types::Fd(socket.as_raw_fd()), data.as_ptr(), length).build();
    // SAFETY: socket and data outlive the operation, which `submit_and_wait` completes.
    unsafe { ring.submission().push(&send) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().ok_or_else(crate::no_such)?.result();
    usize::try_from(result).map(Done::bytes).map_err(|_negative| io::Error::from_raw_os_error(-result))
}

/// One frame through `PACKET_TX_RING` (version 1 of its layout, the default).
pub(crate) fn packet(device: &str, frame: &[u8]) -> io::Result<Done> {
    /// `TPACKET_HDRLEN - sizeof(struct sockaddr_ll)`: where the kernel looks for the data of a frame to send.
    const DATA: usize = (size_of::<libc::tpacket_hdr>() + 15) & !15;
    let socket = observe::packet_socket(device, SEND_TIMEOUT)?;
    let size = PAGE.try_into().map_err(io::Error::other)?;
    let request = libc::tpacket_req { tp_block_size: size, tp_block_nr: 1, tp_frame_size: size, tp_frame_nr: 1 };
    // SAFETY: the option reads one tpacket_req.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_TX_RING,
            (&raw const request).cast(),
            size_of::<libc::tpacket_req>().try_into().map_err(io::Error::other)?,
        )
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of this program.
    let ring = unsafe {
        mmap(std::ptr::null_mut(), PAGE, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, socket.as_fd(), 0)
    }?;
    assert!(DATA + frame.len() <= PAGE, "the frame fits the ring's one page");
    // SAFETY: the mapping has one page, which begins with the header; the frame fits behind it, as was just checked. The
    // kernel reads it only when the status asks it to, which is written last.
    unsafe {
        let header = ring.cast::<libc::tpacket_hdr>();
        std::ptr::copy_nonoverlapping(frame.as_ptr(), ring.cast::<u8>().add(DATA), frame.len());
        (*header).tp_len = frame.len().try_into().map_err(io::Error::other)?;
        (&raw mut (*header).tp_status).write_volatile(libc::TP_STATUS_SEND_REQUEST.into());
    }
    let flushed = socket.send(&[]);
    // SAFETY: nobody uses the mapping any more.
    unsafe { munmap(ring, PAGE) }?;
    flushed.map(Done::bytes)
}
