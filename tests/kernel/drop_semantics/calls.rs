//! The calls of the table, each made once before and once after the cut.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use isolate_tests::{
    frame::{EXPERIMENT, Mark, echo_request, ethernet},
    process::{Process, Socket},
    wire::{Answer, Family, Kind},
};

use crate::scene::Scene;

/// How long every call blocks.
const TIMEOUT: Duration = Duration::from_millis(500);

/// One row: what a call gave.
pub(super) struct Call {
    pub(super) what: &'static str,
    pub(super) before: String,
    pub(super) after: String,
    /// An iptables rule does not reach it: it must go on there, and end here.
    pub(super) beyond_iptables: bool,
}

/// Which one tells more of the kernel than of what was done to the pod.
pub(super) const FRAME: &str = "`send` of a frame (`AF_PACKET`)";

/// Makes all calls in a pod of its own before and after `cut`.
pub(super) fn before_and_after(cut: impl FnOnce(&Scene)) -> Vec<Call> {
    let scene = Scene::new();
    let stage = Stage::set(&scene);
    let before = stage.play();
    cut(&scene);
    let after = stage.play();
    let row = |((what, beyond_iptables, before), (_, _, after))| Call { what, before, after, beyond_iptables };
    before.into_iter().zip(after).map(row).collect()
}

type Played = (&'static str, bool, String);

/// Both pods' processes, and the sockets that exist before the cut.
struct Stage<'a> {
    scene: &'a Scene,
    app: &'a Process,
    peer: &'a Process,
    inside: Socket<'a>,
    outside: Socket<'a>,
}

impl<'a> Stage<'a> {
    fn set(scene: &'a Scene) -> Self {
        let (app, peer) = (scene.web.app(), scene.neighbour.app());
        let listener = peer.socket(Kind::Tcp, Family::V4, TIMEOUT);
        let address = listener.bind((scene.neighbour.end().v4, 0).into());
        let inside = app.socket(Kind::Tcp, Family::V4, TIMEOUT);
        let connected = inside.connect(address);
        assert!(connected.is_ok(), "{}", connected.errno_name());
        let outside = listener.accept().expect("a connection waits");
        Self { scene, app, peer, inside, outside }
    }

    fn play(&self) -> Vec<Played> {
        let (web, peer_end) = (self.scene.web.end(), self.scene.neighbour.end());
        let localhost = IpAddr::from([127, 0, 0, 1]);
        let (outbound, accept) = connect(self.app, self.peer, peer_end.v4.into());
        let (inbound, accepted) = connect(self.peer, self.app, web.v4.into());
        let (send, arrived) = datagram(self.app, self.peer, peer_end.v4.into());
        let (_, received) = datagram(self.peer, self.app, web.v4.into());
        let stream_send = said(&self.inside.send(b"out"));
        let stream_out = said(&self.outside.recv());
        self.outside.send(b"in");
        let stream_recv = said(&self.inside.recv());
        let (echo, reply) = ping(self.app, peer_end.v4.into());
        let (_, inbound_reply) = ping(self.peer, web.v4.into());
        let (local_connect, _) = connect(self.app, self.app, localhost);
        let (local_send, local_recv) = datagram(self.app, self.app, localhost);
        let (send6, arrived6) = datagram(self.app, self.peer, peer_end.v6.into());
        let (connect6, _) = connect(self.app, self.peer, peer_end.v6.into());
        let (frame_sent, frame_arrived) = self.frame();
        vec![
            ("`connect` to another pod (TCP)", false, outbound),
            ("… and its `accept`", false, accept),
            ("`connect` from another pod", false, inbound),
            ("… and the pod's `accept`", false, accepted),
            ("`send` on an established stream", false, stream_send),
            ("… and the other pod's `recv`", false, stream_out),
            ("`recv` on an established stream to which the other pod sends", false, stream_recv),
            ("`sendto` another pod (UDP)", false, send),
            ("… and its `recv`", false, arrived),
            ("`recv` of a datagram from another pod", false, received),
            ("ping another pod: `sendto`", false, echo),
            ("… and the reply", false, reply),
            ("ping from another pod: the reply", false, inbound_reply),
            ("`connect` on loopback", false, local_connect),
            ("`sendto` on loopback (UDP)", false, local_send),
            ("… and its `recv`", false, local_recv),
            ("`connect` to another pod over IPv6", true, connect6),
            ("`sendto` another pod over IPv6 (UDP)", true, send6),
            ("… and its `recv`", true, arrived6),
            (FRAME, true, frame_sent),
            ("… and the other pod's `recv`", true, frame_arrived),
        ]
    }

    fn frame(&self) -> (String, String) {
        let (from, to) = (self.scene.web.end(), self.scene.neighbour.end());
        let receiver = self.peer.packet("eth0", TIMEOUT);
        let mark = Mark::new();
        let frame = ethernet(to.mac, from.mac, EXPERIMENT, mark.bytes());
        let sent = self.app.try_packet("eth0", TIMEOUT).map_or_else(|refused| refused, |socket| socket.send(&frame));
        (said(&sent), said(&until_marked(&receiver, &mark)))
    }
}

fn family(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::V4 } else { Family::V6 }
}

fn connect(from: &Process, to: &Process, ip: IpAddr) -> (String, String) {
    let listener = to.socket(Kind::Tcp, family(ip), TIMEOUT);
    let address = listener.bind(SocketAddr::new(ip, 0));
    let connected = said(&from.socket(Kind::Tcp, family(ip), TIMEOUT).connect(address));
    let accepted = listener.accept().map_or_else(|answer| said(&answer), |_| "a connection".to_owned());
    (connected, accepted)
}

fn datagram(from: &Process, to: &Process, ip: IpAddr) -> (String, String) {
    let receiver = to.socket(Kind::Udp, family(ip), TIMEOUT);
    let address = receiver.bind(SocketAddr::new(ip, 0));
    let sent = from.socket(Kind::Udp, family(ip), TIMEOUT).send_to(address, b"datagram");
    (said(&sent), said(&receiver.recv()))
}

fn ping(from: &Process, to: IpAddr) -> (String, String) {
    let socket = from.socket(Kind::Icmp, Family::V4, TIMEOUT);
    let mark = Mark::new();
    let sent = socket.send_to(SocketAddr::new(to, 0), &echo_request(false, &mark));
    (said(&sent), said(&until_marked(&socket, &mark)))
}

/// Receives until what carries the mark is there, or nothing comes.
fn until_marked(socket: &Socket<'_>, mark: &Mark) -> Answer {
    loop {
        let answer = socket.recv();
        if !answer.is_ok() || mark.is_in(&answer.data) {
            return answer;
        }
    }
}

/// An answer in words that are the same on every machine: a call is fast or it is not, whatever the numbers are.
fn said(answer: &Answer) -> String {
    let hangs = answer.elapsed >= TIMEOUT.mul_f32(0.9);
    let name = answer.errno_name();
    match (answer.is_ok(), hangs) {
        (true, _) => "done".to_owned(),
        (false, true) => format!("hangs, then {name}"),
        (false, false) => format!("{name} at once"),
    }
}
