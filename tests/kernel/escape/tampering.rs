//! Tampering: an attacker changes the pod's network, or the node adds to it, and sends then.
//!
//! What an attacker changes is taken back after each channel. A frame shows whether the way is open, so that the cgroup hook
//! does not hide what happens to the one on the veth.

use std::{net::Ipv4Addr, process::Command, time::Duration};

use aya::programs::TcAttachType;
use isolate_tests::{
    bpf,
    feature::Feature,
    frame::{EXPERIMENT, Mac, Mark, ethernet},
    launch, netdev,
    packet::{IPV4, UDP, ipv4, udp},
    process::Process,
    wait,
    wire::{Hook, Raw, Request},
};

use super::{
    Escape, Halt, escape,
    l2::{experiment, experiment_on},
    rtnetlink,
    run::Setting::Changing,
    sockets::{datagram, v4},
    stage::{DISCARD, Stage, done},
};

const fn tampering(name: &'static str, attempt: fn(&Stage, &Mark) -> Result<bool, Halt>) -> Escape {
    escape(Changing, name, attempt)
}

pub(super) const ALL: &[Escape] = &[
    tampering("firewall rules flushed, then UDP", |s, mark| {
        for (program, arguments) in
            [("iptables", &["-w", "-F"][..]), ("ip6tables", &["-w", "-F"]), ("nft", &["flush", "ruleset"])]
        {
            s.run(program, arguments, "")?;
        }
        datagram(s, mark, v4(s, DISCARD))
    }),
    tampering("own firewall rules that accept, then UDP", |s, mark| {
        for chain in ["INPUT", "OUTPUT"] {
            s.run("iptables", &["-w", "-I", chain, "-j", "ACCEPT"], "")?;
        }
        let outcome = datagram(s, mark, v4(s, DISCARD));
        for chain in ["INPUT", "OUTPUT"] {
            s.run("iptables", &["-w", "-D", chain, "-j", "ACCEPT"], "")?;
        }
        outcome
    }),
    tampering("queueing disciplines of eth0 replaced and deleted", |s, mark| {
        s.run("tc", &["qdisc", "add", "dev", "eth0", "clsact"], "")?;
        s.run("tc", &["qdisc", "del", "dev", "eth0", "clsact"], "")?;
        s.run("tc", &["qdisc", "replace", "dev", "eth0", "root", "pfifo"], "")?;
        s.run("tc", &["qdisc", "del", "dev", "eth0", "root"], "")?;
        experiment(s, mark)
    }),
    tampering("own tc filter on eth0", |s, mark| {
        s.run("tc", &["qdisc", "add", "dev", "eth0", "clsact"], "")?;
        for direction in ["egress", "ingress"] {
            let filter = ["filter", "add", "dev", "eth0", direction, "bpf", "da", "bytecode", "1,6 0 0 0"];
            s.run("tc", &filter, "")?;
        }
        let outcome = experiment(s, mark);
        s.run("tc", &["qdisc", "del", "dev", "eth0", "clsact"], "")?;
        outcome
    }),
    tampering("own tcx program in front, on the way out (with CAP_BPF)", |s, mark| with_program(s, mark, Hook::TcOut)),
    tampering("own tcx program in front, on the way in (with CAP_BPF)", |s, mark| with_program(s, mark, Hook::TcIn)),
    tampering("own XDP program (with CAP_BPF)", |s, mark| with_program(s, mark, Hook::Xdp)),
    tampering("eth0 renamed", |s, mark| {
        let commands = ["link set eth0 down", "link set eth0 name evil0", "link set evil0 up"];
        changed(s, &commands, &["link set evil0 down", "link set evil0 name eth0"], |s| experiment_on(s, mark, "evil0"))
    }),
    tampering("eth0 with a new hardware address", |s, mark| {
        let old = format!("link set eth0 address {:?}", s.victim().mac);
        changed(s, &["link set eth0 address 02:15:0a:00:00:99"], &[&old], |s| experiment(s, mark))
    }),
    tampering("eth0 with another address and MTU", |s, mark| {
        let commands = ["addr add 10.88.0.250/24 dev eth0", "link set eth0 mtu 9000"];
        let back = ["addr del 10.88.0.250/24 dev eth0", "link set eth0 mtu 1500"];
        changed(s, &commands, &back, |s| experiment(s, mark))
    }),
    tampering("a default route through the neighbour", |s, mark| {
        let through = format!("route replace default via {}", s.neighbour().v4);
        changed(s, &[&through], &[], |s| datagram(s, mark, (Ipv4Addr::new(203, 0, 113, 9), DISCARD).into()))
    }),
    tampering("a macvlan on eth0", |s, mark| on_top(s, mark, "macvlan mode bridge")),
    tampering("an ipvlan on eth0", |s, mark| on_top(s, mark, "ipvlan mode l2")),
    tampering("a VLAN on eth0", |s, mark| on_top(s, mark, "vlan id 42")),
    tampering("a VXLAN through eth0", |s, mark| {
        let add = format!("link add top0 type vxlan id 42 remote {} dstport 4789 dev eth0", s.neighbour().v4);
        changed(s, &[&add, "link set top0 up"], &["link del top0"], |s| experiment_on(s, mark, "top0"))
    }),
    tampering("a bridge with eth0 as its port", |s, mark| {
        let commands = ["link add top0 type bridge forward_delay 0", "link set eth0 master top0", "link set top0 up"];
        changed(s, &commands, &["link set eth0 nomaster", "link del top0"], |s| experiment_on(s, mark, "top0"))
    }),
    tampering("a TUN device, and the pod forwards", tun),
    tampering("a nested namespace, and the pod forwards", nested),
    tampering("eth0 moved to a nested namespace", moved),
    tampering("a macvlan on an interface of the node (link-netnsid)", |s, mark| {
        let add = format!("link add far0 link-netnsid {} link if{} type macvlan mode bridge", s.node_id()?, s.bridge());
        changed(s, &[&add, "link set far0 up"], &["link del far0"], |s| experiment_on(s, mark, "far0"))
    }),
    tampering("a VXLAN that the node's namespace sends (link-netnsid)", |s, mark| {
        let to = s.neighbour().v4;
        let add = format!("link add far0 link-netnsid {} type vxlan id 42 remote {to} dstport 4789", s.node_id()?);
        changed(s, &[&add, "link set far0 up"], &["link del far0"], |s| experiment_on(s, mark, "far0"))
    }),
    tampering("a veth into the node's bridge (target-netnsid), used at once", |s, mark| {
        own_veth(s, |s| experiment_on(s, mark, "far0"))
    }),
    tampering("a veth into the node's bridge (target-netnsid), once the agent has had time", |s, mark| {
        own_veth(s, |s| {
            wait_for_the_hook(s);
            experiment_on(s, mark, "far0")
        })
    }),
    tampering("an interface that the node plugs in, once the agent has had time", |s, mark| {
        plugged_in(s, |s| {
            wait_for_the_hook(s);
            experiment_on(s, mark, "eth1")
        })
    }),
];

