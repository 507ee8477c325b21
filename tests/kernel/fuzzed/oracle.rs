//! What the programs must say of a pod with exemptions: the pure functions of `isolate-common`, put together anew and without maps.

use std::{collections::BTreeMap, path::Path};

use aya::maps::{Array, HashMap, Map, MapData};
use isolate_agent::allow::{self, Allow, Compiled};
use isolate_common::{
    AllowKey, AllowRules, Direction, Flow, FlowKey, Hook, LinkFacts, NodeFacts, Policy, PolicyFlags, Question,
    WINDOW_BYTES, WINDOW_PACKETS, arp_question, calls, mapped, names, nd_question,
    packet::{Packet, Source},
    state,
};
use isolate_tests::fuzz::Step;

use super::{CGROUP_DROP, CGROUP_PASS, Loaded, NEXT, REDIRECT, SHOT, XDP_DROP, XDP_PASS};

const ETHERNET: usize = 14;
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// A packet in memory.
struct Bytes<'a>(&'a [u8]);

impl Source for Bytes<'_> {
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..offset + N)?.try_into().ok()
    }

    fn length(&self) -> u32 {
        u32::try_from(self.0.len()).expect("a frame is short")
    }
}

/// Says what a program must, and keeps the connections of the probes as the kernel does.
pub(super) struct Oracle {
    slot: u32,
    facts: LinkFacts,
    policy: Policy,
    allowed: Compiled,
    flows: BTreeMap<Ends, Flow>,
    /// The kernel's own.
    kept: HashMap<MapData, FlowKey, Flow>,
    /// Frames and bytes of all of them, each way.
    spent: ([u64; 2], [u64; 2]),
    kubelet: bool,
    /// How often each answer was given.
    given: BTreeMap<(&'static str, &'static str, u8), u64>,
    states: BTreeMap<u64, u64>,
}

/// The ends of a connection, in an order: addresses, then ports.
type Ends = ([u8; 16], [u8; 16], u16, u16);

impl Oracle {
    pub(super) fn new(pins: &Path, ifindex: u32, allowed: &[&str], probed: u16) -> Self {
        let open = |name| MapData::from_pin(pins.join("maps").join(name)).expect("the agent has pinned it");
        let keys: HashMap<_, u32, u32> = Map::HashMap(open(names::IFINDEX)).try_into().expect("a hash of keys");
        let links: HashMap<_, u32, LinkFacts> = Map::HashMap(open(names::LINK)).try_into().expect("a hash of links");
        let node: Array<_, NodeFacts> = Map::Array(open(names::NODE)).try_into().expect("an array");
        let node = node.get(&0, 0).expect("it has one value");
        assert!(node.kubelet != 0 && node.mark != 0, "kubelet was not found: {node:?}");
        let allowed: Vec<Allow> = allowed.iter().map(|text| text.parse().expect("the agent has taken it")).collect();
        let mut policy = Policy { in_use: 1, flags: PolicyFlags::EXEMPTIONS, ..Policy::default() };
        policy.probe_ports[0] = probed;
        Self {
            slot: keys.get(&ifindex, 0).expect("the veth is keyed"),
            facts: links.get(&ifindex, 0).expect("the agent knows both sides"),
            policy,
            allowed: allow::compile(&allowed).expect("the agent has taken it"),
            flows: BTreeMap::new(),
            kept: Map::LruHashMap(open(names::FLOW)).try_into().expect("a hash of connections"),
            spent: Default::default(),
            kubelet: false,
            given: BTreeMap::new(),
            states: BTreeMap::new(),
        }
    }

    /// Forgets every connection, and has the kernel forget it: after a minute one ends by a clock that nobody has here.
    pub(super) fn forget(&mut self) {
        self.flows.clear();
        let known: Vec<FlowKey> = self.kept.keys().collect::<Result<_, _>>().expect("the kernel's keys can be read");
        for key in known {
            self.kept.remove(&key).expect("it was there just now");
        }
    }

    /// Whose frames the next ones are.
    pub(super) const fn sent_by_kubelet(&mut self, kubelet: bool) {
        self.kubelet = kubelet;
    }

