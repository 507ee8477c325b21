//! An isolated pod that says it is somebody else: with another's address or hardware address, taken before the cut or after.
//! Each is shown on a healthy pod first.

use std::{net::IpAddr, time::Duration};

use isolate_tests::{
    channel::{Channel, End, Path},
    frame::{Mac, Mark, echo_request, ethernet},
    netdev,
    netns::Netns,
    observe::{Frame, Observer},
    packet::{IPV4, IPV6, icmpv6, ipv4, ipv6},
    pod::{Pod, Spec},
    process::Process,
    wait,
    wire::{Family, Kind},
};

use crate::scene::Scene;

const BRIEF: Duration = Duration::from_millis(300);
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
/// Fields of an ARP frame: the operation, and whose address it tells.
const ARP_REPLY: (usize, [u8; 2]) = (20, [0, 2]);
const ARP_SENDER: usize = 28;
/// Fields of a neighbour advertisement.
const ND_ADVERTISEMENT: (usize, [u8; 2]) = (54, [136, 0]);
const ND_TARGET: usize = 62;

/// Whether a frame says that `address` is at `mac`.
fn says(frame: &Frame, address: IpAddr, mac: Mac) -> bool {
    let bytes = frame.bytes();
    let has = |at: usize, what: &[u8]| bytes.get(at..at + what.len()) == Some(what);
    frame.from() == mac
        && match address {
            IpAddr::V4(v4) => has(ARP_REPLY.0, &ARP_REPLY.1) && has(ARP_SENDER, &v4.octets()),
            IpAddr::V6(v6) => has(ND_ADVERTISEMENT.0, &ND_ADVERTISEMENT.1) && has(ND_TARGET, &v6.octets()),
        }
}

/// A process of the node, which asks where pods are, and who listens on the bridge for what is said about it.
struct Asker<'a> {
    netns: &'a Netns,
    process: &'a Process,
    bridge: Observer,
}

impl<'a> Asker<'a> {
    fn new(netns: &'a Netns, process: &'a Process) -> Self {
        Self { netns, process, bridge: Observer::start(netns, "cni0") }
    }

    /// Whether it is told, within this time, that `address` is at `mac`.
    fn is_told(&self, address: IpAddr, mac: Mac, patience: Duration) -> bool {
        netdev::ip(self.netns, &["neigh flush all".to_owned()]);
        self.bridge.forget();
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        self.process.socket(Kind::Udp, family, BRIEF).send_to((address, 9).into(), b"?");
        wait::happens_within(patience, || self.bridge.count(|frame| says(frame, address, mac)) > 0)
    }
}

fn addresses(end: &End<'_>) -> [IpAddr; 2] {
    [end.v4.into(), end.v6.into()]
}

/// `ip addr add` or `del` of another one's addresses in a pod.
fn change(pod: &Pod, verb: &str, of: &End<'_>) {
    let nodad = if verb == "add" { " nodad" } else { "" };
    let commands = [format!("addr {verb} {}/32 dev eth0", of.v4), format!("addr {verb} {}/128 dev eth0{nodad}", of.v6)];
    netdev::ip(pod.netns(), &commands);
}

fn set_mac(pod: &Pod, mac: Mac) {
    netdev::ip(pod.netns(), &[format!("link set eth0 address {mac:?}")]);
}

/// A process in the pod's network that its cgroup has nothing to say about: what the pod's own can do where the kernel has no
/// LSM hook, or with what they opened before the cut.
fn intruder(scene: &Scene) -> Process {
    Process::start(scene.web.netns(), &scene.node.service())
}

/// A neighbour's address, from after the cut, also while no daemon runs.
pub(super) fn an_address_taken_after_the_cut_is_not_answered_for() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let (friend, process) = (node.pod(&Spec::default()), node.process());
    let daemon = agent.daemon();
    let asker = Asker::new(node.netns(), &process);
    let (pod, victim) = (web.end(), neighbour.end());
    let told = |address, patience| asker.is_told(address, pod.mac, patience);
    let theirs = Path::shown(Channel::ORDINARY, neighbour.end(), node.end(&process));

    change(web, "add", &victim);
    for address in addresses(&victim) {
        wait::until("a healthy pod claims it", || told(address, BRIEF));
    }
    change(web, "del", &victim);

    let allowed = ["add", web.uid(), "--allow", &friend.end().v4.to_string()].map(str::to_owned);
    let add = || drop(agent.run(&allowed.each_ref().map(String::as_str)).expect(0));
    add();
    for address in addresses(&pod) {
        wait::until("its own is answered for", || told(address, BRIEF));
    }
    change(web, "add", &victim);
    add();
    let none = |when: &str| {
        for address in addresses(&victim) {
            assert!(!told(address, BRIEF), "{address} was claimed {when}");
        }
        for address in addresses(&pod) {
            wait::until("its own is still answered for", || told(address, BRIEF));
        }
        theirs.assert_flows();
    };
    none("after the cut");
    daemon.kill();
    let _daemon = agent.daemon();
    add();
    none("after a restart of the daemon");
    // Its own is gone from its interface: that changes nothing, either.
    netdev::ip(web.netns(), &["addr flush dev eth0".to_owned()]);
    change(web, "add", &victim);
    add();
    none("instead of its own");
}

