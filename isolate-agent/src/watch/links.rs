//! Multicast messages of rtnetlink about links, filters and namespaces, from the node's namespace and the pods': which kinds of
//! message come, not what they say.

use std::io;

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use tokio::io::{Interest, unix::AsyncFd};

use super::Event;

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

#[derive(Debug)]
pub(super) struct Links {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
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
        let groups =
            [RTNLGRP_LINK, RTNLGRP_TC, RTNLGRP_NSID].into_iter().fold(0, |groups, group| groups | 1 << (group - 1));
        socket.bind(&SocketAddr::new(0, groups))?;
        // SAFETY: the socket owns its descriptor, always names the same one, and closes it when the AsyncFd is dropped.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER_BYTES) })
    }

    pub(super) async fn next(&mut self) -> io::Result<Event> {
        loop {
            let mut ready = self.socket.readable().await?;
            self.buffer.clear();
            let buffer = &mut self.buffer;
            match ready.try_io(|socket| socket.get_ref().recv(buffer, 0)) {
                Ok(Ok(_)) => return Ok(event(buffer)),
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
