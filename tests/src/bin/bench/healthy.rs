//! A healthy pod's traffic through its veth: the programs attached to the host end with the gate shut, and not attached.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use isolate_common::names;
use isolate_tests::{
    agent::Agent,
    netdev,
    node::Node,
    program::{self, Place},
};

use crate::{
    cpu,
    crowd::{self, CrowdPod, NODE},
    micro,
    options::Options,
    report::{Report, Section, Table, figure, spread},
    stats::Series,
};

/// Datagrams of one sample; sent in portions that fit the receiver's buffer.
const DATAGRAMS: usize = 12_800;
const PORTION: usize = 64;
/// Bytes of one sample of a stream.
const STREAM_BYTES: usize = 64 << 20;
/// Requests of one sample.
const REQUESTS: u32 = 5_000;
const BYTES_PER_GIB: f64 = 1_073_741_824.0;

/// One way of using the network: its name in figures and tables, its unit, and the measurement (more is worse).
struct Use<'a> {
    name: &'static str,
    title: &'static str,
    run: Box<dyn Fn() -> f64 + 'a>,
}

/// Measures each use with the programs attached and without, in turns on the same veth.
pub(crate) fn run(options: &Options, report: &mut Report) {
    let node = Node::new();
    crowd::prepare(&node);
    let agent = Agent::new(&node);
    agent.run(&["status"]).expect(0);
    let pods = crowd::start(&node, 0, 1);
    let pod = &pods[0];
    let arm = Armed::prepare(&node, pod);
    let outside = node.netns().enter(|| UdpSocket::bind((NODE, crowd::PORT))).expect("the address is the node's");
    let uses = [
        Use {
            name: "udp_in",
            title: "UDP into the pod, 1400 bytes",
            run: Box::new(|| datagrams(&outside, &pod.udp, pod.end())),
        },
        Use {
            name: "udp_out",
            title: "UDP out of the pod, 1400 bytes",
            run: Box::new(|| datagrams(&pod.udp, &outside, (NODE, crowd::PORT).into())),
        },
        Use { name: "tcp_in", title: "TCP stream into the pod", run: Box::new(|| stream(&node, pod, true)) },
        Use { name: "tcp_out", title: "TCP stream out of the pod", run: Box::new(|| stream(&node, pod, false)) },
        Use { name: "udp_rr", title: "UDP request and answer, 1 byte", run: Box::new(|| requests(&outside, pod)) },
    ];
    let mut samples = vec![(Series::default(), Series::default()); uses.len()];
    for round in 0..options.healthy_rounds {
        for (used, (with, without)) in uses.iter().zip(&mut samples) {
            // Which comes first changes, so that neither gains by it.
            for armed in [round % 2 == 0, round % 2 == 1] {
                let _links = armed.then(|| arm.attach());
                let series = if armed { &mut *with } else { &mut *without };
                series.push((used.run)());
            }
        }
    }
    let mut table = Table::new(&["traffic", "not armed", "armed", "armed / not armed (throughput)", "spread"]);
    for (used, (with, without)) in uses.iter().zip(&samples) {
        // Both are times for the same work: the throughput is the inverse.
        let ratio = without.over(with);
        let text = |series: &Series| format!("{} {}", figure(series.median()), unit(used.name));
        let summary = ratio.summary();
        table.row([
            used.title.to_owned(),
            text(without),
            text(with),
            format!("{:.3}", summary.median),
            spread(summary),
        ]);
        report.figure(&format!("healthy.{}.armed", used.name), unit(used.name), with);
        report.figure(&format!("healthy.{}.not_armed", used.name), unit(used.name), without);
        report.figure(&format!("healthy.{}.throughput_ratio", used.name), "1", &ratio);
    }
    report.section(Section {
        title: "Healthy pods: traffic through the veth",
        text: format!(
            "What a core spends on a healthy pod's traffic (sender, both network stacks and receiver, all on one core), with \
             the programs on the host veth and the gate shut, and without them: {} rounds, in turns on the same veth. The \
             ratio is that of the throughputs of a core.",
            options.healthy_rounds
        ),
        tables: vec![table],
        ..Section::default()
    });
}

fn unit(name: &str) -> &'static str {
    match name {
        "tcp_in" | "tcp_out" => "s/GiB",
        "udp_rr" => "µs/request",
        _ => "ns/packet",
    }
}

/// The agent's programs, ready for the pod's host veth.
struct Armed<'a> {
    node: &'a Node,
    ifindex: u32,
    programs: [(Place, std::os::fd::OwnedFd); 2],
}

