//! One address of a netlink dump, decoded leniently: it comes from a namespace that a hostile pod owns.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NlasIterator;

const HEADER_BYTES: usize = 8;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// Reads the payload of an `RTM_NEWADDR`: the index of the interface, and the address; none if it is cut short or of another
/// family.
pub(super) fn decode(payload: &[u8]) -> Option<(u32, IpAddr)> {
    let (header, attributes) = payload.split_at_checked(HEADER_BYTES)?;
    let family = *header.first()?;
    let index = u32::from_ne_bytes(header.get(4..8)?.try_into().ok()?);
    let mut address = None;
    for attribute in NlasIterator::new(attributes).map_while(Result::ok) {
        match (family, attribute.kind()) {
            // On a link with two ends `IFA_ADDRESS` is the other one's.
            (AF_INET, IFA_LOCAL) => {
                address = <[u8; 4]>::try_from(attribute.value()).ok().map(|bytes| Ipv4Addr::from(bytes).into());
            }
            (AF_INET6, IFA_ADDRESS) => {
                address = <[u8; 16]>::try_from(attribute.value()).ok().map(|bytes| Ipv6Addr::from(bytes).into());
            }
            _ => {}
        }
    }
    Some((index, address?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(family: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![family, 24, 0, 0, 7, 0, 0, 0];
        for (kind, value) in attributes {
            let length = u16::try_from(value.len() + 4).expect("short");
            bytes.extend_from_slice(&length.to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(value);
        }
        bytes
    }

    #[test]
    fn both_families_are_read() {
        let v4 = message(AF_INET, &[(IFA_ADDRESS, &[10, 0, 0, 1]), (IFA_LOCAL, &[10, 0, 0, 2])]);
        let v6 = message(AF_INET6, &[(IFA_ADDRESS, &[0xfd; 16])]);
        if cfg!(target_endian = "little") {
            assert_eq!(decode(&v4), Some((7, Ipv4Addr::new(10, 0, 0, 2).into())));
            assert_eq!(decode(&v6), Some((7, Ipv6Addr::from([0xfd; 16]).into())));
        }
        assert_eq!(decode(&message(1, &[(IFA_LOCAL, &[10, 0, 0, 2])])), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let _address = decode(&bytes);
        }
    }
}