/// What another one on the node has as well is nobody's.
pub(super) fn an_address_taken_before_the_cut_is_not_answered_for() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let (friend, process) = (node.pod(&Spec::default()), node.process());
    let _daemon = agent.daemon();
    let asker = Asker::new(node.netns(), &process);
    let (pod, victim) = (web.end(), neighbour.end());
    change(web, "add", &victim);
    for address in addresses(&victim) {
        wait::until("a healthy pod claims it", || asker.is_told(address, pod.mac, BRIEF));
    }
    agent.add(&[web.uid(), "--allow", &friend.end().v4.to_string()]);
    for address in addresses(&pod) {
        wait::until("its own is answered for", || asker.is_told(address, pod.mac, BRIEF));
    }
    for address in addresses(&victim) {
        assert!(!asker.is_told(address, pod.mac, BRIEF), "{address} was claimed");
    }
}

/// The bridge would send the neighbour's frames to the pod as soon as one came from there with its hardware address.
pub(super) fn a_hardware_address_of_a_neighbour_gains_nothing() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let (friend, process) = (node.pod(&Spec::default()), node.process());
    let daemon = agent.daemon();
    let asker = Asker::new(node.netns(), &process);
    let (pod, victim, host) = (web.end(), neighbour.end(), friend.end());
    let theirs = Path::shown(Channel::ORDINARY, neighbour.end(), node.end(&process));
    let (at_host, intruder) = (Observer::start(friend.netns(), "eth0"), intruder(&scene));
    let leaves = |from: Mac| {
        let mark = Mark::new();
        let packet = ipv4(pod.v4, host.v4, ICMP, &echo_request(false, &mark));
        intruder.packet("eth0", BRIEF).send(&ethernet(host.mac, from, IPV4, &packet));
        wait::happens_within(BRIEF, || at_host.marked(&mark) > 0)
    };
    set_mac(web, victim.mac);
    wait::until("a healthy pod is at its neighbour's", || asker.is_told(pod.v4.into(), victim.mac, BRIEF));
    assert!(leaves(victim.mac), "and sends from there");
    set_mac(web, pod.mac);
    wait::until("it is back at its own", || asker.is_told(pod.v4.into(), pod.mac, BRIEF) && leaves(pod.mac));
    // What is known of it when it is isolated stays.
    daemon.await_pass();

    let allow = host.v4.to_string();
    for (when, earlier) in [("after the cut", false), ("before the cut", true)] {
        if earlier {
            agent.remove(&[web.uid()]);
            set_mac(web, victim.mac);
        }
        agent.add(&[web.uid(), "--allow", &allow]);
        if !earlier {
            wait::until("an allowed packet leaves", || leaves(pod.mac));
            set_mac(web, victim.mac);
            agent.add(&[web.uid(), "--allow", &allow]);
        }
        for address in addresses(&pod) {
            assert!(!asker.is_told(address, victim.mac, BRIEF), "{when}: {address} is at its neighbour's");
        }
        assert!(!leaves(victim.mac), "{when}: a packet left from its neighbour's");
        // The neighbour says where it is; nobody says otherwise.
        theirs.assert_flows();
    }
}

/// Who is allowed would hand on what a packet says, to whom it says that it comes from.
pub(super) fn what_leaves_comes_from_the_pods_own_address() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour: friend, node } = &scene;
    let (stranger, process) = (node.pod(&Spec::default()), node.process());
    let _daemon = agent.daemon();
    let (pod, host, other, gateway) = (web.end(), friend.end(), stranger.end(), node.end(&process));
    let at_stranger = Observer::start(stranger.netns(), "eth0");
    let (at_host, intruder) = (Observer::start(friend.netns(), "eth0"), intruder(&scene));
    let send = |v6: bool, spoofed: bool, mark: &Mark| {
        let (ethertype, packet) = if v6 {
            let from = if spoofed { other.v6 } else { pod.v6 };
            let body = [&[0x15, 0x0a, 0, 1], mark.bytes()].concat();
            (IPV6, ipv6(from, host.v6, ICMP6, &icmpv6(from, host.v6, 128, &body)))
        } else {
            let from = if spoofed { other.v4 } else { pod.v4 };
            (IPV4, ipv4(from, host.v4, ICMP, &echo_request(false, mark)))
        };
        intruder.packet("eth0", BRIEF).send(&ethernet(gateway.mac, pod.mac, ethertype, &packet));
    };
    let reflected = |v6| {
        let mark = Mark::new();
        send(v6, true, &mark);
        wait::happens_within(BRIEF, || at_stranger.marked(&mark) > 0)
    };
    for v6 in [false, true] {
        wait::until("a healthy pod's words are handed on to a stranger", || reflected(v6));
    }
    agent.add(&[web.uid(), "--allow", &host.v4.to_string(), "--allow", &host.v6.to_string()]);
    for v6 in [false, true] {
        wait::until("its own packets get to who is allowed", || {
            let mark = Mark::new();
            send(v6, false, &mark);
            wait::happens_within(BRIEF, || at_host.marked(&mark) > 0)
        });
        assert!((0..5).all(|_| !reflected(v6)), "a stranger got it");
    }
}

/// A new sandbox has other interfaces, with other hardware addresses: what was fixed was the old one's.
pub(super) fn a_new_sandbox_is_answered_for() {
    let mut scene = Scene::new();
    let friend = scene.node.pod(&Spec::default());
    let _daemon = scene.agent.daemon();
    let [v4, v6] = addresses(&friend.end()).map(|address| address.to_string());
    scene.agent.add(&[scene.web.uid(), "--allow", &v4, "--allow", &v6]);
    Path::shown(Channel::ORDINARY, scene.web.end(), friend.end());
    let before = scene.web.end().mac;
    scene.web.renew_sandbox();
    assert_ne!(scene.web.end().mac, before);
    Path::unseen(Channel::ORDINARY, scene.web.end(), friend.end()).assert_flows();
}