impl<'a> Armed<'a> {
    fn prepare(node: &'a Node, pod: &CrowdPod) -> Self {
        let pins = micro::pins(node);
        let programs = [
            (Place::TcxEgress, micro::open(&pins, names::VETH_IN)),
            (Place::TcxIngress, micro::open(&pins, names::VETH_OUT)),
        ];
        Self { node, ifindex: netdev::index(node.netns(), &pod.veth), programs }
    }

    /// Attaches them as the agent does, until the links are closed.
    fn attach(&self) -> Vec<std::os::fd::OwnedFd> {
        self.node.netns().enter(|| {
            let attach = |(place, program): &(Place, _)| program::attach_first(*place, self.ifindex, program);
            self.programs.iter().map(|one| attach(one).expect("the kernel has tcx")).collect()
        })
    }
}

/// Time per datagram from one socket into another one, received.
fn datagrams(from: &UdpSocket, to: &UdpSocket, address: SocketAddr) -> f64 {
    let payload = [0_u8; 1400];
    to.set_nonblocking(true).expect("a socket can be set so");
    let time = cpu::pinned(|| {
        let softirq = cpu::SoftirqThread::find();
        let elsewhere = || cpu::SoftirqThread::nanos(softirq.as_ref());
        let before = cpu::thread_nanos() + elsewhere();
        let mut buffer = [0_u8; 2048];
        let mut received = 0;
        for _ in 0..DATAGRAMS / PORTION {
            for _ in 0..PORTION {
                from.send_to(&payload, address).expect("a healthy pod sends");
            }
            while to.recv(&mut buffer).is_ok() {
                received += 1;
            }
        }
        let after = cpu::thread_nanos() + elsewhere();
        assert!(received > DATAGRAMS * 9 / 10, "{received} of {DATAGRAMS} datagrams arrived");
        after - before
    });
    time / crate::stats::number(DATAGRAMS)
}

/// Seconds of a core for a GiB from the node to the pod, or from the pod to the node.
fn stream(node: &Node, pod: &CrowdPod, into_pod: bool) -> f64 {
    let (listener, sender) = if into_pod {
        let listener = pod.enter(|| TcpListener::bind((pod.address, 0))).expect("the address is the pod's");
        let address = listener.local_addr().expect("it is bound");
        (listener, node.netns().enter(|| TcpStream::connect(address)))
    } else {
        let listener = node.netns().enter(|| TcpListener::bind((NODE, 0))).expect("the address is the node's");
        let address = listener.local_addr().expect("it is bound");
        (listener, pod.enter(|| TcpStream::connect(address)))
    };
    let mut sender = sender.expect("a healthy pod connects");
    let (mut receiver, _) = listener.accept().expect("a connection waits");
    let softirq = cpu::SoftirqThread::find();
    let elsewhere = || cpu::SoftirqThread::nanos(softirq.as_ref());
    let before = elsewhere();
    let time = thread::scope(|scope| {
        let receiving = scope.spawn(move || {
            cpu::pin(cpu::last());
            let start = cpu::thread_nanos();
            let mut buffer = vec![0_u8; 1 << 18];
            while receiver.read(&mut buffer).is_ok_and(|read| read > 0) {}
            cpu::thread_nanos() - start
        });
        let sending = scope.spawn(move || {
            cpu::pin(cpu::last());
            let start = cpu::thread_nanos();
            let block = vec![0_u8; 1 << 17];
            for _ in 0..STREAM_BYTES / block.len() {
                sender.write_all(&block).expect("a healthy pod's stream flows");
            }
            cpu::thread_nanos() - start
        });
        sending.join().expect("it ends") + receiving.join().expect("it ends")
    });
    (time + elsewhere() - before) / 1e9 * BYTES_PER_GIB / crate::stats::number(STREAM_BYTES)
}

/// Microseconds of a core for a request from the node and the pod's answer.
fn requests(outside: &UdpSocket, pod: &CrowdPod) -> f64 {
    let end = pod.end();
    for socket in [outside, &pod.udp] {
        socket.set_nonblocking(false).expect("a socket can be set so");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket can be set so");
    }
    let time = cpu::pinned(|| {
        let before = cpu::thread_nanos();
        let mut byte = [0_u8; 1];
        for _ in 0..REQUESTS {
            outside.send_to(&byte, end).expect("it is sent");
            let (_, from) = pod.udp.recv_from(&mut byte).expect("the request arrives");
            pod.udp.send_to(&byte, from).expect("it is sent");
            outside.recv(&mut byte).expect("the answer arrives");
        }
        cpu::thread_nanos() - before
    });
    time / 1e3 / f64::from(REQUESTS)
}
