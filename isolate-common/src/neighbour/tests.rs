//! Questions as the kernel asks them, and the answers.

use proptest::prelude::*;

use super::*;
use crate::packet::tests::Bytes;

const NODE: Mac = [2, 0, 0, 0, 0, 1];
const POD: Mac = [2, 0, 0, 0, 0, 2];

fn arp(operation: u8, asker: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let head = [&[0xff; 6][..], &NODE, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    [&head[..], &NODE, &asker, &[0; 6], &target].concat()
}

fn nd(kind: u8, option: u8, asker: Address, target: Address) -> Vec<u8> {
    let head = [&[0x33, 0x33, 0xff, 0, 0, 2][..], &NODE, &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]].concat();
    let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target, &[option, 1], &NODE].concat();
    [&head[..], &asker, &[0xff; 16], &message].concat()
}

fn address(last: u8) -> Address {
    [0xfd, 0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

#[test]
fn arp_is_answered() {
    let request = arp(1, [10, 0, 0, 1], [10, 0, 0, 2]);
    let asked = arp_question(&Bytes(request.clone())).expect("a question");
    assert_eq!((asked.asker, asked.target), (mapped([10, 0, 0, 1]), mapped([10, 0, 0, 2])));
    let mut frame: [u8; ARP_FRAME] = request.try_into().expect("42 bytes");
    answer_arp(&mut frame, POD);
    let expected =
        [&NODE[..], &POD, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &POD, &[10, 0, 0, 2], &NODE, &[10, 0, 0, 1]].concat();
    assert_eq!(frame[..], expected[..]);
    assert!(is_arp_answer(&frame, POD) && !is_arp_answer(&frame, NODE));
}

#[test]
fn nd_is_answered_with_a_checksum() {
    let request = nd(SOLICITATION, SOURCE_OPTION, address(1), address(2));
    let asked = nd_question(&Bytes(request.clone())).expect("a question");
    assert_eq!((asked.asker, asked.target), (address(1), address(2)));
    let mut frame: [u8; ND_FRAME] = request.try_into().expect("86 bytes");
    answer_nd(&mut frame, POD, true);
    assert!(is_nd_answer(&frame, POD) && !is_nd_answer(&frame, NODE));
    assert_eq!((&frame[..6], &frame[22..38], &frame[38..54]), (&NODE[..], &address(2)[..], &address(1)[..]));
    assert_eq!((&frame[62..78], frame[58]), (&address(2)[..], 0xe0));
    // The sum over everything, checksum included, is all ones (RFC 1071).
    let words = frame[22..].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = words.sum::<u32>() + 32 + 58;
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
}

#[test]
fn what_is_no_question_is_not_answered() {
    let same = [10, 0, 0, 1];
    for frame in [arp(2, same, [10, 0, 0, 2]), arp(1, [0; 4], [10, 0, 0, 2]), arp(1, same, same)] {
        assert_eq!(arp_question(&Bytes(frame)), None);
    }
    for frame in [
        nd(ADVERTISEMENT, TARGET_OPTION, address(1), address(2)),
        nd(SOLICITATION, TARGET_OPTION, address(1), address(2)),
        nd(SOLICITATION, SOURCE_OPTION, [0; 16], address(2)),
        nd(SOLICITATION, SOURCE_OPTION, address(2), address(2)),
    ] {
        assert_eq!(nd_question(&Bytes(frame)), None);
    }
}

#[test]
fn a_pod_has_its_addresses_and_not_the_empty_places() {
    let facts = LinkFacts { addresses: [address(2), mapped([10, 0, 0, 2]), [0; 16], [0; 16]], ..LinkFacts::default() };
    assert!(facts.has(&address(2)) && facts.has(&mapped([10, 0, 0, 2])));
    assert!(!facts.has(&[0; 16]) && !facts.has(&address(3)));
}

#[test]
fn only_what_is_the_pods_alone_counts() {
    let addresses = [address(2), mapped([10, 0, 0, 2]), [0; 16], [0; 16]];
    let facts = |sole| LinkFacts { addresses, sole, ..LinkFacts::default() };
    assert!(facts(LinkFacts::HARDWARE | 2).has_alone(&mapped([10, 0, 0, 2])));
    assert!(!facts(LinkFacts::HARDWARE | 2).has_alone(&address(2)), "another one's as well");
    assert!(!facts(LinkFacts::HARDWARE | 4).has_alone(&[0; 16]), "an empty place");
    assert!(!facts(3).has_alone(&address(2)), "its hardware address is another one's");
    assert!(facts(3).has(&address(2)), "it has it all the same");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let frame = Bytes(bytes);
        prop_assert_eq!((arp_question(&frame), nd_question(&frame)), (None, None), "chance hits no header of ten bytes");
    }
}
