//! Multicast messages of rtnetlink about links, filters and namespaces, from the node's namespace and the pods': which kinds of
//! message come, and in or behind which namespace an interface is new.

use std::{
    io,
    mem::{MaybeUninit, zeroed},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    ptr,
};

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::{io::Errno, net::sockopt::set_socket_recv_buffer_size_force};
use tokio::io::{Interest, unix::AsyncFd};

use super::Event;
use crate::inventory::other_end;

const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_TC: u32 = 4;
const RTNLGRP_NSID: u32 = 28;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
/// Somebody has taken filters away, or added one that may run before ours.
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
/// A namespace is gone, and the interfaces in it. A new id is no news: the scanner itself assigns them.
const RTM_DELNSID: u16 = 89;
/// Messages are taken in at most this many bytes at a time; a longer one is cut, its header is there all the same.
const BUFFER_BYTES: usize = 32 << 10;
/// Messages that wait in the kernel: a pod that makes and removes interfaces must not push out what is told of the others.
const QUEUE_BYTES: usize = 1 << 20;
/// Where `ifi_change` of a `struct ifinfomsg` is. All ones in a message about an interface that is new in its namespace
/// (`register_netdevice`, `rtnl_configure_link`, `__dev_change_net_namespace`).
const CHANGE: std::ops::Range<usize> = 12..16;

#[derive(Debug)]
pub(super) struct Links {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
    /// The namespace in which, or behind which, the last message told of a new interface.
    pub(super) new: Option<i32>,
}

impl Links {
    /// Listens in the network namespace of the calling thread.
    pub(super) fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        // Since Linux 4.2: also what happens in the namespaces that have an id in this one, which the scanner sees to.
        // So an interface that is plugged into a pod is known at once.
        if let Err(error) = socket.set_listen_all_namespaces(true) {
            tracing::debug!(%error, "no events from the pods' namespaces");
        }
        if let Err(error) = set_socket_recv_buffer_size_force(socket.as_fd(), QUEUE_BYTES) {
            tracing::debug!(%error, "a burst of link events may lose some");
        }
        let groups =
            [RTNLGRP_LINK, RTNLGRP_TC, RTNLGRP_NSID].into_iter().fold(0, |groups, group| groups | 1 << (group - 1));
        socket.bind(&SocketAddr::new(0, groups))?;
        // SAFETY: the socket owns its descriptor, always names the same one, and closes it when the AsyncFd is dropped.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self { socket, buffer: vec![0; BUFFER_BYTES], new: None })
    }

    pub(super) async fn next(&mut self) -> io::Result<Event> {
        loop {
            let mut ready = self.socket.readable().await?;
            let buffer = &mut self.buffer;
            match ready.try_io(|socket| receive(socket.get_ref().as_fd(), buffer)) {
                Ok(Ok((length, from))) => {
                    let datagram = self.buffer.get(..length).unwrap_or(&self.buffer);
                    self.new = new_interface(datagram, from);
                    return Ok(event(datagram));
                }
                // The kernel had more to say than the socket holds: something changed.
                Ok(Err(error)) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => return Ok(Event::Links),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

fn event(datagram: &[u8]) -> Event {
    let kind = NetlinkBuffer::new_checked(datagram).map(|message| message.message_type());
    match kind {
        Ok(RTM_NEWLINK | RTM_DELLINK | RTM_DELNSID | RTM_DELQDISC | RTM_NEWTFILTER | RTM_DELTFILTER) => Event::Links,
        Ok(_) => Event::Nothing,
        Err(error) => {
            tracing::debug!(%error, "link event cut short");
            Event::Links
        }
    }
}

/// The namespace that a new interface is in (`from`, the one that the message is from, if it is not the node's) or leads to.
fn new_interface(datagram: &[u8], from: Option<i32>) -> Option<i32> {
    let message = NetlinkBuffer::new_checked(datagram).ok()?;
    let payload = message.payload();
    if message.message_type() != RTM_NEWLINK || payload.get(CHANGE)? != [0xff; 4] {
        return None;
    }
    from.or_else(|| other_end(payload))
}

/// Takes one message; tells its length, and the id of the namespace that it is from unless that is this one.
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<i32>)> {
    // Room for one integer, and aligned for its header.
    let mut control = [MaybeUninit::<libc::cmsghdr>::uninit(); 4];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeroes is a message header without addresses, parts and ancillary data.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message points to the buffer and to the room for ancillary data, which both outlive the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let Ok(length) = usize::try_from(length) else { return Err(io::Error::last_os_error()) };
    // SAFETY: the kernel has filled in the header and what it points to.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    let from = first
        .filter(|header| (header.cmsg_level, header.cmsg_type) == (libc::SOL_NETLINK, libc::NETLINK_LISTEN_ALL_NSID));
    // SAFETY: behind a header of this type the kernel has put an integer (`netlink_cmsg_listen_all_nsid`).
    let from = from.map(|header| unsafe { ptr::read_unaligned(libc::CMSG_DATA(header).cast::<i32>()) });
    Ok((length, from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, change: u32, peer_nsid: Option<i32>) -> Vec<u8> {
        let mut payload = [&[0; 12][..], &change.to_ne_bytes()].concat();
        if let Some(nsid) = peer_nsid {
            const IFLA_LINK_NETNSID: u16 = 37;
            payload.extend([8_u16.to_ne_bytes(), IFLA_LINK_NETNSID.to_ne_bytes()].concat());
            payload.extend(nsid.to_ne_bytes());
        }
        let length = u32::try_from(16 + payload.len()).expect("a short message");
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], &payload].concat()
    }

    #[test]
    fn a_new_interface_is_told_by_the_namespace_that_it_is_in_or_leads_to() {
        assert_eq!(new_interface(&message(RTM_NEWLINK, !0, Some(5)), None), Some(5), "a host end");
        assert_eq!(new_interface(&message(RTM_NEWLINK, !0, Some(0)), Some(7)), Some(7), "in a pod, by its own ids");
        assert_eq!(new_interface(&message(RTM_NEWLINK, !0, None), None), None, "the node's own");
        assert_eq!(new_interface(&message(RTM_NEWLINK, 1, Some(5)), None), None, "one that was set up");
        assert_eq!(new_interface(&message(RTM_DELLINK, !0, Some(5)), None), None);
        assert_eq!(new_interface(&[0; 20], Some(1)), None);
    }
}
