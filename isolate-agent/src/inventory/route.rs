//! The routers in one route of a netlink dump.

use std::net::IpAddr;

use netlink_packet_core::NlasIterator;

const HEADER_BYTES: usize = 12;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_VIA: u16 = 18;
/// `struct rtnexthop` before its attributes; its length comes first, with these.
const HOP_BYTES: usize = 8;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Reads the payload of an `RTM_NEWROUTE`.
pub(super) fn routers(payload: &[u8]) -> Vec<IpAddr> {
    let mut routers = Vec::new();
    let attributes = payload.get(HEADER_BYTES..).unwrap_or_default();
    collect(attributes, &mut routers);
    for attribute in NlasIterator::new(attributes).map_while(Result::ok).filter(|one| one.kind() == RTA_MULTIPATH) {
        let mut hops = attribute.value();
        while let Some(length) = hops.first_chunk().map(|length| usize::from(u16::from_ne_bytes(*length))) {
            collect(hops.get(HOP_BYTES..length).unwrap_or_default(), &mut routers);
            hops = hops.get(length.max(HOP_BYTES).next_multiple_of(4)..).unwrap_or_default();
        }
    }
    routers
}

fn collect(attributes: &[u8], routers: &mut Vec<IpAddr>) {
    for attribute in NlasIterator::new(attributes).map_while(Result::ok) {
        let value = attribute.value();
        routers.extend(match attribute.kind() {
            RTA_GATEWAY => address(value),
            // A router of another family than the route, which stands before it.
            RTA_VIA => match value.split_first_chunk().map(|(family, rest)| (u16::from_ne_bytes(*family), rest)) {
                Some((AF_INET | AF_INET6, rest)) => address(rest),
                _ => None,
            },
            _ => None,
        });
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).expect("short");
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn hop(attributes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(HOP_BYTES + attributes.len()).expect("short");
        [&length.to_ne_bytes()[..], &[0; 6], attributes].concat()
    }

    #[test]
    fn routers_of_every_form_are_found() {
        let v6 = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let via = attribute(RTA_VIA, &[&AF_INET6.to_ne_bytes()[..], &v6].concat());
        let hops = [hop(&attribute(RTA_GATEWAY, &[10, 0, 0, 2])), hop(&via)].concat();
        let route = [
            vec![0; HEADER_BYTES],
            attribute(1, &[10, 0, 0, 9]),
            attribute(RTA_GATEWAY, &[10, 0, 0, 1]),
            attribute(RTA_MULTIPATH, &hops),
        ];
        assert_eq!(routers(&route.concat()), [IpAddr::from([10, 0, 0, 1]), [10, 0, 0, 2].into(), v6.into()]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_passed_over(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let _routers = routers(&[&[0; HEADER_BYTES][..], &attribute(RTA_MULTIPATH, &bytes)].concat());
        }
    }
}
