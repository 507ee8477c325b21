//! Random and mutated frames, the same for the same seed: one side runs programs on them, another says what must come of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::frame::ARP;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ETHERNET: usize = 14;
/// Ethertypes with and without a meaning: two VLAN tags, LLDP, MPLS, `PPPoE`, a length instead of a type, an experiment.
const ETHERTYPES: [u16; 10] = [0x8100, 0x88a8, 0x88cc, 0x8847, 0x8863, 0x0040, 0x88b5, ARP, IPV4, IPV6];
const PROTOCOLS: [u8; 8] = [1, 2, 17, 47, 50, 58, 132, 253];
/// Extension headers of IPv6: hop-by-hop, routing, fragment, destination options.
const EXTENSIONS: [u8; 4] = [0, 43, 44, 60];
/// Combinations of TCP flags that a connection has.
const FLAGS: [u8; 8] = [0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0xc2];

/// What stands for a frame that the kernel runs no program on.
pub const REFUSED: u8 = 0xfe;

/// Random numbers from a seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same numbers for the same seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("an address fits");
        usize::try_from(self.roll() % end).expect("it is below a usize")
    }

    /// Whether something happens that does once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn byte(&mut self) -> u8 {
        self.roll().to_le_bytes()[0]
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }
}

/// Who may occur in the frames, so that now and then one means something.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Actors {
    /// The pod's hardware address and the node's.
    pub macs: [[u8; 6]; 2],
    /// The pod's addresses.
    pub own: [IpAddr; 2],
    /// The others'.
    pub peers: Vec<IpAddr>,
    /// Ports of the pod. The first is rarely taken.
    pub own_ports: Vec<u16>,
    /// Ports of the others.
    pub peer_ports: Vec<u16>,
    /// The shortest and the longest frame that the kernel takes.
    pub lengths: [usize; 2],
}

/// Frames without end.
#[derive(Debug)]
pub struct Frames {
    dice: Dice,
    actors: Actors,
}

/// One frame, and where it is put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which of the programs runs on it.
    pub program: usize,
    /// Whether it came from another interface, and not from a socket of the node.
    pub forwarded: bool,
    /// Its bytes, from the Ethernet header on.
    pub frame: Vec<u8>,
}

impl Frames {
    /// The same frames for the same seed.
    pub const fn new(seed: u64, actors: Actors) -> Self {
        Self { dice: Dice::new(seed), actors }
    }

    /// The next frame, for one of so many programs.
    pub fn step(&mut self, programs: usize) -> Step {
        let (program, forwarded) = (self.dice.below(programs), self.dice.once_in(3));
        Step { program, forwarded, frame: self.frame() }
    }

    fn frame(&mut self) -> Vec<u8> {
        let [least, most] = self.actors.lengths;
        if self.dice.once_in(120) {
            return self.conversation();
        }
        let mut frame = match self.dice.below(20) {
            0 => {
                let length = self.length();
                self.dice.bytes(length)
            }
            1 => {
                let (length, byte) = (self.length(), self.dice.of(&[0, 0xff]));
                vec![byte; length]
            }
            2 => {
                let (ethertype, length) = (self.dice.of(&ETHERTYPES), self.dice.below(200));
                let payload = self.dice.bytes(length);
                self.ethernet(ethertype, &payload)
            }
            3 | 4 => self.arp(),
            5 | 6 => self.neighbour_discovery(),
            7 => {
                // A tag, or two of them, before a packet.
                let (mut tagged, tag) = (self.ip(), self.dice.of(&[0x8100_u16, 0x88a8]).to_be_bytes());
                for _ in 0..=self.dice.below(2) {
                    let identifier = self.dice.bytes(2);
                    tagged.splice(ETHERNET - 2..ETHERNET - 2, [&tag[..], &identifier].concat());
                }
                tagged
            }
            _ => self.ip(),
        };
        if self.dice.once_in(3) {
            self.mutate(&mut frame);
        }
        frame.truncate(most);
        frame.resize(frame.len().max(least), 0);
        frame
    }

