//! A netlink socket in the node's namespace: links of a namespace, and the ids that namespaces have for it.
//!
//! It enters no namespace; the node's own socket asks about the pods'.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd as _},
};

use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_DUMP, NlasIterator};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
    route::RouteMessage,
};
use rustix::io::Errno;

use super::{
    InventoryError, address,
    link::{self, Link},
    route,
};
use crate::netlink::Connection;

const NETNSA_NSID: u16 = 1;
const IFA_TARGET_NETNSID: u16 = 10;
const NSID_HEADER_BYTES: usize = 4;
/// Dumps of one list that were interrupted by changes to it before the last one is taken as it is.
const ATTEMPTS: usize = 4;

/// A connection to the kernel's rtnetlink.
#[derive(Debug)]
pub(super) struct Netlink(Connection);

impl Netlink {
    /// Opens one in the network namespace of the calling thread.
    pub(super) fn open() -> Result<Self, InventoryError> {
        Connection::open().map(Self).map_err(InventoryError::Socket)
    }

    /// The links of the namespace with this id, or of the node's own.
    pub(super) fn links(&mut self, nsid: Option<i32>) -> Result<Vec<Link>, InventoryError> {
        let mut request = LinkMessage::default();
        request.attributes.push(match nsid {
            // Asked to leave counters out, the kernel first goes through all links of the *node* (`rtnl_calcit`,
            // net/core/rtnetlink.c), once for each pod: counting at a pod's two or three, a step for each processor,
            // is little beside that.
            Some(nsid) => LinkAttribute::IfNetnsId(nsid),
            None => LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
        });
        let request = RouteNetlinkMessage::GetLink(request);
        let mut links = Vec::new();
        for _attempt in 0..ATTEMPTS {
            links.clear();
            let whole = self
                .0
                .ask(request.clone(), NLM_F_DUMP, |payload| links.extend(link::decode(payload)))
                .map_err(|source| InventoryError::Netlink { request: "RTM_GETLINK", source })?;
            if whole {
                break;
            }
        }
        Ok(links)
    }

    /// The addresses in the namespace with this id, or in the node's own, with the index of their interface.
    pub(super) fn addresses(&mut self, nsid: Option<i32>) -> Result<Vec<(u32, IpAddr)>, InventoryError> {
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Unspec;
        let target =
            |nsid: i32| AddressAttribute::Other(DefaultNla::new(IFA_TARGET_NETNSID, nsid.to_ne_bytes().to_vec()));
        request.attributes.extend(nsid.map(target));
        let mut addresses = Vec::new();
        self.0
            .ask(RouteNetlinkMessage::GetAddress(request), NLM_F_DUMP, |payload| {
                addresses.extend(address::decode(payload));
            })
            .map_err(|source| InventoryError::Netlink { request: "RTM_GETADDR", source })?;
        Ok(addresses)
    }

    /// The routers that the node's routes lead to.
    pub(super) fn routers(&mut self) -> Result<BTreeSet<IpAddr>, InventoryError> {
        let mut routers = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let take = |payload: &[u8]| routers.extend(route::routers(payload));
            match self.0.ask(RouteNetlinkMessage::GetRoute(request), NLM_F_DUMP, take) {
                // A node without this family has no routers of it.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => {}
                other => {
                    other.map_err(|source| InventoryError::Netlink { request: "RTM_GETROUTE", source })?;
                }
            }
        }
        Ok(routers)
    }

    /// The id that the namespace has in the node's, assigned now if it has none.
    ///
    /// Every namespace that holds the other end of a veth has one already; `ip netns` gives them just so.
    pub(super) fn nsid(&mut self, namespace: impl AsFd) -> Result<i32, InventoryError> {
        if let Some(nsid) = self.assigned_nsid(&namespace)? {
            return Ok(nsid);
        }
        let request = RouteNetlinkMessage::NewNsId(nsid_message(&namespace, Some(-1)));
        match self.0.ask(request, NLM_F_ACK, |_| ()) {
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
        self.0
            .ask(request, 0, |payload| nsid = decode_nsid(payload))
            .map_err(|source| InventoryError::Netlink { request: "RTM_GETNSID", source })?;
        Ok(nsid.filter(|&nsid| nsid >= 0))
    }
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