/// Far longer than one netlink event takes. Without an agent it is waited for in vain.
const ARMING: Duration = Duration::from_secs(1);
/// The host end of the interface that is plugged in.
const LATE: &str = "late0";

fn with_program(s: &Stage, mark: &Mark, hook: Hook) -> Result<bool, Halt> {
    if let (Hook::TcIn | Hook::TcOut, Some(missing)) = (hook, Feature::Tcx.missing()) {
        return Err(Halt::Missing(missing));
    }
    let request = Request::Raw(Raw::Program(hook, "eth0".to_owned()));
    let link = done(&request, s.programmer.call(&request))?;
    let outcome = experiment(s, mark);
    s.programmer.call(&Request::Close(link.handle.expect("it makes a link")));
    outcome
}

/// Carries out `ip` commands as the attacker, tries, and takes them back.
fn changed(
    s: &Stage,
    commands: &[&str],
    back: &[&str],
    attempt: impl FnOnce(&Stage) -> Result<bool, Halt>,
) -> Result<bool, Halt> {
    let owned = |commands: &[&str]| commands.iter().map(ToString::to_string).collect::<Vec<_>>();
    let outcome = s.ip(&owned(commands)).and_then(|()| {
        s.settle();
        attempt(s)
    });
    s.restore(&owned(back));
    outcome
}

fn on_top(s: &Stage, mark: &Mark, kind: &str) -> Result<bool, Halt> {
    let add = format!("link add top0 link eth0 type {kind}");
    changed(s, &[&add, "link set top0 up"], &["link del top0"], |s| experiment_on(s, mark, "top0"))
}

