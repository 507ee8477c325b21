//! The stage of one setting: the pod under attack, who attacks, and who watches.

use std::{
    cell::{Cell, RefCell},
    io::Write as _,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::Duration,
};

use isolate_tests::{
    channel::End,
    frame::{EXPERIMENT, Mark},
    launch, netdev,
    observe::{Frame, Observer},
    packet::sockaddr,
    pod::Pod,
    process::Process,
    wait,
    wire::{Answer, Family, Handle, Kind, Raw, Request},
};

use super::{
    Halt,
    cut::{Beside, Cut},
    run::Setting,
};
use crate::scene::Scene;

/// What is expected to arrive may take long on a busy machine; what is expected not to is waited for a while.
const PATIENCE: Duration = Duration::from_secs(3);
const SILENCE: Duration = Duration::from_millis(80);
/// The port to which datagrams are sent.
pub(super) const DISCARD: u16 = 9;
/// Ethertypes of link-local protocols, which a bridge keeps to itself: LLDP, 802.2 (spanning tree), EAPOL.
const LINK_LOCAL: [u16; 3] = [0x88cc, 0x0004, 0x888e];

/// Where the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Healthy,
    Cut,
    Released,
}

/// Dropped from top to bottom.
pub(super) struct Stage {
    state: Cell<State>,
    cut: Cut,
    setting: Setting,
    opened: RefCell<Vec<Handle>>,
    number: Cell<u16>,
    /// Sockets from before the cut: a connected UDP socket, and the ends of a connection in each direction.
    pub(super) old: Old,
    /// In a container of the pod.
    pub(super) attacker: Process,
    /// The same, with `CAP_BPF` as well.
    pub(super) programmer: Process,
    /// In the pod's network namespace, and in a cgroup of the node.
    pub(super) stranger: Process,
    watchers: Vec<Observer>,
    beside: Beside,
    pub(super) scene: Scene,
}

/// Sockets that are open during the whole run, by owner.
pub(super) struct Old {
    pub(super) datagram: Handle,
    pub(super) outbound: [Handle; 2],
    pub(super) inbound: [Handle; 2],
    /// A packet socket.
    pub(super) packet: Handle,
}

impl Stage {
    pub(super) fn build(setting: Setting, cut: Cut) -> Self {
        let scene = Scene::with(&setting.spec());
        let beside = cut.prepare(&scene, setting);
        let pod = scene.web.netns();
        for (variable, value) in [
            // What `IFLA_AF_SPEC` or a writable /proc/sys would let the attacker do.
            ("net/ipv4/tcp_fastopen", "5"),
            ("net/ipv4/ping_group_range", "0 2147483647"),
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
        ] {
            pod.sysctl(variable, value);
        }
        // A bridge that shows what crosses it to iptables drops what is no proper packet, and hides a leak by that.
        for protocol in ["iptables", "ip6tables"] {
            let variable = format!("net/bridge/bridge-nf-call-{protocol}");
            if Path::new("/proc/sys").join(&variable).exists() {
                scene.node.netns().sysctl(&variable, "0");
            }
        }
        if setting == Setting::V6Only {
            netdev::ip(pod, &[format!("addr del {}/24 dev eth0", scene.web.end().v4)]);
        }
        let (attacker, programmer) = (scene.web.start_container(), scene.web.attacker(setting.with_bpf()));
        let stranger = Process::start(pod, &scene.node.service());
        let old = open_old(&scene, &attacker, setting);
        let watchers = watchers(&scene, setting);
        let stage = Self {
            state: Cell::new(State::Healthy),
            cut,
            setting,
            opened: RefCell::default(),
            number: Cell::default(),
            old,
            attacker,
            programmer,
            stranger,
            watchers,
            beside,
            scene,
        };
        stage.know_each_other();
        stage
    }

