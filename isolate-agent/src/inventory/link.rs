//! One link of a netlink dump, decoded leniently.
//!
//! The attributes come from namespaces that a hostile pod owns: a name may be any bytes, and a kernel may send
//! attributes that no library knows yet. A decoder that refuses a whole message for one of them would hide the
//! interface, so this one reads the few that matter and leaves the rest alone.

use isolate_common::{Direction, Mac};
use netlink_packet_core::{NlaBuffer, NlasIterator};

use super::Netkit;

/// The kind of a netkit device.
pub(super) const NETKIT: &str = "netkit";

const HEADER_BYTES: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
/// Attributes of a netkit device and the policy "drop" (`NETKIT_DROP`), `linux/if_link.h`.
const IFLA_NETKIT_PRIMARY: u16 = 2;
const IFLA_NETKIT_POLICY: u16 = 3;
const IFLA_NETKIT_PEER_POLICY: u16 = 4;
const DROP: [u8; 4] = 2_u32.to_ne_bytes();
const IFF_LOOPBACK: u32 = 1 << 3;

/// A link as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// None for physical interfaces.
    pub(super) kind: Option<String>,
    /// Index of the link below it or at its other end, in the namespace `peer_nsid` (its own if that is none).
    pub(super) peer: Option<u32>,
    /// Id, in the namespace that asked, of the namespace that `peer` is in.
    pub(super) peer_nsid: Option<i32>,
    pub(super) loopback: bool,
    /// Its hardware address, if that is one of Ethernet.
    pub(super) mac: Option<Mac>,
    /// Of the primary one of two netkit devices: what it does without programs. What goes into the pod is sent by it, what
    /// comes out by its peer.
    pub(super) netkit: Option<Netkit>,
    /// Index of the bridge (or the like) that it is a port of.
    pub(super) master: Option<u32>,
}

impl Link {
    /// Stands for whatever is in a namespace that could not be listed.
    pub(super) fn unknown() -> Self {
        Self { name: "?".to_owned(), ..Self::default() }
    }
}

/// The namespace that the other end of a link is in, from the payload of an `RTM_NEWLINK`; none if it is in the link's own.
pub(crate) fn other_end(payload: &[u8]) -> Option<i32> {
    decode(payload)?.peer_nsid
}

/// Reads the payload of an `RTM_NEWLINK`; none if it is cut short.
pub(super) fn decode(payload: &[u8]) -> Option<Link> {
    let (header, attributes) = payload.split_at_checked(HEADER_BYTES)?;
    let mut link = Link {
        index: u32::from_ne_bytes(header.get(4..8)?.try_into().ok()?),
        loopback: u32::from_ne_bytes(header.get(8..12)?.try_into().ok()?) & IFF_LOOPBACK != 0,
        ..Link::default()
    };
    for attribute in NlasIterator::new(attributes).map_while(Result::ok) {
        match attribute.kind() {
            IFLA_ADDRESS => link.mac = attribute.value().try_into().ok(),
            IFLA_MASTER => link.master = number(&attribute).map(u32::from_ne_bytes),
            IFLA_IFNAME => link.name = text(attribute.value()),
            IFLA_LINK => link.peer = number(&attribute).map(u32::from_ne_bytes),
            IFLA_LINK_NETNSID => link.peer_nsid = number(&attribute).map(i32::from_ne_bytes),
            IFLA_LINKINFO => {
                let info = || NlasIterator::new(attribute.value()).map_while(Result::ok);
                link.kind = info().find(|nested| nested.kind() == IFLA_INFO_KIND).map(|nested| text(nested.value()));
                if link.kind.as_deref() == Some(NETKIT) {
                    let data = info().find(|nested| nested.kind() == IFLA_INFO_DATA);
                    link.netkit = data.and_then(|data| primary(data.value()));
                }
            }
            _ => {}
        }
    }
    Some(link)
}

/// None for the other one of the two.
fn primary(data: &[u8]) -> Option<Netkit> {
    let mut is_primary = false;
    let mut netkit = Netkit::default();
    for attribute in NlasIterator::new(data).map_while(Result::ok) {
        match attribute.kind() {
            IFLA_NETKIT_PRIMARY => is_primary = attribute.value() == [1],
            IFLA_NETKIT_POLICY => netkit.blackhole[Direction::In as usize] = attribute.value() == DROP,
            IFLA_NETKIT_PEER_POLICY => netkit.blackhole[Direction::Out as usize] = attribute.value() == DROP,
            _ => {}
        }
    }
    is_primary.then_some(netkit)
}

fn number(attribute: &NlaBuffer<&[u8]>) -> Option<[u8; 4]> {
    attribute.value().try_into().ok()
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

    fn message(flags: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let header = [[0; 4], 7_u32.to_ne_bytes(), flags.to_ne_bytes(), [0; 4]].concat();
        [header, attributes.concat()].concat()
    }

    #[test]
    fn of_two_netkit_devices_the_primary_one_is_told() {
        let netkit = |primary: u8| {
            let data = [
                attribute(IFLA_NETKIT_PRIMARY, &[primary]),
                attribute(IFLA_NETKIT_POLICY, &0_u32.to_ne_bytes()),
                attribute(5, &1_u32.to_ne_bytes()),
                attribute(IFLA_NETKIT_PEER_POLICY, &DROP),
            ];
            let info = [attribute(IFLA_INFO_KIND, b"netkit\0"), attribute(IFLA_INFO_DATA, &data.concat())].concat();
            decode(&message(0, &[attribute(IFLA_LINKINFO, &info)])).expect("it is whole").netkit
        };
        assert_eq!(netkit(1), Some(Netkit { blackhole: [false, true] }));
        assert_eq!(netkit(0), None);
    }

    #[test]
    fn a_veth_with_a_hostile_name_and_unknown_attributes_is_seen() {
        let veth = message(
            0,
            &[
                attribute(IFLA_IFNAME, b"\xff\xfe\0"),
                attribute(999, b"future"),
                attribute(IFLA_LINKINFO, &[attribute(2, b"data"), attribute(IFLA_INFO_KIND, b"veth\0")].concat()),
                attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]),
                attribute(IFLA_MASTER, &5_u32.to_ne_bytes()),
                attribute(IFLA_LINK, &12_u32.to_ne_bytes()),
                attribute(IFLA_LINK_NETNSID, &3_i32.to_ne_bytes()),
            ],
        );
        let expected = Link {
            index: 7,
            name: "\u{fffd}\u{fffd}".to_owned(),
            kind: Some("veth".to_owned()),
            peer: Some(12),
            peer_nsid: Some(3),
            netkit: None,
            loopback: false,
            mac: Some([2, 0, 0, 0, 0, 1]),
            master: Some(5),
        };
        assert_eq!(decode(&veth), Some(expected));
    }

    #[test]
    fn loopback_is_told_by_its_flag() {
        let link = decode(&message(IFF_LOOPBACK, &[attribute(IFLA_IFNAME, b"eth0\0")])).expect("a link");
        assert!(link.loopback && link.kind.is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            prop_assert_eq!(decode(&bytes).is_some(), bytes.len() >= HEADER_BYTES);
        }
    }
}