    /// A step of a TCP connection to the pod's rare port, between the same ends each time: now and then the steps come in the
    /// order in which they make one.
    fn conversation(&mut self) -> Vec<u8> {
        let (v6, [pod, node]) = (self.dice.once_in(2), self.actors.macs);
        let of_family = |address: &&IpAddr| address.is_ipv6() == v6;
        let own = *self.actors.own.iter().find(of_family).expect("the pod has addresses of both families");
        let peer = *self.actors.peers.iter().rfind(of_family).expect("there are others of both families");
        let ports = [*self.actors.peer_ports.last().expect("they have ports"), self.actors.own_ports[0]];
        let (out, flags) = self.dice.of(&[
            (false, 0x02),
            (true, 0x12),
            (false, 0x10),
            (false, 0x18),
            (true, 0x18),
            (true, 0x10),
            (true, 0x11),
        ]);
        let data = if flags == 0x18 { &b"probe"[..] } else { &[] };
        let (from, to, [from_port, to_port]) = if out { (own, peer, [ports[1], ports[0]]) } else { (peer, own, ports) };
        let ports = [from_port.to_be_bytes(), to_port.to_be_bytes()].concat();
        let segment = [&ports[..], &[0; 8], &[5 << 4, flags], &[0xff, 0xff, 0, 0, 0, 0], data].concat();
        let packet = if v6 { ipv6(6, from, to, &segment) } else { ipv4(0x45, [0x40, 0], 6, from, to, &segment) };
        let (to, from) = if out { (node, pod) } else { (pod, node) };
        [&to[..], &from, &(if v6 { IPV6 } else { IPV4 }).to_be_bytes(), &packet].concat()
    }

    /// Short ones, long ones, the shortest and the longest.
    fn length(&mut self) -> usize {
        let [least, most] = self.actors.lengths;
        match self.dice.below(4) {
            0 => least + self.dice.below(64),
            1 => least,
            2 => most,
            _ => least + self.dice.below(most - least),
        }
    }

    fn mutate(&mut self, frame: &mut Vec<u8>) {
        match self.dice.below(5) {
            0 => frame.truncate(self.dice.below(frame.len() + 1)),
            1 => {
                let length = self.dice.below(64);
                frame.extend(self.dice.bytes(length));
            }
            2 => {
                let at = self.dice.below(frame.len() + 1);
                frame.insert(at, self.dice.byte());
            }
            3 => {
                // In the headers, where it means most.
                let at = self.dice.below(frame.len().clamp(1, 64));
                frame[at] = self.dice.byte();
            }
            _ => {
                for _ in 0..=self.dice.below(4) {
                    let at = self.dice.below(frame.len());
                    frame[at] ^= 1 << self.dice.below(8);
                }
            }
        }
    }

    fn ethernet(&mut self, ethertype: u16, payload: &[u8]) -> Vec<u8> {
        let [own, node] = self.actors.macs;
        let (to, from) = match self.dice.below(8) {
            0 => ([0xff; 6], own),
            1 => (own, [2, 0, 0, 0, 0, 9]),
            2..=4 => (own, node),
            _ => (node, own),
        };
        [&to[..], &from, &ethertype.to_be_bytes(), payload].concat()
    }

    /// From one side to the other.
    fn addresses(&mut self, v6: bool) -> (IpAddr, IpAddr) {
        let of_family = |address: &&IpAddr| address.is_ipv6() == v6;
        let own = *self.actors.own.iter().find(of_family).expect("the pod has addresses of both families");
        let peers: Vec<IpAddr> = self.actors.peers.iter().filter(of_family).copied().collect();
        let peer = self.dice.of(&peers);
        let own = if self.dice.once_in(16) { peer } else { own };
        if self.dice.once_in(2) { (own, peer) } else { (peer, own) }
    }

    fn arp(&mut self) -> Vec<u8> {
        let (from, to) = self.addresses(false);
        let (operation, mac) = (self.dice.of(&[1, 1, 1, 2, 3]), self.dice.of(&self.actors.macs.clone()));
        let payload = [&[0, 1, 8, 0, 6, 4, 0, operation][..], &mac, &octets(from), &[0; 6], &octets(to)].concat();
        let mut frame = self.ethernet(ARP, &payload);
        if self.dice.once_in(4) {
            frame.resize(60, 0);
        }
        frame
    }

