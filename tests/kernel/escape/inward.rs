//! Inward: what a neighbour on the same bridge gets into the pod, and the answers that the pod's kernel gives by itself.

use std::net::SocketAddr;

use isolate_tests::{
    frame::{ARP, EXPERIMENT, Mac, Mark, arp_request, echo_request, ethernet},
    packet::{IPV4, IPV6, UDP, icmpv6, ipv4, ipv6, multicast_mac, udp},
    program,
    wire::{Answer, Family, Handle, Kind, Raw, Request},
};

use super::{
    Escape, Halt, escape,
    run::Setting::Bridged,
    stage::{DISCARD, Stage, done, receives},
};

const IPPROTO_UDPLITE: i32 = 136;
const UNKNOWN_PROTOCOL: u8 = 253;

const fn inward(name: &'static str, attempt: fn(&Stage, &Mark) -> Result<bool, Halt>) -> Escape {
    escape(Bridged, name, attempt)
}

pub(super) const ALL: &[Escape] = &[
    inward("TCP connection into the pod (IPv4)", |s, _| connection(s, Family::V4)),
    inward("TCP connection into the pod (IPv6)", |s, _| connection(s, Family::V6)),
    inward("data on an established connection that the pod opened", |s, mark| on_old(s, mark, s.old.outbound)),
    inward("data on an established connection that the pod accepted", |s, mark| on_old(s, mark, s.old.inbound)),
    inward("one-way UDP command (IPv4)", |s, mark| command(s, mark, Family::V4)),
    inward("one-way UDP command (IPv6)", |s, mark| command(s, mark, Family::V6)),
    inward("one-way UDP-Lite command", |s, mark| {
        let socket = s.open(libc::AF_INET, libc::SOCK_DGRAM, IPPROTO_UDPLITE)?;
        let port = bind(s, socket, (s.victim().v4, 0).into())?;
        let open = Raw::Open { domain: libc::AF_INET, style: libc::SOCK_DGRAM, protocol: IPPROTO_UDPLITE };
        let sender = neighbour(s, &Request::Raw(open))?.handle.expect("it makes a socket");
        neighbour(s, &Request::SendTo(sender, (s.victim().v4, port).into(), mark.bytes().to_vec()))?;
        Ok(receives(&s.attacker, socket, mark))
    }),
    inward("broadcast UDP command", |s, mark| {
        let socket = s.make(&Request::Socket { kind: Kind::Udp, family: Family::V4, timeout: s.patience() })?;
        let port = bind(s, socket, ([0, 0, 0, 0], 0).into())?;
        let packet = ipv4(s.neighbour().v4, [255; 4].into(), UDP, &udp(DISCARD, port, mark.bytes()));
        s.neighbour_sends(&ethernet(Mac::BROADCAST, s.neighbour().mac, IPV4, &packet));
        Ok(receives(&s.attacker, socket, mark))
    }),
    inward("raw IP packet into the pod", |s, mark| {
        let socket = s.make(&Request::Socket { kind: Kind::Raw, family: Family::V4, timeout: s.patience() })?;
        let packet = ipv4(s.neighbour().v4, s.victim().v4, UNKNOWN_PROTOCOL, mark.bytes());
        s.neighbour_sends(&ethernet(s.victim().mac, s.neighbour().mac, IPV4, &packet));
        Ok(receives(&s.attacker, socket, mark))
    }),
    inward("ping that the pod's kernel answers (IPv4)", pinged),
    inward("ping that the pod's kernel answers (IPv6)", |s, mark| {
        let (from, to) = (s.neighbour().v6, s.victim().v6);
        let request = icmpv6(from, to, 128, &[&[0x15, 0x0a, 0, 1], mark.bytes()].concat());
        s.neighbour_sends(&ethernet(s.victim().mac, s.neighbour().mac, IPV6, &ipv6(from, to, 58, &request)));
        Ok(answered(s, mark))
    }),
    inward("\"port unreachable\" of the pod's kernel", |s, mark| {
        let packet = ipv4(s.neighbour().v4, s.victim().v4, UDP, &udp(DISCARD, 1, mark.bytes()));
        s.neighbour_sends(&ethernet(s.victim().mac, s.neighbour().mac, IPV4, &packet));
        Ok(answered(s, mark))
    }),
    inward("TCP reset of the pod's kernel", |s, _| {
        // Nobody listens on this port.
        let to = SocketAddr::new(s.victim().v4.into(), 1);
        let stream = s.peer().socket(Kind::Tcp, Family::V4, s.patience());
        Ok(stream.connect(to).errno == libc::ECONNREFUSED)
    }),
    inward("ARP reply of the pod's kernel", |s, mark| {
        let (victim, neighbour) = (s.victim(), s.neighbour());
        s.neighbour_sends(&arp_request(neighbour.mac, neighbour.v4, victim.v4, mark));
        // Operation 2: reply.
        Ok(s.arrives_such(|frame| {
            frame.from() == victim.mac && frame.bytes()[12..14] == ARP.to_be_bytes() && frame.bytes()[20..22] == [0, 2]
        }))
    }),
    inward("neighbour advertisement of the pod's kernel", |s, _| {
        let (victim, neighbour) = (s.victim(), s.neighbour());
        let target = [&[0; 4], &victim.v6.octets()[..], &[1, 1], &neighbour.mac.0].concat();
        let request = icmpv6(neighbour.v6, victim.v6, 135, &target);
        let packet = ipv6(neighbour.v6, victim.v6, 58, &request);
        s.neighbour_sends(&ethernet(victim.mac, neighbour.mac, IPV6, &packet));
        Ok(s.arrives_such(|frame| {
            let bytes = frame.bytes();
            frame.from() == victim.mac && bytes[12..14] == IPV6.to_be_bytes() && bytes.get(54) == Some(&136)
        }))
    }),
    inward("frame that a sniffer in the pod sees (unicast)", sniffed),
    inward("frame that a sniffer in the pod sees (broadcast)", |s, mark| {
        s.sniffs("eth0", mark, || {
            s.neighbour_sends(&ethernet(Mac::BROADCAST, s.neighbour().mac, EXPERIMENT, mark.bytes()));
        })
    }),
    inward("frame that a sniffer in the pod sees (multicast)", |s, mark| {
        let to = multicast_mac("ff02::1".parse().expect("it is an address"));
        s.sniffs("eth0", mark, || s.neighbour_sends(&ethernet(to, s.neighbour().mac, EXPERIMENT, mark.bytes())))
    }),
    inward("fragment that a sniffer in the pod sees", |s, mark| {
        let packet = isolate_tests::packet::ipv4_with(s.neighbour().v4, s.victim().v4, UDP, 0x2064, &[], mark.bytes());
        s.sniffs("eth0", mark, || s.neighbour_sends(&ethernet(s.victim().mac, s.neighbour().mac, IPV4, &packet)))
    }),
    inward("datagram delivered by bpf_redirect_peer", |s, mark| redirected(s, |s| command(s, mark, Family::V4))),
    inward("ping delivered by bpf_redirect_peer, answered by the pod's kernel", |s, mark| {
        redirected(s, |s| pinged(s, mark))
    }),
    inward("frame delivered by bpf_redirect_peer, seen by a sniffer in the pod", |s, mark| {
        redirected(s, |s| sniffed(s, mark))
    }),
];

