//! What an attacker calls beside `send`: any family, any address, descriptors from elsewhere.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, Seek as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Object, calls::Done};

/// Long enough for a connection on the same machine, short enough for one that is cut.
const TIMEOUT: Duration = Duration::from_millis(150);

pub(crate) fn open(domain: i32, style: i32, protocol: i32) -> io::Result<Done> {
    let socket = Socket::new(Domain::from(domain), Type::from(style), Some(Protocol::from(protocol)))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    Ok(Done::made(Object::Socket(socket)))
}

pub(crate) fn set(socket: &Socket, level: i32, name: i32, value: &[u8]) -> io::Result<Done> {
    // SAFETY: the value is readable for the length that is passed with it.
    checked(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length(value)) })
}

pub(crate) fn bind(socket: &Socket, address: &[u8]) -> io::Result<Done> {
    // SAFETY: the address is readable for the length that is passed with it; the kernel checks what it means.
    checked(unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), length(address)) })
}

/// On a file it is a `write`, which is how packets enter a TUN device.
pub(crate) fn send(to: BorrowedFd<'_>, flags: i32, address: Option<&[u8]>, data: &[u8]) -> io::Result<Done> {
    let (pointer, size) = address.map_or((std::ptr::null(), 0), |address| (address.as_ptr(), length(address)));
    // SAFETY: data and address are readable for the lengths that are passed with them.
    let sent = unsafe { libc::sendto(to.as_raw_fd(), data.as_ptr().cast(), data.len(), flags, pointer.cast(), size) };
    let error = io::Error::last_os_error();
    if sent < 0 && error.raw_os_error() == Some(libc::ENOTSOCK) {
        return rustix::io::write(to, data).map(Done::bytes).map_err(io::Error::from);
    }
    usize::try_from(sent).map(Done::bytes).map_err(|_negative| error)
}

pub(crate) fn send_many(socket: &Socket, data: &[u8]) -> io::Result<Done> {
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: all zeroes is a valid message header: no address, no parts, no ancillary data.
    let mut message: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_hdr.msg_iov = &raw mut part;
    message.msg_hdr.msg_iovlen = 1;
    let mut messages = [message, message];
    // SAFETY: both messages point to one part, which points to the data; the kernel only reads them.
    checked(unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), 2, 0) })
}

pub(crate) fn send_file(socket: &Socket, data: &[u8]) -> io::Result<Done> {
    let mut file = File::from(rustix::fs::memfd_create("isolate-test", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(data)?;
    file.rewind()?;
    Ok(Done::bytes(rustix::fs::sendfile(socket.as_fd(), file.as_fd(), None, data.len())?))
}

pub(crate) fn splice(socket: &Socket, data: &[u8]) -> io::Result<Done> {
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(data)?;
    let flags = rustix::pipe::SpliceFlags::empty();
    Ok(Done::bytes(rustix::pipe::splice(reader.as_fd(), None, socket.as_fd(), None, data.len(), flags)?))
}

pub(crate) fn give(socket: &Socket, path: &Path) -> io::Result<Done> {
    let listener = UnixListener::bind(path)?;
    let socket = socket.try_clone()?;
    std::thread::spawn(move || -> io::Result<()> {
        let (stream, _) = listener.accept()?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let given = [socket.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&given));
        rustix::net::sendmsg(&stream, &[IoSlice::new(b"!")], &mut ancillary, SendFlags::empty())?;
        Ok(())
    });
    Ok(Done::default())
}

pub(crate) fn take(path: &Path) -> io::Result<Done> {
    let stream = UnixStream::connect(path)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(&stream, &mut [io::IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::empty())?;
    let came = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    came.map(|descriptor| Done::made(Object::Socket(descriptor.into()))).ok_or_else(crate::no_such)
}

pub(crate) fn tun(name: &str) -> io::Result<Done> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).map_err(io::Error::other)?;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives until the call returns.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(Done::made(Object::File(file)))
}

fn checked(value: libc::c_int) -> io::Result<Done> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(Done::value(value.into())) }
}

fn length(bytes: &[u8]) -> libc::socklen_t {
    bytes.len().try_into().expect("options and addresses are short")
}
