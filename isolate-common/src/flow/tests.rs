//! Probe connections: a real one fits at each of its steps, and no sequence of packets gets more out than was opened.

use proptest::prelude::*;

use super::*;

const SYN: u8 = tcp::SYN;
const ACK: u8 = tcp::ACK;
const PSH: u8 = 0x08;

fn segment(kind: u8, payload: u32) -> Packet {
    Packet { protocol: protocol::TCP, kind, payload, ..Packet::default() }
}

/// The states that a flow goes through; none from the packet on that does not fit.
fn run(packets: &[(Direction, u8, u32)]) -> Vec<Option<u64>> {
    let mut flow = Flow::called(0);
    packets
        .iter()
        .map(|(direction, kind, payload)| {
            let after = flow.after(&segment(*kind, *payload), *direction, 1);
            flow.state = after.unwrap_or(flow.state);
            after
        })
        .collect()
}

#[test]
fn probes_fit() {
    use Direction::{In, Out};
    let opened = [(In, SYN, 0), (Out, SYN | ACK, 0), (In, ACK, 0)];
    for rest in [
        // httpGet, with the answer in two segments; tcpSocket; one that is given up; one that meets a closed port.
        &[
            (In, ACK | PSH, 80),
            (Out, ACK, 0),
            (Out, ACK, 1448),
            (Out, ACK | PSH, 300),
            (In, ACK, 0),
            (In, ACK | tcp::FIN, 0),
            (Out, ACK | tcp::FIN, 0),
            (In, ACK, 0),
        ][..],
        &[(In, ACK | tcp::FIN, 0), (Out, ACK | PSH, 20), (In, tcp::RST, 0)],
        &[(In, tcp::RST | ACK, 0)],
        &[(Out, SYN | ACK, 0), (Out, ACK | tcp::FIN, 0)],
    ] {
        let states = run(&[&opened, rest].concat());
        assert!(states.iter().all(Option::is_some), "{rest:?}: {states:?}");
    }
    assert_eq!(run(&[(In, SYN, 0), (In, SYN, 0), (Out, tcp::RST | ACK, 0)]).last(), Some(&Some(state::CLOSED)));
}

#[test]
fn what_no_probe_does_does_not_fit() {
    use Direction::{In, Out};
    for packets in [
        // Data before the handshake is over, with it, after a reset; a connection the other way; nonsense.
        &[(Out, ACK, 10)][..],
        &[(Out, SYN | ACK, 10)],
        &[(Out, SYN | ACK, 0), (Out, ACK, 10)],
        &[(Out, SYN, 0)],
        &[(In, ACK, 0)],
        &[(In, SYN, 10)],
        &[(Out, tcp::RST, 0), (Out, ACK, 0)],
        &[(Out, tcp::RST, 5)],
        &[(Out, SYN | ACK, 0), (In, ACK, 0), (Out, ACK | tcp::URG, 5)],
        &[(Out, SYN | ACK, 0), (In, ACK, 0), (Out, PSH, 5)],
        &[(Out, SYN | ACK, 0), (In, ACK, 0), (Out, SYN | tcp::FIN, 0)],
        &[(Out, SYN | ACK, 0), (In, ACK, 0), (In, tcp::RST, 0), (Out, ACK, 5)],
        &[(Out, 0, 5)],
    ] {
        assert_eq!(run(packets).last(), Some(&None), "{packets:?}");
    }
}

#[test]
fn a_connection_ends_with_its_time() {
    let flow = Flow { state: state::OPEN, ..Flow::called(5) };
    let at = |secs: u64| flow.after(&segment(ACK, 1), Direction::Out, 5 + secs * NANOS);
    assert_eq!((at(FLOW_LIFETIME_SECS), at(FLOW_LIFETIME_SECS + 1)), (Some(state::OPEN), None));
    let datagram = Packet { protocol: protocol::UDP, ..segment(ACK, 1) };
    assert_eq!(flow.after(&datagram, Direction::Out, 5), None);
}

proptest! {
    /// The pod can neither open a connection nor bring one back, whatever it sends.
    #[test]
    fn the_pod_alone_gets_nothing_out(packets in prop::collection::vec((any::<u8>(), 0..3_u32), 0..30), closed in any::<bool>()) {
        let mut flow = Flow::called(0);
        if closed {
            flow.state = state::CLOSED;
        }
        for (kind, payload) in packets {
            let after = flow.after(&segment(kind, payload), Direction::Out, 1);
            prop_assert!(after.is_none() || (payload == 0 && !closed), "{kind:#x}");
            flow.state = after.unwrap_or(flow.state);
        }
    }

    #[test]
    fn budgets_are_kept(frames in prop::collection::vec((any::<bool>(), 54..9000_u64), 0..200)) {
        let mut passed = Passed::default();
        let (mut out, mut inward) = (0, 0);
        for (goes_out, bytes) in frames {
            let direction = if goes_out { Direction::Out } else { Direction::In };
            passed.packets[direction as usize] += 1;
            passed.bytes[direction as usize] += bytes;
            if Flow::is_within_budget(&passed, direction) && Window::is_within_budget(&passed, direction) {
                *(if goes_out { &mut out } else { &mut inward }) += bytes;
            }
        }
        prop_assert!(out <= FLOW_BYTES_OUT && inward <= FLOW_BYTES_IN);
    }
}
