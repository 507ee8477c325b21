//! The programs alone: time per packet by `BPF_PROG_TEST_RUN`, against a program on the same hook that does nothing.

use std::{
    fs,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use aya::maps::{Array, HashMap, Map, MapData};
use isolate_common::{Near, PLACES, gate_for, names};
use isolate_tests::{agent::Agent, bpf, netdev, node::Node, program};

use crate::{
    cpu, crowd,
    options::Options,
    report::{Report, Section, Table, figure, spread},
    stats::Series,
};

/// Runs of a program in one sample.
const REPEAT: u32 = 100_000;
/// How many pods are isolated, beside the one whose packets are measured.
pub(crate) const OTHERS: [u32; 4] = [0, 1, 100, 1000];
/// The interface that a healthy pod's packets are said to come from: there is one of this index everywhere.
const HEALTHY: u32 = 1;
/// Where the keys of those begin: no interface has such an index. The first has the healthy pod's place in the table.
const STRANGERS: u32 = HEALTHY + 100 * PLACES;

/// Measures healthy pods' packets on the veth hook, then isolated pods' packets on every hook.
pub(crate) fn run(options: &Options, report: &mut Report) {
    let node = Node::new();
    crowd::prepare(&node);
    let agent = Agent::new(&node);
    agent.run(&["status"]).expect(0);
    let pins = pins(&node);
    let empty = Empty::load();
    let mut maps = Maps::open(&pins);

    let mut table = Table::new(&["hook", "isolated", "ns per packet", "spread", "empty program", "over it"]);
    for (name, pin) in [("veth in", names::VETH_IN), ("veth out", names::VETH_OUT)] {
        let ours = open(&pins, pin);
        let mut samples: Vec<Series> = vec![Series::default(); OTHERS.len() + 1];
        for _ in 0..options.micro_rounds {
            samples[0].push(cpu::pinned(|| nanos(&node, &empty.classifier, HEALTHY)));
            for (series, others) in samples[1..].iter_mut().zip(OTHERS) {
                maps.isolate(others);
                series.push(cpu::pinned(|| nanos(&node, &ours, HEALTHY)));
            }
            maps.isolate(0);
        }
        for (series, others) in samples[1..].iter().zip(OTHERS) {
            let over = series.minus(&samples[0]);
            let (summary, over_summary) = (series.summary(), over.summary());
            let isolated = if others == 0 { "nobody (gate shut)".to_owned() } else { format!("{others} others") };
            table.row([
                name.to_owned(),
                isolated,
                figure(summary.median),
                spread(summary),
                figure(samples[0].median()),
                format!("{:+.1}", over_summary.median),
            ]);
            report.figure(&format!("micro.{}.{others}_isolated", name.replace(' ', "_")), "ns", series);
            report.figure(&format!("micro.{}.{others}_isolated.over_empty", name.replace(' ', "_")), "ns", &over);
        }
    }
    let drops = isolated(options, report, &node, &agent, &empty);
    report.section(Section {
        title: "Healthy pods: the programs alone",
        text: format!(
            "Time per packet by `BPF_PROG_TEST_RUN` ({REPEAT} packets a sample, {} rounds), against a program of two \
             instructions on the same hook. A healthy pod carries the veth hook, when it is armed, and nothing else: its \
             cgroup and its own interfaces have no program. With the gate shut a packet costs one array read, with the gate \
             open two, however many others are isolated, unless two of those share its place in the table of interfaces.",
            options.micro_rounds
        ),
        tables: vec![table],
        ..Section::default()
    });
    report.section(Section {
        title: "Isolated pods: the programs alone",
        text: "What dropping and counting a packet costs in each program, against a program on the same hook that only drops \
               (the floor)."
            .to_owned(),
        tables: vec![drops],
        ..Section::default()
    });
}

/// Of an isolated pod.
fn isolated(options: &Options, report: &mut Report, node: &Node, agent: &Agent, empty: &Empty) -> Table {
    let pods = crowd::start(node, 0, 1);
    let pod = &pods[0];
    agent.add(&[&pod.uid]);
    let (pins, ifindex) = (pins(node), netdev::index(node.netns(), &pod.veth));
    let programs = [
        ("cgroup in", open(&pins, names::CGROUP_IN), &empty.cgroup_drop),
        ("cgroup out", open(&pins, names::CGROUP_OUT), &empty.cgroup_drop),
        ("veth in", open(&pins, names::VETH_IN), &empty.drop),
        ("veth out", open(&pins, names::VETH_OUT), &empty.drop),
        ("netdev in", netdev_in(&pins), &empty.drop),
    ];
    let mut table = Table::new(&["hook", "ns per packet", "spread", "bare drop", "over it"]);
    for (name, ours, bare) in programs {
        let (mut own, mut floor) = (Series::default(), Series::default());
        for _ in 0..options.micro_rounds {
            floor.push(within(pod.cgroup().into(), || nanos(node, bare, ifindex)));
            own.push(within(pod.cgroup().into(), || nanos(node, &ours, ifindex)));
        }
        let over = own.minus(&floor);
        let floor = figure(floor.median());
        let over_text = format!("{:+.1}", over.median());
        table.row([name.to_owned(), figure(own.median()), spread(own.summary()), floor, over_text]);
        report.figure(&format!("micro.drop.{}", name.replace(' ', "_")), "ns", &own);
        report.figure(&format!("micro.drop.{}.over_bare", name.replace(' ', "_")), "ns", &over);
    }
    agent.remove(&[&pod.uid]);
    table
}

/// The netdev program of the one isolated pod: it is not pinned, its link is.
fn netdev_in(pins: &std::path::Path) -> OwnedFd {
    let links = fs::read_dir(pins.join("links")).expect("the agent keeps its links there").flatten();
    let is_it = |name: &str| name.starts_with("netdev-") && name.ends_with("-in");
    let link = links
        .map(|link| link.path())
        .find(|link| link.file_name().is_some_and(|name| name.to_str().is_some_and(is_it)));
    bpf::program_of_link(&link.expect("the netdev hook is attached inside the pod"))
}

/// Programs of two instructions.
struct Empty {
    classifier: OwnedFd,
    drop: OwnedFd,
    cgroup_drop: OwnedFd,
}

impl Empty {
    fn load() -> Self {
        const NEXT: i32 = -1;
        const SHOT: i32 = 2;
        let loaded = "root may load a program of two instructions";
        Self {
            classifier: program::classifier(NEXT).expect(loaded),
            drop: program::classifier(SHOT).expect(loaded),
            cgroup_drop: program::cgroup_filter(0).expect(loaded),
        }
    }
}

/// Time per packet of one sample, on this thread's core.
fn nanos(node: &Node, program: &OwnedFd, ifindex: u32) -> f64 {
    let frame = [0_u8; 64];
    node.netns().enter(|| {
        cpu::pin(cpu::last());
        let before = cpu::thread_nanos();
        program::test_run(program.as_fd(), &frame, ifindex, REPEAT).expect("the kernel runs it");
        (cpu::thread_nanos() - before) / f64::from(REPEAT)
    })
}

/// Runs something in a cgroup: a test run's packets belong to the cgroup of who runs it.
fn within<T: Send>(cgroup: PathBuf, run: impl FnOnce() -> T + Send) -> T {
    let own = fs::read_to_string("/proc/self/cgroup").expect("procfs is mounted");
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("this process is in the unified hierarchy");
    let own = isolate_tests::cgroup::mount().join(own);
    let enter = |cgroup: PathBuf| {
        fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).expect("root may move itself");
    };
    // A pod-level cgroup holds processes only where no controller is passed on, as here.
    enter(cgroup);
    let result = run();
    enter(own);
    result
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
