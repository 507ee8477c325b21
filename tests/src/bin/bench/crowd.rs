//! Pods by the hundred: a namespace, a routed veth, a cgroup and one sleeping process each, and sockets of theirs for this
//! process to use.
//!
//! A socket belongs to the namespace and the cgroup in which it was made, whoever uses it: so one thread sends for any pod,
//! and stamps what it sends with the clock that the measurement uses.

use std::{
    fs::{self, File},
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use isolate_tests::{launch, name, netdev, node::Node};
use rustix::{
    fs::{Mode, OFlags, openat},
    net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, set_parent_process_death_signal},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

/// Where pods send to: an address of the node itself.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// The gateway of every pod, an address of its host veth.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The port of each pod's datagram socket.
pub(crate) const PORT: u16 = 5005;
/// Descriptors of a pod's process that hold its sockets.
const UDP_FD: i32 = 100;
const RAW_FD: i32 = 101;

/// Gives the node the address that pods send to. Once for each node.
pub(crate) fn prepare(node: &Node) {
    netdev::ip(node.netns(), &[format!("addr add {NODE}/32 dev lo")]);
}

/// A running pod. Its namespace and veth go with its process.
#[derive(Debug)]
pub(crate) struct CrowdPod {
    /// Its UID.
    pub(crate) uid: String,
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// The host end of its veth.
    pub(crate) veth: String,
    /// A datagram socket of its own, bound to [`PORT`].
    pub(crate) udp: UdpSocket,
    /// A raw TCP socket of its own.
    pub(crate) raw: OwnedFd,
    cgroup: PathBuf,
    child: Child,
}

/// Starts `count` pods. They are numbered through on the node, from `first`.
pub(crate) fn start(node: &Node, first: u32, count: u32) -> Vec<CrowdPod> {
    let children: Vec<(u32, String, PathBuf, Child)> = (first..first + count).map(|number| run(node, number)).collect();
    let on_node: Vec<String> =
        children.iter().flat_map(|(number, _, _, child)| host_side(*number, child.id())).collect();
    netdev::ip(node.netns(), &on_node);
    children.into_iter().map(|(number, uid, cgroup, child)| finish(number, uid, cgroup, child)).collect()
}

/// Starts the process of a pod in its namespace and cgroup.
fn run(node: &Node, number: u32) -> (u32, String, PathBuf, Child) {
    let uid = format!("{:08x}-0000-4000-8000-{number:012x}", 0x2600_0000 + name::number());
    let cgroup = node.cgroup().join("kubepods/burstable").join(format!("pod{uid}"));
    let leaf = cgroup.join(format!("{number:064x}"));
    fs::create_dir_all(&leaf).unwrap_or_else(|error| panic!("{}: {error}", leaf.display()));
    let procs = File::options().write(true).open(leaf.join("cgroup.procs")).expect("the cgroup was made just now");
    let mut command = Command::new("sleep");
    command.arg("infinity").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: between fork and exec the closure makes system calls alone, and allocates nothing.
    unsafe { command.pre_exec(move || settle(&procs)) };
    let child = launch::spawn_as_init(&mut command).expect("coreutils is installed");
    (number, uid, cgroup, child)
}

fn settle(mut procs: &File) -> std::io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    procs.write_all(b"0")?;
    // SAFETY: this thread is the only one of its process, and shares its descriptors with nobody.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    // A thousand pods that look for routers would be a load of their own.
    for variable in [c"/proc/sys/net/ipv6/conf/all/disable_ipv6", c"/proc/sys/net/ipv6/conf/default/disable_ipv6"] {
        let file = openat(rustix::fs::CWD, variable, OFlags::WRONLY, Mode::empty())?;
        rustix::io::write(&file, b"1")?;
    }
    let kinds = [(SocketType::DGRAM, ipproto::UDP, UDP_FD), (SocketType::RAW, ipproto::TCP, RAW_FD)];
    for (kind, protocol, number) in kinds {
        let socket = socket_with(AddressFamily::INET, kind, SocketFlags::empty(), Some(protocol))?;
        // SAFETY: two numbers; the new descriptor stays open over the exec, on purpose.
        if unsafe { libc::dup2(socket.as_raw_fd(), number) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    launch::restrict(&[])
}

fn veth(number: u32) -> String {
    format!("pod{number}")
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 120, 0, 0).to_bits() + 16 + number)
}

