//! The programs alone: time per packet by `BPF_PROG_TEST_RUN`, against a program on the same hook that does nothing.

mod isolated;

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use aya::maps::{Array, HashMap, Map, MapData};
use isolate_common::{Near, PLACES, gate_for, names};
use isolate_tests::{agent::Agent, node::Node, program};

use crate::{
    cpu,
    options::Options,
    report::{Report, Section, Table, figure, spread},
    stats::Series,
};

/// `TC_ACT_UNSPEC`.
const NEXT: i32 = -1;
/// Runs of a program in one sample.
const REPEAT: u32 = 100_000;
/// How many pods are isolated, beside the one whose packets are measured.
pub(crate) const OTHERS: [u32; 4] = [0, 1, 100, 1000];
/// The interface that a healthy pod's packets are said to come from: there is one of this index everywhere.
const HEALTHY: u32 = 1;
/// Where the keys of those begin: no interface has such an index. The first has the healthy pod's place in the table.
const STRANGERS: u32 = HEALTHY + 100 * PLACES;

/// Measures healthy pods' packets on the veth hook, then isolated pods' packets in every program.
pub(crate) fn run(options: &Options, report: &mut Report) {
    let node = Node::new();
    let agent = Agent::new(&node);
    agent.run(&["status"]).expect(0);
    let pins = pins(&node);
    let empty = program::classifier(NEXT).expect("root may load a program of two instructions");
    let mut maps = Maps::open(&pins);
    let sample =
        |program: &OwnedFd| nanos(&node, NEXT, || program::test_run(program.as_fd(), &[0; 64], HEALTHY, REPEAT));

    let hooks = [("veth in", names::VETH_IN), ("veth out", names::VETH_OUT)];
    let mut hooks = hooks.map(|(name, pin)| (name, open(&pins, pin), OTHERS.map(|_| Series::default())));
    let mut floor = Series::default();
    for _ in 0..options.micro_rounds {
        floor.push(sample(&empty));
        for (number, others) in OTHERS.into_iter().enumerate() {
            maps.isolate(others);
            for (_, ours, samples) in &mut hooks {
                samples[number].push(sample(ours));
            }
        }
        maps.isolate(0);
    }
    let mut table = Table::new(&["hook", "isolated", "ns per packet", "spread", "empty program", "over it"]);
    for (name, _, samples) in &hooks {
        for (series, others) in samples.iter().zip(OTHERS) {
            let over = series.minus(&floor);
            let isolated = if others == 0 { "nobody (gate shut)".to_owned() } else { format!("{others} others") };
            table.row([
                (*name).to_owned(),
                isolated,
                figure(series.median()),
                spread(series.summary()),
                figure(floor.median()),
                format!("{:+.1}", over.median()),
            ]);
            let name = format!("micro.{}.{others}_isolated", name.replace(' ', "_"));
            report.figure(&name, "ns", series);
            report.figure(&format!("{name}.over_empty"), "ns", &over);
        }
    }
    report.section(Section {
        title: "Healthy pods: the programs alone",
        text: format!(
            "Time per packet by `BPF_PROG_TEST_RUN` ({REPEAT} packets a sample, {} rounds), against a program of two \
             instructions on the same hook. A healthy pod carries the veth hook, when it is armed, and nothing else: its \
             cgroup and its own interfaces have no program. With the gate shut a packet costs one load, with the gate \
             open an array read more, however many others are isolated, unless two of those share its place in the table of interfaces.",
            options.micro_rounds
        ),
        tables: vec![table],
        ..Section::default()
    });
    isolated::run(options, report);
}

/// Time per packet of one sample, on this thread's core. A program that answers otherwise is not what is to be measured.
fn nanos(node: &Node, answer: i32, run: impl FnOnce() -> io::Result<u32> + Send) -> f64 {
    node.netns().enter(|| {
        cpu::pin(cpu::last());
        let before = cpu::thread_nanos();
        let answered = run().expect("the kernel runs it");
        let nanos = cpu::thread_nanos() - before;
        assert_eq!(answered.cast_signed(), answer, "the program's answer");
        nanos / f64::from(REPEAT)
    })
}

/// The maps that decide how far a healthy pod's packet gets.
struct Maps {
    gate: Array<MapData, u32>,
    ifindex: HashMap<MapData, u32, u32>,
    near: Array<MapData, Near>,
    isolated: u32,
}

impl Maps {
    fn open(pins: &std::path::Path) -> Self {
        let open = |name| MapData::from_pin(pins.join("maps").join(name)).expect("the agent has pinned it");
        Self {
            gate: Map::Array(open(names::GATE)).try_into().expect("the gate is an array"),
            ifindex: Map::HashMap(open(names::IFINDEX)).try_into().expect("the keys are in a hash"),
            near: Map::Array(open(names::NEAR_VETH)).try_into().expect("the table is an array"),
            isolated: 0,
        }
    }

    /// So many others are isolated.
    fn isolate(&mut self, others: u32) {
        let put = |near: &mut Array<_, _>, ifindex: u32, value| {
            near.set(Near::place(ifindex.into()), value, 0).expect("every ifindex has a place");
        };
        for ifindex in (others..self.isolated).map(|number| STRANGERS + number) {
            self.ifindex.remove(&ifindex).expect("it was put there");
            put(&mut self.near, ifindex, Near::NOBODY);
        }
        for number in self.isolated..others {
            let (ifindex, slot) = (STRANGERS + number, number + 1);
            self.ifindex.insert(ifindex, slot, 0).expect("there is room");
            put(&mut self.near, ifindex, Near::of([(ifindex.into(), slot)]));
        }
        self.isolated = others;
        let gate = gate_for((others > 0).then_some(Some(3)).into_iter());
        self.gate.set(0, gate, 0).expect("the gate can be written");
    }
}

/// The folder of the agent's pins.
pub(crate) fn pins(node: &Node) -> PathBuf {
    node.folder().join("bpf/isolate-agent").join(format!("v{}", isolate_common::LAYOUT_VERSION))
}

/// One of the agent's pinned programs.
pub(crate) fn open(pins: &std::path::Path, name: &str) -> OwnedFd {
    program::open_pin(&pins.join("programs").join(name)).expect("the agent has pinned it")
}