    /// Neither side has to ask for the other's address, so that a question that is cut hides nothing.
    pub(super) fn know_each_other(&self) {
        if self.setting.is_routed() || self.setting == Setting::HostNetwork {
            return;
        }
        let know = |of: &End<'_>| {
            [of.v4.to_string(), of.v6.to_string()].map(|ip| format!("neigh replace {ip} lladdr {:?} dev eth0", of.mac))
        };
        let node = self.scene.node.end(&self.stranger);
        netdev::ip(self.scene.web.netns(), &[know(&self.neighbour()), know(&node)].concat());
        netdev::ip(self.scene.neighbour.netns(), &know(&self.victim()));
    }

    pub(super) fn cut_off(&mut self) {
        self.state.set(State::Cut);
        self.cut.apply(&self.scene, self.setting, &self.beside);
    }

    pub(super) fn release(&mut self) {
        self.begin();
        self.cut.lift(&self.scene, self.setting);
        self.state.set(State::Released);
        if self.cut == Cut::LinkDown && !self.setting.is_routed() && self.setting != Setting::HostNetwork {
            self.know_each_other();
        }
    }

    pub(super) fn state(&self) -> State {
        self.state.get()
    }

    /// Before each channel: closes what the last one opened, and forgets what it sent.
    pub(super) fn begin(&self) {
        self.number.set(self.number.get() + 1);
        for handle in self.opened.take() {
            self.attacker.call(&Request::Close(handle));
        }
        self.watchers.iter().for_each(Observer::forget);
        if self.state() == State::Cut && self.setting == Setting::Changing {
            self.cut.renew(&self.scene);
        }
    }

    pub(super) fn victim(&self) -> End<'_> {
        self.scene.web.end_of(&self.attacker)
    }

    pub(super) fn neighbour(&self) -> End<'_> {
        self.scene.neighbour.end()
    }

    pub(super) fn peer(&self) -> &Process {
        self.scene.neighbour.app()
    }

    /// A number of this channel's run alone, for packets that have no room for a mark.
    pub(super) fn number(&self) -> u16 {
        self.number.get()
    }

    /// How long to wait for an arrival.
    pub(super) fn patience(&self) -> Duration {
        if self.state() == State::Cut { SILENCE } else { PATIENCE }
    }

    /// Has the attacker do something, which must succeed.
    pub(super) fn call(&self, request: &Request) -> Result<Answer, Halt> {
        let answer = done(request, self.attacker.call(request))?;
        self.opened.borrow_mut().extend(answer.handle);
        Ok(answer)
    }

    /// The same, for a request that makes something.
    pub(super) fn make(&self, request: &Request) -> Result<Handle, Halt> {
        self.call(request).map(|answer| answer.handle.expect("it makes something"))
    }

    pub(super) fn raw(&self, raw: Raw) -> Result<Answer, Halt> {
        self.call(&Request::Raw(raw))
    }

    pub(super) fn open(&self, domain: i32, style: i32, protocol: i32) -> Result<Handle, Halt> {
        self.make(&Request::Raw(Raw::Open { domain, style, protocol }))
    }

    pub(super) fn set(&self, socket: Handle, level: i32, name: i32, value: i32) -> Result<Answer, Halt> {
        self.raw(Raw::Set { socket, level, name, value: value.to_ne_bytes().to_vec() })
    }

    pub(super) fn send(&self, socket: Handle, to: SocketAddr, data: &[u8]) -> Result<Answer, Halt> {
        self.raw(Raw::Send { socket, flags: 0, to: Some(sockaddr(to)), data: data.to_vec() })
    }

    /// A frame out of a packet socket of the attacker.
    pub(super) fn frame_on(&self, device: &str, frame: &[u8]) -> Result<(), Halt> {
        let socket = self.make(&Request::Packet { device: device.to_owned(), timeout: SILENCE })?;
        self.raw(Raw::Send { socket, flags: 0, to: None, data: frame.to_vec() }).map(drop)
    }

    /// Runs `ip` commands as the attacker, all in one process.
    pub(super) fn ip(&self, commands: &[String]) -> Result<(), Halt> {
        self.run("ip", &["-batch", "-"], &commands.join("\n"))
    }

    /// Runs a program as the attacker.
    pub(super) fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<(), Halt> {
        let mut command = self.scene.web.command(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
        child.stdin.take().expect("stdin is piped").write_all(input.as_bytes()).expect("it reads its input");
        let output = child.wait_with_output().expect("a child can be waited for");
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let what = format!(
            "{program} {}: {}",
            if input.is_empty() { arguments.join(" ") } else { input.replace('\n', "; ") },
            said.trim()
        );
        let missing = ["Unknown device type", "not supported", "not found"].iter().any(|sign| said.contains(sign));
        Err(if missing { Halt::Missing(what) } else { Halt::Failed(what) })
    }

    /// Takes tampering back, whatever of it was done, and gives the pod its network again.
    pub(super) fn restore(&self, commands: &[String]) {
        for command in commands {
            let arguments = ["-n", self.scene.web.netns().name()].into_iter().chain(command.split(' '));
            let output = std::process::Command::new("ip").args(arguments).output();
            output.expect("iproute2 is installed");
        }
        self.scene.web.configure();
        self.know_each_other();
        self.settle();
    }

    /// After a change to eth0: until the bridge forwards again what comes from it, so that its pause does not look like a cut.
    pub(super) fn settle(&self) {
        if self.cut == Cut::LinkDown && self.state() == State::Cut {
            return;
        }
        let port = &self.scene.web.host_veths()[0];
        wait::until("the bridge forwards", || netdev::forwards(self.scene.node.netns(), port));
    }

    /// The id that the node's namespace has in the pod's: the other end of `eth0` is there, so the kernel tells.
    pub(super) fn node_id(&self) -> Result<String, Halt> {
        node_id(&self.scene.web)
    }

    /// The index of the node's bridge, which an attacker would guess.
    pub(super) fn bridge(&self) -> u32 {
        netdev::index(self.scene.node.netns(), "cni0")
    }

    /// Whether the mark comes out.
    pub(super) fn arrives(&self, mark: &Mark) -> bool {
        self.arrives_such(|frame| mark.is_in(frame.bytes()))
    }

    /// Whether such a frame comes out.
    pub(super) fn arrives_such(&self, such: impl Fn(&Frame) -> bool) -> bool {
        wait::happens_within(self.patience(), || self.watchers.iter().any(|watcher| watcher.count(&such) > 0))
    }

    /// Has the neighbour send a frame.
    pub(super) fn neighbour_sends(&self, frame: &[u8]) {
        self.peer().packet("eth0", SILENCE).send(frame);
    }

    /// Whether the mark comes to a packet socket of the attacker, on an interface of the pod.
    pub(super) fn sniffs(&self, device: &str, mark: &Mark, send: impl FnOnce()) -> Result<bool, Halt> {
        let timeout = self.patience();
        let socket = self.make(&Request::Packet { device: device.to_owned(), timeout })?;
        send();
        Ok(receives(&self.attacker, socket, mark))
    }
}