    fn neighbour_discovery(&mut self) -> Vec<u8> {
        let (from, to) = self.addresses(true);
        let (kind, option) = self.dice.of(&[(135, 1), (135, 1), (136, 2), (133, 1), (137, 2)]);
        let mac = self.dice.of(&self.actors.macs.clone());
        let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &octets(to), &[option, 1], &mac].concat();
        let packet = [&[0x60, 0, 0, 0, 0, 32, 58, 255][..], &octets(from), &octets(to), &message].concat();
        self.ethernet(IPV6, &packet)
    }

    fn ip(&mut self) -> Vec<u8> {
        let v6 = self.dice.once_in(2);
        let (from, to) = self.addresses(v6);
        let is_own = |address: &IpAddr| self.actors.own.contains(address);
        let (from_own, to_own) = (is_own(&from), is_own(&to));
        let ports = [self.port(from_own), self.port(to_own)];
        let (mut protocol, mut payload) = self.transport(ports);
        if v6 && self.dice.once_in(8) {
            for _ in 0..=self.dice.below(3) {
                let extension = self.dice.of(&EXTENSIONS);
                let rest = self.dice.bytes(6);
                payload = [&[protocol, 0][..], &rest, &payload].concat();
                protocol = extension;
            }
        }
        let packet = if v6 {
            ipv6(protocol, from, to, &payload)
        } else {
            let words = if self.dice.once_in(10) { self.dice.below(11) } else { 0 };
            let options = self.dice.bytes(4 * words);
            let fragment = if self.dice.once_in(10) {
                self.dice.of(&[[0x20, 0], [0x20, 9], [0, 9], [0x80, 0]])
            } else {
                [0x40, 0]
            };
            let first = 0x45 + u8::try_from(words).expect("ten words at most");
            ipv4(first, fragment, protocol, from, to, &[options, payload].concat())
        };
        let ethertype = if v6 == self.dice.once_in(40) { IPV4 } else { IPV6 };
        self.ethernet(ethertype, &packet)
    }

    fn port(&mut self, own: bool) -> u16 {
        if !own {
            return self.dice.of(&self.actors.peer_ports.clone());
        }
        let ports = self.actors.own_ports.clone();
        if self.dice.once_in(5) { ports[0] } else { self.dice.of(&ports[1..]) }
    }

    /// A protocol, and what it carries.
    fn transport(&mut self, [from, to]: [u16; 2]) -> (u8, Vec<u8>) {
        let [_, most] = self.actors.lengths;
        let length = match self.dice.below(6) {
            0 => self.dice.below(64),
            1 => self.dice.below(1400),
            2 if self.dice.once_in(16) => most - 120,
            _ => 0,
        };
        let data = vec![b'x'; length];
        let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
        match self.dice.below(6) {
            0..=2 => {
                let flags = if self.dice.once_in(8) { self.dice.byte() } else { self.dice.of(&FLAGS) };
                let words = if self.dice.once_in(8) { self.dice.below(16) } else { 5 };
                let offset = u8::try_from(words << 4).expect("fifteen words at most") | u8::from(self.dice.once_in(32));
                let header = [&ports[..], &[0; 8], &[offset, flags], &[0xff, 0xff, 0, 0, 0, 0]].concat();
                let options = vec![1; 4 * words.saturating_sub(5)];
                (6, [header, options, data].concat())
            }
            3 => {
                let length = u16::try_from(8 + data.len()).expect("a packet is short").to_be_bytes();
                (17, [&ports[..], &length, &[0, 0], &data].concat())
            }
            4 => {
                let (protocol, kind) =
                    self.dice.of(&[(1, 8), (1, 0), (1, 3), (58, 128), (58, 129), (58, 1), (58, 134)]);
                (protocol, [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &data].concat())
            }
            _ => (self.dice.of(&PROTOCOLS), data),
        }
    }
}

fn ipv6(protocol: u8, from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a packet is short").to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[protocol, 64], &octets(from), &octets(to), payload].concat()
}

/// `first` holds the version and the length of the header, of which what is beyond 20 bytes comes with the payload.
fn ipv4(first: u8, fragment: [u8; 2], protocol: u8, from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("a packet is short").to_be_bytes();
    let header = [&[first, 0][..], &length, &[0, 1], &fragment, &[64, protocol, 0, 0], &octets(from), &octets(to)];
    [&header.concat()[..], payload].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::octets(&v4).to_vec(),
        IpAddr::V6(v6) => Ipv6Addr::octets(&v6).to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actors() -> Actors {
        let address = |text: &str| text.parse().expect("an address");
        Actors {
            macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
            own: [address("10.0.0.2"), address("fd00::2")],
            peers: ["10.0.0.1", "fd00::1"].map(address).to_vec(),
            own_ports: vec![8080, 80],
            peer_ports: vec![1, 2],
            lengths: [14, 3000],
        }
    }

    #[test]
    fn a_seed_gives_the_same_frames_of_every_kind_and_length() {
        let frames = |seed| {
            let mut frames = Frames::new(seed, actors());
            (0..20_000).map(|_| frames.step(5)).collect::<Vec<_>>()
        };
        let steps = frames(1);
        assert!(steps == frames(1) && steps != frames(2));
        let lengths: Vec<usize> = steps.iter().map(|step| step.frame.len()).collect();
        assert_eq!((lengths.iter().min(), lengths.iter().max()), (Some(&14), Some(&3000)));
        for ethertype in ETHERTYPES {
            let found = steps.iter().filter(|step| step.frame[12..14] == ethertype.to_be_bytes()).count();
            assert!(found > 20, "{ethertype:#x}: {found}");
        }
        assert!((0..5).all(|program| steps.iter().any(|step| step.program == program)));
    }
}