fn neighbour(s: &Stage, request: &Request) -> Result<Answer, Halt> {
    done(request, s.peer().call(request))
}

fn bind(s: &Stage, socket: Handle, address: SocketAddr) -> Result<u16, Halt> {
    s.call(&Request::Bind(socket, address)).map(|bound| u16::try_from(bound.value).expect("a port has 16 bits"))
}

fn own(s: &Stage, family: Family) -> SocketAddr {
    match family {
        Family::V4 => (s.victim().v4, 0).into(),
        Family::V6 => (s.victim().v6, 0).into(),
    }
}

/// A client has a connection when its kernel says so, whether the pod's program has heard of it or not.
pub(super) fn connection(s: &Stage, family: Family) -> Result<bool, Halt> {
    let socket = s.make(&Request::Socket { kind: Kind::Tcp, family, timeout: s.patience() })?;
    let to = SocketAddr::new(own(s, family).ip(), bind(s, socket, own(s, family))?);
    let client = s.peer().socket(Kind::Tcp, family, s.patience());
    let connected = client.connect(to).is_ok();
    let accepted = s.attacker.call(&Request::Accept(socket)).is_ok();
    Ok(connected || accepted)
}

fn on_old(s: &Stage, mark: &Mark, [inside, outside]: [Handle; 2]) -> Result<bool, Halt> {
    neighbour(s, &Request::Send(outside, mark.bytes().to_vec()))?;
    // What was sent while it was cut comes first, once it is not.
    Ok(isolate_tests::wait::happens_within(s.patience(), || receives(&s.attacker, inside, mark)))
}

pub(super) fn command(s: &Stage, mark: &Mark, family: Family) -> Result<bool, Halt> {
    let socket = s.make(&Request::Socket { kind: Kind::Udp, family, timeout: s.patience() })?;
    let to = SocketAddr::new(own(s, family).ip(), bind(s, socket, own(s, family))?);
    s.peer().socket(Kind::Udp, family, s.patience()).send_to(to, mark.bytes());
    Ok(receives(&s.attacker, socket, mark))
}

pub(super) fn sniffed(s: &Stage, mark: &Mark) -> Result<bool, Halt> {
    let (to, from) = (s.victim().mac, s.neighbour().mac);
    s.sniffs("eth0", mark, || s.neighbour_sends(&ethernet(to, from, EXPERIMENT, mark.bytes())))
}

#[expect(clippy::unnecessary_wraps, reason = "it has the form of a channel")]
pub(super) fn pinged(s: &Stage, mark: &Mark) -> Result<bool, Halt> {
    let packet = ipv4(s.neighbour().v4, s.victim().v4, 1, &echo_request(false, mark));
    s.neighbour_sends(&ethernet(s.victim().mac, s.neighbour().mac, IPV4, &packet));
    Ok(answered(s, mark))
}

/// Whether a packet from the pod carries the mark: the request itself does too, on its way.
fn answered(s: &Stage, mark: &Mark) -> bool {
    s.arrives_such(|frame| frame.from() == s.victim().mac && mark.is_in(frame.bytes()))
}

/// With a program on the neighbour's veth that forwards everything into the pod, as Cilium's host routing does.
pub(super) fn redirected(s: &Stage, attempt: impl FnOnce(&Stage) -> Result<bool, Halt>) -> Result<bool, Halt> {
    let (from, to) = (&s.scene.neighbour.host_veths()[0], &s.scene.web.host_veths()[0]);
    match program::redirect_peer(s.scene.node.netns(), from, to) {
        Ok(_link) => attempt(s),
        Err(error) => Err(Halt::Missing(format!("attach bpf_redirect_peer with tcx: {error}"))),
    }
}
