//! A netlink socket in the node's namespace: links of a namespace, and the ids that namespaces have for it.
//!
//! Blocking and one request at a time: the kernel answers in microseconds. It enters no namespace; the node's own
//! socket asks about the pods'.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
    time::Duration,
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

use super::{
    InventoryError,
    link::{self, Link},
};

const HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 16;
const NETNSA_NSID: u16 = 1;
const NSID_HEADER_BYTES: usize = 4;
/// The kernel fills at most 32 KiB of a dump's buffer.
const BUFFER_BYTES: usize = 64 << 10;
/// Dumps of one list that were interrupted by changes to it before the last one is taken as it is.
const ATTEMPTS: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to the kernel's rtnetlink.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens one in the network namespace of the calling thread.
    pub(super) fn open() -> Result<Self, InventoryError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            rustix::net::sockopt::set_socket_timeout(
                socket.as_fd(),
                rustix::net::sockopt::Timeout::Recv,
                Some(TIMEOUT),
            )?;
            // Since Linux 4.20: a kernel that cannot dump another namespace says so instead of dumping this one.
            if let Err(error) = socket.set_netlink_get_strict_chk(true) {
                tracing::debug!(%error, "no strict checks of netlink requests");
            }
            Ok(socket)
        };
        let socket = open().map_err(InventoryError::Socket)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER_BYTES) })
    }

    /// The links of the namespace with this id, or of the node's own.
    pub(super) fn links(&mut self, nsid: Option<i32>) -> Result<Vec<Link>, InventoryError> {
        let mut request = link_message();
        request.attributes.extend(nsid.map(LinkAttribute::IfNetnsId));
        let request = RouteNetlinkMessage::GetLink(request);
        let mut links = Vec::new();
        for _attempt in 0..ATTEMPTS {
            links.clear();
            let whole = self
                .ask(request.clone(), NLM_F_DUMP, |payload| links.extend(link::decode(payload)))
                .map_err(|source| InventoryError::Netlink { request: "RTM_GETLINK", source })?;
            if whole {
                break;
            }
        }
        Ok(links)
    }

    /// The id that the namespace has in the node's, assigned now if it has none.
    ///
    /// Every namespace that holds the other end of a veth has one already; `ip netns` gives them just so.
    pub(super) fn nsid(&mut self, namespace: impl AsFd) -> Result<i32, InventoryError> {
        if let Some(nsid) = self.assigned_nsid(&namespace)? {
            return Ok(nsid);
        }
        let request = RouteNetlinkMessage::NewNsId(nsid_message(&namespace, Some(-1)));
        match self.ask(request, NLM_F_ACK, |_| ()) {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::EXIST) => {
                return Err(InventoryError::Netlink { request: "RTM_NEWNSID", source: error });
            }
            _ => {}
        }
        let missing = || InventoryError::Netlink { request: "RTM_NEWNSID", source: io::ErrorKind::NotFound.into() };
        self.assigned_nsid(namespace)?.ok_or_else(missing)
    }

    fn assigned_nsid(&mut self, namespace: impl AsFd) -> Result<Option<i32>, InventoryError> {
        let request = RouteNetlinkMessage::GetNsId(nsid_message(&namespace, None));
        let mut nsid = None;
        self.ask(request, 0, |payload| nsid = decode_nsid(payload))
            .map_err(|source| InventoryError::Netlink { request: "RTM_GETNSID", source })?;
        Ok(nsid.filter(|&nsid| nsid >= 0))
    }

    /// Sends a request and shows each answer's payload to `take`. False if the kernel says that what it listed
    /// changed meanwhile.
    fn ask(&mut self, request: RouteNetlinkMessage, flags: u16, mut take: impl FnMut(&[u8])) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::new(<_>::default(), NetlinkPayload::from(request));
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut whole = true;
        loop {
            self.receive()?;
            let mut rest = self.buffer.as_slice();
            while let Ok(message) = NetlinkBuffer::new_checked(rest) {
                let length = message.payload().len() + HEADER_BYTES;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                // What is left of a request that was given up on.
                if message.sequence_number() != self.sequence {
                    continue;
                }
                whole &= message.flags() & NLM_F_DUMP_INTR == 0;
                match message.message_type() {
                    NLMSG_DONE | NLMSG_ERROR => return status(message.payload()).map(|()| whole),
                    _ => take(message.payload()),
                }
                if flags & (NLM_F_DUMP | NLM_F_ACK) == 0 {
                    return Ok(whole);
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        self.buffer.clear();
        loop {
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Both endings carry an error number, 0 or negative.
fn status(payload: &[u8]) -> io::Result<()> {
    let code = payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.wrapping_neg())) }
}

fn link_message() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

fn nsid_message(namespace: &impl AsFd, nsid: Option<i32>) -> NsidMessage {
    let mut message = NsidMessage::default();
    message.attributes.extend(nsid.map(NsidAttribute::Id));
    message.attributes.push(NsidAttribute::Fd(namespace.as_fd().as_raw_fd().cast_unsigned()));
    message
}

fn decode_nsid(payload: &[u8]) -> Option<i32> {
    let mut attributes = NlasIterator::new(payload.get(NSID_HEADER_BYTES..)?).map_while(Result::ok);
    let attribute = attributes.find(|attribute| attribute.kind() == NETNSA_NSID)?;
    Some(i32::from_ne_bytes(attribute.value().try_into().ok()?))
}