fn mac(side: u8, number: u32) -> String {
    let [_, b, c, d] = number.to_be_bytes();
    format!("02:{side:02x}:00:{b:02x}:{c:02x}:{d:02x}")
}

/// Neighbours are entered by hand: a thousand pods fill the kernel's table of those that it asked for.
fn host_side(number: u32, pid: u32) -> Vec<String> {
    let (veth, address) = (veth(number), address(number));
    let (host, pod) = (mac(1, number), mac(2, number));
    vec![
        format!("link add {veth} address {host} type veth peer name eth0 address {pod} netns {pid}"),
        format!("link set {veth} up"),
        format!("addr add {GATEWAY}/32 dev {veth}"),
        format!("route add {address}/32 dev {veth}"),
        format!("neigh add {address} lladdr {pod} dev {veth} nud permanent"),
    ]
}

fn finish(number: u32, uid: String, cgroup: PathBuf, child: Child) -> CrowdPod {
    let address = address(number);
    let commands = [
        "link set eth0 up".to_owned(),
        format!("addr add {address}/32 dev eth0"),
        format!("route add {GATEWAY} dev eth0"),
        format!("neigh add {GATEWAY} lladdr {} dev eth0 nud permanent", mac(1, number)),
        format!("route add default via {GATEWAY} dev eth0"),
    ];
    let netns = namespace(child.id());
    inside_netns(&netns, "ip", &["-batch", "-"], commands.join("\n").as_bytes()).expect("a new pod can be set up");
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("the pod's process runs");
    let taken = |number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).expect("root may take a descriptor");
    let (udp, raw) = (UdpSocket::from(taken(UDP_FD)), taken(RAW_FD));
    rustix::net::bind(&udp, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT))).expect("nobody else is in the namespace");
    CrowdPod { uid, address, veth: veth(number), udp, raw, cgroup, child }
}

fn namespace(pid: u32) -> File {
    File::open(format!("/proc/{pid}/ns/net")).expect("the pod's process runs")
}

/// Runs a command in a network namespace; says what it said where it failed.
pub(crate) fn inside_netns(netns: &File, program: &str, arguments: &[&str], input: &[u8]) -> Result<(), String> {
    let netns = netns.try_clone().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: between fork and exec the closure makes one system call, and allocates nothing.
    unsafe {
        command.pre_exec(move || Ok(move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?))
    };
    let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    child.stdin.take().expect("stdin is piped").write_all(input).map_err(|error| format!("{program}: {error}"))?;
    let output = child.wait_with_output().map_err(|error| format!("{program}: {error}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let first = errors.lines().next().unwrap_or_default();
    if output.status.success() { Ok(()) } else { Err(format!("`{program} {}`: {first}", arguments.join(" "))) }
}

impl CrowdPod {
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its pod-level cgroup.
    pub(crate) fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Runs a command in its namespace; says what it said where it failed.
    pub(crate) fn try_inside(&self, program: &str, arguments: &[&str], input: &[u8]) -> Result<(), String> {
        inside_netns(&namespace(self.pid()), program, arguments, input)
    }

    /// Does something on a thread that lives in its namespace.
    pub(crate) fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let netns = namespace(self.pid());
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root may enter a network namespace");
                act()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Where its datagram socket is reached.
    pub(crate) fn end(&self) -> SocketAddr {
        (self.address, PORT).into()
    }
}

impl Drop for CrowdPod {
    fn drop(&mut self) {
        // Its own children are none; the node's cgroup is removed as a whole.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("clean-up: pod {}: {error}", self.uid);
        }
    }
}

/// Removes a pod at once, with its veth and cgroup, as a runtime would.
pub(crate) fn stop(node: &Node, pod: CrowdPod) {
    launch::succeed(Command::new("ip").args(["-n", node.netns().name(), "link", "del", &pod.veth]));
    let cgroup = pod.cgroup.clone();
    drop(pod);
    drop(isolate_tests::cgroup::Cgroup::new(cgroup));
}