    pub(super) fn verdict(&mut self, program: &Loaded, step: &Step) -> u8 {
        let (frame, direction) = (Bytes(&step.frame), program.direction);
        let verdict = match program.hook {
            Hook::Cgroup => {
                let packet = step.frame.get(ETHERNET..).unwrap_or_default();
                let packet = Packet::read(&Bytes(packet), 0, direction);
                if packet.is_some_and(|packet| self.fits(&packet, direction)) { CGROUP_PASS } else { CGROUP_DROP }
            }
            Hook::Netdev => match self.netdev(&frame, direction) {
                NEXT if program.is_xdp => XDP_PASS,
                SHOT if program.is_xdp => XDP_DROP,
                verdict => verdict,
            },
            _ => self.veth(&frame, step, direction),
        };
        let hook = if program.is_xdp { "xdp" } else { program.hook.name() };
        *self.given.entry((hook, direction.name(), verdict)).or_default() += 1;
        verdict
    }

    fn netdev(&self, frame: &Bytes<'_>, direction: Direction) -> u8 {
        if direction == Direction::Out {
            return SHOT;
        }
        let answer = match kind(frame) {
            Some(Kind::Arp) => frame.0[14..22] == [0, 1, 8, 0, 6, 4, 0, 2],
            Some(Kind::Nd) => frame.0[54..56] == [136, 0] && frame.0[78..80] == [2, 1],
            None => false,
        };
        let passes = answer || ip(frame, direction).is_some_and(|packet| self.fits(&packet, direction));
        if passes { NEXT } else { SHOT }
    }

    fn veth(&mut self, frame: &Bytes<'_>, step: &Step, direction: Direction) -> u8 {
        let exempt = ip(frame, direction).is_some_and(|packet| {
            let allowed = self.allows(&packet, direction);
            (allowed && (direction == Direction::In || self.is_from_pod(&packet)))
                || (!allowed && self.is_probe(&packet, step, direction))
        });
        // What leaves is handed to the node, and must come from the hardware address that is the pod's alone.
        let is_own = || self.facts.has_sole_mac() && frame.bytes::<6>(6) == Some(self.facts.pod);
        if exempt && (direction == Direction::In || is_own()) {
            return NEXT;
        }
        let question = match kind(frame) {
            Some(Kind::Arp) => arp_question(frame),
            Some(Kind::Nd) => nd_question(frame),
            None => None,
        };
        if question.is_some_and(|question| self.answers(question, frame, step, direction)) { REDIRECT } else { SHOT }
    }

    fn answers(&self, question: Question, frame: &Bytes<'_>, step: &Step, direction: Direction) -> bool {
        let is_own = self.facts.addresses.contains(&question.target) && question.target != [0; 16];
        let is_sole = self.is_sole(&question.target);
        let v6 = matches!(kind(frame), Some(Kind::Nd));
        match direction {
            Direction::In => {
                let asker = Packet { v6, peer: question.asker, ..Packet::default() };
                is_sole && (!step.forwarded || self.rules(&asker).is_some())
            }
            Direction::Out => !is_own,
        }
    }

    /// Whether the pod has an address, and nobody else does.
    fn is_sole(&self, address: &[u8; 16]) -> bool {
        let places = self.facts.addresses.iter().enumerate().filter(|(_, own)| *own == address);
        let marked = places.filter(|(place, _)| self.facts.sole & 1 << place != 0).count() > 0;
        marked && self.facts.sole & LinkFacts::HARDWARE != 0 && *address != [0; 16]
    }

    /// Whether a packet has such an address, of its own family.
    fn is_from_pod(&self, packet: &Packet) -> bool {
        let [.., a, b, c, d] = packet.own;
        let is_mapped = packet.own[..12] == mapped([0; 4])[..12];
        if packet.v6 { !is_mapped && self.is_sole(&packet.own) } else { self.is_sole(&mapped([a, b, c, d])) }
    }

    fn fits(&self, packet: &Packet, direction: Direction) -> bool {
        let follows = || self.flows.get(&ends(packet)).is_some_and(|flow| flow.after(packet, direction, 0).is_some());
        self.allows(packet, direction) || (self.policy.is_probed(packet.own_port) && follows())
    }

    fn allows(&self, packet: &Packet, direction: Direction) -> bool {
        self.rules(packet).is_some_and(|rules| rules.allow(packet, direction))
    }

