//! What isolated pods' packets cost in each program, whether they are dropped or exempted.

use std::{
    fs,
    net::Ipv4Addr,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    thread,
};

use isolate_common::{
    Direction,
    names::{CGROUP_IN, CGROUP_OUT, GUARD, NETDEV_DROP, NETDEV_IN, NETDEV_OUT, VETH_IN, VETH_OUT, XDP_DROP, XDP_IN},
};
use isolate_tests::{
    agent::Agent,
    bpf, cgroup,
    frame::ethernet,
    netdev,
    node::Node,
    packet::{self, IPV4, UDP},
    pod::{Link, Pod, Spec},
    program,
};

use super::{NEXT, REPEAT, nanos, open, pins};
use crate::{
    options::Options,
    report::{Report, Section, Table, figure, spread},
    stats::Series,
};

/// What the pods with exemptions may talk to, and an address in it.
const ALLOWED: (&str, Ipv4Addr) = ("10.99.0.0/16", Ipv4Addr::new(10, 99, 0, 1));
/// An address that no pod may talk to.
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);

/// Measures each program, all in turns, on a node of its own.
pub(super) fn run(options: &Options, report: &mut Report) {
    let node = Node::new();
    let kubelet = node.service().display().to_string();
    let agent = Agent::new(&node).with_variable("ISOLATE_KUBELET_CGROUP", &kubelet);
    let [isolated, exempted] = [(); 2].map(|()| node.pod(&Spec { link: Link::Routed, ..Spec::default() }));
    agent.add(&[isolated.uid()]);
    agent.add(&[exempted.uid(), "--keep-probes", "--probe-port", "8080", "--allow", ALLOWED.0]);
    let no_macvlan = netdev::missing("macvlan");
    let macvlan = no_macvlan.is_none().then(|| node.pod(&Spec { link: Link::Macvlan, ..Spec::default() }));
    if let Some(pod) = &macvlan {
        // Partly covered: packet sockets see past the hook.
        agent.run(&["add", pod.uid()]);
    }

    let mut trials = Vec::new();
    for name in [CGROUP_IN, CGROUP_OUT, VETH_IN, VETH_OUT, NETDEV_DROP, XDP_DROP] {
        trials.push(Trial::attached(&node, Case { pod: &isolated, name, kind: "isolated", passes: false }));
    }
    if let Some(pod) = &macvlan {
        trials.push(Trial::attached(&node, Case { pod, name: NETDEV_OUT, kind: "macvlan", passes: false }));
    }
    for name in [CGROUP_IN, CGROUP_OUT, VETH_IN, VETH_OUT, NETDEV_IN, XDP_IN] {
        for passes in [false, true] {
            trials.push(Trial::attached(&node, Case { pod: &exempted, name, kind: "exempted", passes }));
        }
    }
    let case = Case { pod: &isolated, name: GUARD, kind: "verified", passes: true };
    trials.push(Trial::new(&node, case, guard(&agent, &isolated)));

    for _ in 0..options.micro_rounds {
        for trial in &mut trials {
            trial.sample(&node);
        }
    }
    let mut table = Table::new(&["program", "pod", "packet", "ns per packet", "spread", "bare program", "over it"]);
    for trial in &trials {
        trial.tell(&mut table, report);
    }
    report.section(Section {
        title: "Isolated pods: the programs alone",
        text: format!(
            "What a packet costs in each program, counting and all, against a program on the same hook that gives the same answer \
             and does nothing else (the floor). *isolated*: without exemptions, so no packet is read. *exempted*: with \
             `--allow` and `--keep-probes`, so each is; one that is dropped is looked up for both. *macvlan*: without a host \
             end, so what goes out is dropped inside. *verified*: while `verify` runs. {}",
            without(no_macvlan)
        ),
        tables: vec![table],
        ..Section::default()
    });
}

/// What is not in the table, and why.
fn without(macvlan: Option<String>) -> String {
    let netdev_out = macvlan.map_or_else(String::new, |why| format!("Not measured: {NETDEV_OUT} ({why}). "));
    let loaded =
        program::lsm_missing().map_or_else(String::new, |why| format!(" This kernel does not load them: {why}."));
    format!(
        "{netdev_out}The four LSM programs see calls of the pod's processes and no packets; no kernel has a test run for their type \
         (`lsm_prog_ops`, kernel/bpf/bpf_lsm.c).{loaded}"
    )
}

/// Packets of one kind in one program.
struct Case<'a> {
    pod: &'a Pod,
    /// The program's name.
    name: &'static str,
    /// What is special about the pod.
    kind: &'static str,
    /// Whether the packets are let go on.
    passes: bool,
}