/// Packets that enter the pod's stack as if they came from outside are forwarded, and no socket sends them.
pub(super) fn tun(s: &Stage, mark: &Mark) -> Result<bool, Halt> {
    let tun = s.make(&Request::Raw(Raw::Tun("tun15".to_owned())))?;
    s.ip(&["addr add 172.31.9.1/30 dev tun15".to_owned(), "link set tun15 up".to_owned()])?;
    let packet = ipv4([172, 31, 9, 2].into(), s.neighbour().v4, UDP, &udp(DISCARD, DISCARD, mark.bytes()));
    s.raw(Raw::Send { socket: tun, flags: 0, to: None, data: packet })?;
    Ok(s.arrives(mark))
}

/// A process in a network namespace of its own, inside the pod's, as a user namespace lets everybody make one.
fn inner(s: &Stage) -> Process {
    let mut unshare = s.scene.web.command("unshare");
    unshare.args(["--user", "--map-root-user", "--net"]);
    let process = Process::behind(unshare);
    // It answers once it is where it should be.
    process.call(&Request::Raw(Raw::Open { domain: libc::AF_UNIX, style: libc::SOCK_DGRAM, protocol: 0 }));
    process
}

/// `ip` commands in the namespace of a process.
fn ip_of(process: &Process, commands: &[&str]) {
    for command in commands {
        let target = process.pid().to_string();
        let arguments = ["--target", &target, "--net", "ip"].into_iter().chain(command.split(' '));
        launch::succeed(Command::new("nsenter").args(arguments));
    }
}

fn frame_of(process: &Process, frame: &[u8]) {
    process.packet("eth0", TIMEOUT).send(frame);
}

const TIMEOUT: Duration = Duration::from_millis(100);

fn nested(s: &Stage, mark: &Mark) -> Result<bool, Halt> {
    let inner = inner(s);
    let add = format!("link add nest0 type veth peer name eth0 netns {}", inner.pid());
    let commands = [&add, "addr add 172.31.8.1/30 dev nest0", "link set nest0 up"];
    changed(s, &commands, &["link del nest0"], |s| {
        ip_of(&inner, &["link set eth0 up"]);
        let to = netdev::mac(s.scene.web.netns(), "nest0");
        let packet = ipv4([172, 31, 8, 2].into(), s.neighbour().v4, UDP, &udp(DISCARD, DISCARD, mark.bytes()));
        frame_of(&inner, &ethernet(to, s.victim().mac, IPV4, &packet));
        Ok(s.arrives(mark))
    })
}

fn moved(s: &Stage, mark: &Mark) -> Result<bool, Halt> {
    let inner = inner(s);
    s.ip(&[format!("link set eth0 netns {}", inner.pid())])?;
    ip_of(&inner, &["link set eth0 up"]);
    s.settle();
    frame_of(&inner, &ethernet(Mac::BROADCAST, s.victim().mac, EXPERIMENT, mark.bytes()));
    let arrived = s.arrives(mark);
    let pod = s.scene.web.netns().name();
    ip_of(&inner, &[&format!("link set eth0 netns {pod}")]);
    s.restore(&[]);
    Ok(arrived)
}

/// With a veth that the attacker makes, whose outer end is a port of the node's bridge.
fn own_veth(s: &Stage, attempt: impl FnOnce(&Stage) -> Result<bool, Halt>) -> Result<bool, Halt> {
    let id = s.node_id()?.parse().expect("an id is a number");
    let made = rtnetlink::veth_into(&s.attacker, id, LATE, Some(s.bridge()), "far0")
        .and_then(|()| rtnetlink::up(&s.attacker, "far0"));
    let outcome = made.and_then(|()| attempt(s));
    s.restore(&["link del far0".to_owned()]);
    outcome
}

/// Until the agent has attached to the host end that appeared; without one for a while.
fn wait_for_the_hook(s: &Stage) {
    let node = s.scene.node.netns();
    wait::happens_within(ARMING, || !bpf::programs(node, LATE, TcAttachType::Ingress).is_empty());
}

fn plugged_in(s: &Stage, attempt: impl FnOnce(&Stage) -> Result<bool, Halt>) -> Result<bool, Halt> {
    let (node, pod) = (s.scene.node.netns(), s.scene.web.netns());
    netdev::ip(
        node,
        &[
            format!("link add {LATE} type veth peer name eth1 netns {}", pod.name()),
            format!("link set {LATE} up master cni0"),
        ],
    );
    netdev::ip(pod, &["link set eth1 up".to_owned()]);
    let outcome = attempt(s);
    netdev::ip(node, &[format!("link del {LATE}")]);
    outcome
}