    /// Those of the longest range that the other side is in.
    fn rules(&self, packet: &Packet) -> Option<&AllowRules> {
        let (_, wanted) = AllowKey::of(self.slot, packet);
        let number = |key: &AllowKey| u128::from_be_bytes(key.address);
        let covers = |(bits, key): (u32, AllowKey)| {
            let prefix = bits - AllowKey::bits(0);
            let differs = number(&key) ^ number(&wanted);
            (key.family == wanted.family && differs.leading_zeros() >= prefix).then_some(prefix)
        };
        let found = self.allowed.iter().filter_map(|(range, rules)| Some((covers(range.key(self.slot))?, rules)));
        found.max_by_key(|(prefix, _)| *prefix).map(|(_, rules)| rules)
    }

    /// As the host end decides, which opens connections and counts what passes.
    fn is_probe(&mut self, packet: &Packet, step: &Step, direction: Direction) -> bool {
        if !self.policy.is_probed(packet.own_port) {
            return false;
        }
        if direction == Direction::In {
            if step.forwarded || ((calls(packet) || packet.payload != 0) && !self.kubelet) {
                return false;
            }
            let waits = |flow: &Flow| flow.after(packet, direction, 0) == Some(state::CALLED);
            if calls(packet) && !self.flows.get(&ends(packet)).is_some_and(waits) {
                self.flows.insert(ends(packet), Flow::called(0));
            }
        }
        let Some(flow) = self.flows.get_mut(&ends(packet)) else { return false };
        let Some(after) = flow.after(packet, direction, 0) else { return false };
        let (at, bytes) = (direction as usize, u64::try_from(step.frame.len()).expect("a frame is short"));
        flow.passed.packets[at] += 1;
        flow.passed.bytes[at] += bytes;
        if !Flow::is_within_budget(&flow.passed, direction) {
            return false;
        }
        self.spent.0[at] += 1;
        self.spent.1[at] += bytes;
        // Windows begin by the clock, which nobody knows here to the frame: none of them is ever full.
        assert!(
            self.spent.0[at] < WINDOW_PACKETS && self.spent.1[at] < WINDOW_BYTES,
            "too many probes: {:?}",
            self.spent
        );
        flow.state = after;
        *self.states.entry(after).or_default() += 1;
        true
    }

    /// Both answers were expected of every program, and a connection came to each of its states.
    pub(super) fn assert_telling(&self) {
        eprintln!("{:?}, states {:?}", self.given, self.states);
        for (hook, direction, verdicts) in [
            ("veth", "in", &[NEXT, SHOT, REDIRECT][..]),
            ("veth", "out", &[NEXT, SHOT, REDIRECT]),
            ("netdev", "in", &[NEXT, SHOT]),
            ("xdp", "in", &[XDP_PASS, XDP_DROP]),
            ("cgroup", "in", &[CGROUP_PASS, CGROUP_DROP]),
            ("cgroup", "out", &[CGROUP_PASS, CGROUP_DROP]),
        ] {
            for verdict in verdicts {
                let given = self.given.get(&(hook, direction, *verdict)).copied().unwrap_or_default();
                assert!(given >= 20, "{hook} {direction} said {verdict} {given} times");
            }
        }
        for state in [state::CALLED, state::ANSWERED, state::OPEN, state::CLOSED] {
            assert!(self.states.contains_key(&state), "no connection came to state {state}");
        }
    }
}

/// A frame of the type and length of a question for a hardware address, or of its answer.
enum Kind {
    Arp,
    Nd,
}

fn kind(frame: &Bytes<'_>) -> Option<Kind> {
    match (frame.bytes::<2>(12)?, frame.0.len()) {
        (ARP, isolate_common::ARP_FRAME) => Some(Kind::Arp),
        (IPV6, isolate_common::ND_FRAME) => Some(Kind::Nd),
        _ => None,
    }
}

/// The packet of a frame that has one of the version that its type says.
fn ip(frame: &Bytes<'_>, direction: Direction) -> Option<Packet> {
    match frame.bytes::<3>(12)? {
        [0x08, 0x00, version] if version >> 4 == 4 => {}
        [0x86, 0xdd, version] if version >> 4 == 6 => {}
        _ => return None,
    }
    Packet::read(frame, ETHERNET, direction)
}

const fn ends(packet: &Packet) -> Ends {
    let FlowKey { peer, own, peer_port, own_port, .. } = FlowKey::of(0, packet);
    (peer, own, peer_port, own_port)
}