impl Case<'_> {
    /// What the program is to answer.
    fn answer(&self) -> i32 {
        /// `TC_ACT_SHOT`, `XDP_DROP`, `XDP_PASS`.
        const SHOT: i32 = 2;
        const XDP: [i32; 2] = [1, 2];
        match self.name {
            CGROUP_IN | CGROUP_OUT => self.passes.into(),
            XDP_IN | XDP_DROP => XDP[usize::from(self.passes)],
            _ if self.passes => NEXT,
            _ => SHOT,
        }
    }

    /// A program on the same hook that does nothing but answer so.
    fn bare(&self) -> OwnedFd {
        let load = match self.name {
            CGROUP_IN | CGROUP_OUT => program::cgroup_filter,
            XDP_IN | XDP_DROP => program::xdp,
            _ => program::classifier,
        };
        load(self.answer()).expect("root may load a program of two instructions")
    }

    /// The agent's program. Those inside the pod are its own: they are not pinned, their links are, under names that tell the
    /// namespace.
    fn ours(&self, pins: &Path) -> OwnedFd {
        let (start, end) = match self.name {
            NETDEV_IN | NETDEV_DROP => ("netdev-", "-in"),
            NETDEV_OUT => ("netdev-", "-out"),
            XDP_IN | XDP_DROP => ("xdp-", "-in"),
            _ => return open(pins, self.name),
        };
        let namespace = fs::metadata(self.pod.netns().path()).expect("the pod's namespace has a name").ino();
        let namespace = format!("-{namespace}-");
        let is_it = |name: &str| name.starts_with(start) && name.contains(&namespace) && name.ends_with(end);
        let links = fs::read_dir(pins.join("links")).expect("the agent keeps its links there").flatten();
        let mut links = links.map(|link| link.path());
        let link = links.find(|link| link.file_name().is_some_and(|name| name.to_str().is_some_and(is_it)));
        bpf::program_of_link(&link.unwrap_or_else(|| panic!("{} is not attached inside the pod", self.name)))
    }

    /// A datagram between the pod and somebody, 64 bytes in all.
    fn frame(&self, node: &Node) -> Vec<u8> {
        let direction =
            if [CGROUP_OUT, VETH_OUT, NETDEV_OUT].contains(&self.name) { Direction::Out } else { Direction::In };
        let (pod, peer) = (self.pod.end(), if self.passes { ALLOWED.1 } else { STRANGER });
        let gateway = netdev::mac(node.netns(), host_end(self.pod));
        let datagram = packet::udp(5005, 5005, &[0; 22]);
        let packet = |from, to| packet::ipv4(from, to, UDP, &datagram);
        match direction {
            Direction::In => ethernet(pod.mac, gateway, IPV4, &packet(peer, pod.v4)),
            Direction::Out => ethernet(gateway, pod.mac, IPV4, &packet(pod.v4, peer)),
        }
    }
}

/// What the node reaches the pod by.
fn host_end(pod: &Pod) -> &str {
    pod.host_veths().first().map_or("cni0", String::as_str)
}

/// The guard of a verification of the pod, which is loaded only as long as that runs.
fn guard(agent: &Agent, pod: &Pod) -> OwnedFd {
    thread::scope(|scope| {
        let verifying = scope.spawn(|| agent.run(&["verify", pod.uid()]).expect(0));
        while !verifying.is_finished() {
            if let Some(guard) = bpf::program_named(GUARD) {
                return guard;
            }
        }
        panic!("`verify` loaded no guard")
    })
}

/// A program beside a bare one, and how long they took.
struct Trial<'a> {
    case: Case<'a>,
    ours: OwnedFd,
    bare: OwnedFd,
    frame: Vec<u8>,
    ifindex: u32,
    own: Series,
    floor: Series,
}

impl<'a> Trial<'a> {
    fn new(node: &Node, case: Case<'a>, ours: OwnedFd) -> Self {
        let (bare, frame) = (case.bare(), case.frame(node));
        let ifindex = netdev::index(node.netns(), host_end(case.pod));
        Self { case, ours, bare, frame, ifindex, own: Series::default(), floor: Series::default() }
    }

    /// Of a program that is attached for the pod.
    fn attached(node: &Node, case: Case<'a>) -> Self {
        let ours = case.ours(&pins(node));
        Self::new(node, case, ours)
    }

    /// One round.
    fn sample(&mut self, node: &Node) {
        for (series, program) in [(&mut self.floor, &self.bare), (&mut self.own, &self.ours)] {
            let run = || match self.case.name {
                XDP_IN | XDP_DROP => program::test_run_xdp(program.as_fd(), &self.frame, REPEAT),
                _ => program::test_run(program.as_fd(), &self.frame, self.ifindex, REPEAT),
            };
            series.push(within(self.case.pod.cgroup(), || nanos(node, self.case.answer(), run)));
        }
    }

    fn tell(&self, table: &mut Table, report: &mut Report) {
        let Case { name, kind, passes, .. } = self.case;
        let over = self.own.minus(&self.floor);
        let packet = if passes { "passed" } else { "dropped" };
        table.row([
            format!("`{name}`"),
            kind.to_owned(),
            packet.to_owned(),
            figure(self.own.median()),
            spread(self.own.summary()),
            figure(self.floor.median()),
            format!("{:+.1}", over.median()),
        ]);
        let name = format!("micro.{kind}.{name}.{packet}");
        report.figure(&name, "ns", &self.own);
        report.figure(&format!("{name}.over_bare"), "ns", &over);
    }
}

/// Runs something in a cgroup: a test run's packets belong to the cgroup of who runs it.
fn within<T: Send>(cgroup: &Path, run: impl FnOnce() -> T + Send) -> T {
    let own = fs::read_to_string("/proc/self/cgroup").expect("procfs is mounted");
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("this process is in the unified hierarchy");
    let own = cgroup::mount().join(own);
    let enter = |cgroup: &Path| {
        fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).expect("root may move itself");
    };
    // A pod-level cgroup holds processes only where no controller is passed on, as here.
    enter(cgroup);
    let result = run();
    enter(&own);
    result
}
