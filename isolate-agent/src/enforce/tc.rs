//! rtnetlink's traffic control: the qdiscs that carry filters on the two sides of an interface, and those filters.
//!
//! Requests are made with netlink-packet-route's types. Answers are read here, leniently: they also come from the
//! namespaces of hostile pods, and a decoder that refuses a whole message for one attribute would hide a filter.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NlasIterator};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption},
};

use isolate_common::Direction;

use crate::netlink::Connection;

/// The qdisc with both sides.
const CLSACT: &str = "clsact";
/// The one that it took the place of (4.5, commit 1f211a1b929c): no egress, and what asks for it gets the ingress filters.
const INGRESS: &str = "ingress";
const HEADER_BYTES: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
/// Every protocol, in the kernel's byte order.
const ETH_P_ALL: u16 = 0x0003_u16.to_be();
/// Dumps that were interrupted by changes before the last one is taken as it is.
const ATTEMPTS: usize = 4;

/// A side of an interface, as its own namespace sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Ingress,
    Egress,
}

/// Where filters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) ifindex: u32,
    pub(super) side: Side,
}

/// What an interface has to hold filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    Clsact,
    /// The older qdisc: ingress only.
    Ingress,
}

/// One filter. A dump has them in the order in which they run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) chain: u32,
    pub(super) priority: u16,
    pub(super) all_protocols: bool,
    pub(super) kind: String,
    /// 0 in the line that stands for the priority itself.
    pub(super) handle: u32,
    /// Id of the program of a `bpf` filter in direct-action mode.
    pub(super) program: Option<u32>,
    pub(super) name: String,
}

impl Side {
    pub(super) const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// What goes into the pod leaves the host veth…
    pub(super) const fn of_veth(direction: Direction) -> Self {
        match direction {
            Direction::In => Self::Egress,
            Direction::Out => Self::Ingress,
        }
    }

    /// …and comes in at the interface inside; the other way round for out.
    pub(super) const fn of_netdev(direction: Direction) -> Self {
        match direction {
            Direction::In => Self::Ingress,
            Direction::Out => Self::Egress,
        }
    }

    const fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: u16::MAX, minor }
    }
}

impl Carrier {
    /// Asked for the filters of a side that it has not, the older qdisc gives those of the other.
    pub(super) const fn sides(self) -> &'static [Side] {
        match self {
            Self::Clsact => &Side::BOTH,
            Self::Ingress => &[Side::Ingress],
        }
    }
}

impl Filter {
    /// Whether another `bpf` filter for all protocols can share its priority.
    pub(super) fn is_open_to_ours(&self) -> bool {
        self.kind == TcFilterBpf::KIND && self.all_protocols
    }
}

/// A connection to the traffic control of one network namespace.
#[derive(Debug)]
pub(super) struct Tc(Connection);

impl Tc {
    /// Opens one in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        Connection::open().map(Self)
    }

    /// Whether there is such an interface.
    pub(super) fn knows(&self, ifindex: u32) -> bool {
        self.0.has_interface(ifindex)
    }

    /// The interfaces that can hold filters, by index.
    pub(super) fn carriers(&mut self) -> io::Result<BTreeMap<u32, Carrier>> {
        let lines = self.dump(&RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))?;
        let carrier = |line: &Line| match line.filter.kind.as_str() {
            CLSACT => Some((line.ifindex, Carrier::Clsact)),
            INGRESS => Some((line.ifindex, Carrier::Ingress)),
            _ => None,
        };
        Ok(lines.iter().filter_map(carrier).collect())
    }

    /// Gives an interface a clsact qdisc. `EEXIST` where it has one, or the older qdisc.
    pub(super) fn add_clsact(&mut self, ifindex: u32) -> io::Result<()> {
        let request = RouteNetlinkMessage::NewQueueDiscipline(clsact(ifindex));
        self.0.ask(request, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, |_| ()).map(drop)
    }

    /// Takes it away, with every filter on it.
    pub(super) fn delete_clsact(&mut self, ifindex: u32) -> io::Result<()> {
        self.0.ask(RouteNetlinkMessage::DelQueueDiscipline(clsact(ifindex)), NLM_F_ACK, |_| ()).map(drop)
    }

    /// The filters of a place, in the order in which they run; none where nothing holds filters.
    pub(super) fn filters(&mut self, place: Place) -> io::Result<Vec<Filter>> {
        let header = header(place.ifindex, place.side.parent());
        let request = RouteNetlinkMessage::GetTrafficFilter(TcMessage::from_parts(header, Vec::new()));
        Ok(self.dump(&request)?.into_iter().map(|line| line.filter).collect())
    }

    /// Adds a direct-action filter for all protocols. Within a priority the newest runs first (`cls_bpf_change` adds at
    /// the head of the list). `EEXIST` where the priority has this handle already.
    pub(super) fn add_filter(
        &mut self,
        place: Place,
        (priority, handle): (u16, u32),
        program: BorrowedFd<'_>,
        name: &str,
    ) -> io::Result<()> {
        let options = [
            TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned()),
            TcFilterBpfOption::ProgName(name.to_owned()),
            TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        ];
        let mut message = bpf_filter(place, priority, handle);
        message.attributes.push(TcAttribute::Options(options.into_iter().map(TcOption::Bpf).collect()));
        let request = RouteNetlinkMessage::NewTrafficFilter(message);
        self.0.ask(request, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, |_| ()).map(drop)
    }

    /// Removes a `bpf` filter for all protocols.
    pub(super) fn delete_filter(&mut self, place: Place, (priority, handle): (u16, u32)) -> io::Result<()> {
        let request = RouteNetlinkMessage::DelTrafficFilter(bpf_filter(place, priority, handle));
        self.0.ask(request, NLM_F_ACK, |_| ()).map(drop)
    }

    fn dump(&mut self, request: &RouteNetlinkMessage) -> io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        for _attempt in 0..ATTEMPTS {
            lines.clear();
            if self.0.ask(request.clone(), NLM_F_DUMP, |payload| lines.extend(decode(payload)))? {
                break;
            }
        }
        Ok(lines)
    }
}