/// The id that the node's namespace has in a pod's.
pub(super) fn node_id(pod: &Pod) -> Result<String, Halt> {
    // By number: whether it has a name depends on who asks.
    let output = launch::succeed(pod.command("ip").args(["netns", "list-id"]));
    let ids = String::from_utf8_lossy(&output.stdout).into_owned();
    let id = ids.split_whitespace().nth(1);
    id.map(str::to_owned).ok_or_else(|| Halt::Failed(format!("the pod knows no other namespace: {ids:?}")))
}

/// Whether the mark comes to a socket.
pub(super) fn receives(process: &Process, socket: Handle, mark: &Mark) -> bool {
    /// Other traffic that a packet socket may see in between.
    const MOST: usize = 200;
    let received = (0..MOST).map(|_| process.call(&Request::Recv(socket)));
    received.take_while(Answer::is_ok).any(|answer| mark.is_in(&answer.data))
}

/// The answer, if it is a success.
pub(super) fn done(request: &Request, answer: Answer) -> Result<Answer, Halt> {
    const MISSING: [i32; 4] = [libc::EAFNOSUPPORT, libc::EPROTONOSUPPORT, libc::ESOCKTNOSUPPORT, libc::ENOSYS];
    if answer.is_ok() {
        return Ok(answer);
    }
    let what = match request {
        Request::Raw(Raw::Open { domain, style, protocol }) => format!("socket({domain}, {style}, {protocol})"),
        Request::Raw(Raw::Send { .. } | Raw::SendBy(..)) | Request::Send(..) | Request::SendTo(..) => "send".to_owned(),
        other => format!("{other:?}"),
    };
    let what = format!("{what}: {}", answer.errno_name());
    Err(if MISSING.contains(&answer.errno) { Halt::Missing(what) } else { Halt::Failed(what) })
}