fn header(ifindex: u32, parent: TcHandle) -> TcHeader {
    TcHeader { index: ifindex.cast_signed(), parent, ..TcHeader::default() }
}

fn clsact(ifindex: u32) -> TcMessage {
    let handle = TcHandle { major: u16::MAX, minor: 0 };
    let header = TcHeader { handle, ..header(ifindex, TcHandle::CLSACT) };
    TcMessage::from_parts(header, vec![TcAttribute::Kind(CLSACT.to_owned())])
}

fn bpf_filter(place: Place, priority: u16, handle: u32) -> TcMessage {
    let info = u32::from(priority) << 16 | u32::from(ETH_P_ALL);
    let header = TcHeader { handle: handle.into(), info, ..header(place.ifindex, place.side.parent()) };
    TcMessage::from_parts(header, vec![TcAttribute::Kind(TcFilterBpf::KIND.to_owned())])
}

/// What a dump has for a qdisc or a filter.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    ifindex: u32,
    filter: Filter,
}

/// Reads the payload of an `RTM_NEWQDISC` or `RTM_NEWTFILTER`; none if it is cut short.
fn decode(payload: &[u8]) -> Option<Line> {
    let (header, attributes) = payload.split_at_checked(HEADER_BYTES)?;
    let word = |at: usize| header.get(at..at + 4).and_then(number);
    let info = word(16)?;
    let mut filter = Filter {
        handle: word(8)?,
        priority: u16::try_from(info >> 16).expect("the upper half of 32 bits"),
        all_protocols: info & 0xffff == u32::from(ETH_P_ALL),
        ..Filter::default()
    };
    let mut options = None;
    for attribute in NlasIterator::new(attributes).map_while(Result::ok) {
        match attribute.kind() {
            TCA_KIND => filter.kind = text(attribute.value()),
            TCA_CHAIN => filter.chain = number(attribute.value())?,
            TCA_OPTIONS => options = Some(attribute.value().to_vec()),
            _ => {}
        }
    }
    if filter.kind == TcFilterBpf::KIND {
        decode_bpf(&mut filter, &options.unwrap_or_default());
    }
    Some(Line { ifindex: word(4)?, filter })
}

fn decode_bpf(filter: &mut Filter, options: &[u8]) {
    let (mut id, mut flags) = (None, 0);
    for attribute in NlasIterator::new(options).map_while(Result::ok) {
        match attribute.kind() {
            TCA_BPF_NAME => filter.name = text(attribute.value()),
            TCA_BPF_FLAGS => flags = number(attribute.value()).unwrap_or_default(),
            TCA_BPF_ID => id = number(attribute.value()),
            _ => {}
        }
    }
    filter.program = id.filter(|_| flags & TCA_BPF_FLAG_ACT_DIRECT != 0);
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).expect("a short value");
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(handle: u32, info: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let header = [[0; 4], 7_u32.to_ne_bytes(), handle.to_ne_bytes(), [0; 4], info.to_ne_bytes()].concat();
        [header, attributes.concat()].concat()
    }

    #[test]
    fn a_filter_with_a_hostile_name_and_unknown_attributes_is_seen() {
        let options = [
            attribute(TCA_BPF_NAME, b"\xff\xfe\0"),
            attribute(99, b"future"),
            attribute(TCA_BPF_FLAGS, &1_u32.to_ne_bytes()),
            attribute(TCA_BPF_ID, &35_u32.to_ne_bytes()),
        ];
        let bytes = message(
            5,
            1 << 16 | u32::from(ETH_P_ALL),
            &[attribute(TCA_KIND, b"bpf\0"), attribute(999, b"x"), attribute(TCA_OPTIONS, &options.concat())],
        );
        let filter = Filter {
            chain: 0,
            priority: 1,
            all_protocols: true,
            kind: "bpf".to_owned(),
            handle: 5,
            program: Some(35),
            name: "\u{fffd}\u{fffd}".to_owned(),
        };
        assert_eq!(decode(&bytes), Some(Line { ifindex: 7, filter }));
    }

    #[test]
    fn a_program_whose_verdict_is_not_taken_is_none() {
        let options = attribute(TCA_BPF_ID, &35_u32.to_ne_bytes());
        let bytes = message(1, 1 << 16, &[attribute(TCA_KIND, b"bpf\0"), attribute(TCA_OPTIONS, &options)]);
        let filter = decode(&bytes).expect("a filter").filter;
        assert_eq!((filter.program, filter.is_open_to_ours()), (None, false));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            if decode(&bytes).is_some() {
                prop_assert!(bytes.len() >= HEADER_BYTES);
            }
        }
    }
}