fn watchers(scene: &Scene, setting: Setting) -> Vec<Observer> {
    let mut watchers = vec![Observer::start(scene.neighbour.netns(), "eth0")];
    if setting != Setting::HostNetwork {
        watchers.push(Observer::start(scene.node.netns(), "cni0"));
    }
    if setting == Setting::TwoInterfaces {
        watchers.push(Observer::start(scene.neighbour.netns(), "eth1"));
    }
    for veth in scene.web.host_veths() {
        let ethertypes = LINK_LOCAL.into_iter().chain([EXPERIMENT]);
        watchers.extend(ethertypes.map(|ethertype| Observer::behind(scene.node.netns(), veth, ethertype)));
    }
    watchers
}

fn open_old(scene: &Scene, attacker: &Process, setting: Setting) -> Old {
    let family = if setting == Setting::V6Only { Family::V6 } else { Family::V4 };
    let (victim, neighbour) = (scene.web.end(), scene.neighbour.end());
    let at = |end: &End<'_>, port| match family {
        Family::V4 => SocketAddr::new(end.v4.into(), port),
        Family::V6 => SocketAddr::new(end.v6.into(), port),
    };
    let made = |process: &Process, request: &Request| {
        let answer = process.call(request);
        answer.handle.unwrap_or_else(|| panic!("{request:?}: {}", answer.errno_name()))
    };
    let socket = |process: &Process, kind| made(process, &Request::Socket { kind, family, timeout: SILENCE });
    let pair = |server: &Process, address: SocketAddr, client: &Process| {
        let listener = socket(server, Kind::Tcp);
        let bound = server.call(&Request::Bind(listener, address));
        let port = u16::try_from(bound.value).unwrap_or_else(|_| panic!("bind {address}: {}", bound.errno_name()));
        let to = SocketAddr::new(address.ip(), port);
        let mut connected = None;
        wait::until("a connection is made", || {
            let stream = socket(client, Kind::Tcp);
            let made = client.call(&Request::Connect(stream, to)).is_ok();
            connected = made.then_some(stream);
            made
        });
        [connected.expect("it was made just now"), made(server, &Request::Accept(listener))]
    };
    // The discard port: without it, refusals would come back and fail the next call on a connected socket.
    let discard = socket(scene.neighbour.app(), Kind::Udp);
    let discarding = scene.neighbour.app().call(&Request::Bind(discard, at(&neighbour, DISCARD)));
    assert!(discarding.is_ok(), "{}", discarding.errno_name());
    let outbound = pair(scene.neighbour.app(), at(&neighbour, 0), attacker);
    let [client, server] = pair(attacker, at(&victim, 0), scene.neighbour.app());
    let datagram = socket(attacker, Kind::Udp);
    assert!(attacker.call(&Request::Connect(datagram, at(&neighbour, DISCARD))).is_ok(), "a datagram socket connects");
    // The attacker's end comes first in both.
    let device = if setting == Setting::HostNetwork { "cni0" } else { "eth0" }.to_owned();
    let packet = made(attacker, &Request::Packet { device, timeout: SILENCE });
    Old { datagram, outbound, inbound: [server, client], packet }
}
