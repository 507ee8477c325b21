//! A node of one's own: a thread in a private network namespace and a private cgroup tree, with pods made of real
//! processes and interfaces. Everything goes when it is dropped, also after a panic.

use std::{
    fs,
    future::Future,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use isolate_agent::{
    inventory::{Interface, Inventory, Pod, Scanner},
    pod::PodUid,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// The private node.
pub(crate) struct Node {
    root: PathBuf,
    processes: Vec<Child>,
}

/// Which namespaces a process gets.
#[derive(Clone, Copy)]
pub(crate) enum In {
    /// A new network namespace and a new mount namespace: the first process of a sandbox.
    Sandbox,
    /// The network namespace of the process with this id.
    Join(u32),
    /// The node's network namespace and a mount namespace of its own: a hostNetwork pod.
    HostNetwork,
    /// All of the node's: a monitor that a runtime puts beside a pod.
    Node,
}

/// Runs `test` on a node of its own, whose cgroups are in the unified hierarchy. Returns without it, saying so, where
/// the machine does not allow that.
pub(crate) fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce(Node) -> F + Send + 'static) {
    on_a_node_with(mount_of("cgroup2", ""), test);
}

/// The same with its cgroups in a v1 hierarchy.
pub(crate) fn on_a_v1_node<F: Future<Output = ()>>(test: impl FnOnce(Node) -> F + Send + 'static) {
    on_a_node_with(mount_of("cgroup", "pids"), test);
}

fn on_a_node_with<F: Future<Output = ()>>(mount: Option<PathBuf>, test: impl FnOnce(Node) -> F + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root for network namespaces and cgroups");
        return;
    }
    let Some(mount) = mount else {
        eprintln!("skipped: no cgroup hierarchy of this version is mounted (v2 is in the kernel since Linux 4.5)");
        return;
    };
    let thread = thread::spawn(move || {
        // SAFETY: unsharing the network namespace of this thread leaves the file descriptors of all others alone.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("a network namespace");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(test(Node::new(&mount)));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The first mount of a file system type that has this option.
pub(crate) fn mount_of(kind: &str, option: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("procfs");
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?;
        let fits = fields.next()? == kind && fields.next()?.contains(option);
        fits.then(|| path.into())
    })
}

impl Node {
    /// The part of a node in the hierarchy mounted here.
    pub(crate) fn new(mount: &Path) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = mount.join(format!("isolate-inventory-{}-{number}", std::process::id()));
        fs::create_dir(&root).expect("a cgroup");
        Self { root, processes: Vec::new() }
    }

    /// A scanner of this node.
    pub(crate) fn scanner(&self) -> Scanner {
        Scanner::new(Some(&self.root)).expect("a scanner")
    }

    /// Makes a cgroup.
    pub(crate) fn cgroup(&self, path: &str) -> PathBuf {
        let path = self.root.join(path);
        fs::create_dir_all(&path).expect("a cgroup");
        path
    }

    /// Starts a process that waits, and moves it into a cgroup.
    pub(crate) fn start(&mut self, cgroup: &Path, namespaces: In) -> u32 {
        self.start_program(Path::new("sleep"), cgroup, namespaces)
    }

    /// The same with a program of the caller's, which gets `3600` as its argument.
    pub(crate) fn start_program(&mut self, program: &Path, cgroup: &Path, namespaces: In) -> u32 {
        let join = match namespaces {
            In::Join(pid) => Some(fs::File::open(format!("/proc/{pid}/ns/net")).expect("its namespace")),
            _ => None,
        };
        let enter = move || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            let flags = match namespaces {
                In::Node => return Ok(()),
                In::Sandbox => UnshareFlags::NEWNET | UnshareFlags::NEWNS,
                In::Join(_) | In::HostNetwork => UnshareFlags::NEWNS,
            };
            // SAFETY: no file descriptors are unshared.
            unsafe { rustix::thread::unshare_unsafe(flags) }?;
            if let Some(namespace) = &join {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            }
            Ok(())
        };
        let mut command = Command::new(program);
        command.arg("3600").stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: the closure makes system calls only, and allocates nothing.
        unsafe { command.pre_exec(enter) };
        let child = command.spawn().expect("a process");
        let pid = child.id();
        self.processes.push(child);
        fs::write(cgroup.join("cgroup.procs"), pid.to_string()).expect("the process moves into its cgroup");
        pid
    }

    /// A pod with one container and a veth, as kubelet, a runtime and a CNI plugin make it. Its directory and the id
    /// of its first process.
    pub(crate) fn veth_pod(&mut self, uid: &str, veth: &str) -> (PathBuf, u32) {
        let pod = self.cgroup(&format!("kubepods/burstable/pod{uid}"));
        let container = self.cgroup(&format!("kubepods/burstable/pod{uid}/{}", "c".repeat(64)));
        let pid = self.start(&container, In::Sandbox);
        ip(&format!("link add {veth} type veth peer name eth0 netns {pid}"));
        (pod, pid)
    }

    /// Kills one of its processes and waits for its end.
    pub(crate) fn stop(&mut self, pid: u32) {
        let child = self.processes.iter_mut().find(|child| child.id() == pid).expect("one of its processes");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for child in &mut self.processes {
            // One that was stopped is an error here, and as it should be.
            child.kill().ok();
            child.wait().ok();
        }
        for _attempt in 0..100 {
            if remove(&self.root).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        eprintln!("left behind: {}", self.root.display());
    }
}

fn remove(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// Runs `ip` in the network namespace of the calling thread.
pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

/// Runs `ip` in the network namespace of a process.
pub(crate) fn ip_in(pid: u32, arguments: &str) {
    let enter = format!("--net=/proc/{pid}/ns/net");
    let status = Command::new("nsenter").arg(enter).arg("ip").args(arguments.split(' ')).status();
    assert!(status.expect("util-linux is installed").success(), "ip {arguments}");
}

/// The index of a link in the namespace of the calling thread.
pub(crate) fn ifindex(name: &str) -> u32 {
    let text = Command::new("ip").args(["-o", "link", "show", name]).output().expect("iproute2 is installed").stdout;
    let text = String::from_utf8(text).expect("text");
    text.split(':').next().and_then(|index| index.parse().ok()).expect("a link")
}

/// A UID made of a number.
pub(crate) fn uid(number: u32) -> String {
    format!("{number:08x}-0000-4000-8000-000000000000")
}

/// The pod of an inventory with the UID made of `number`.
pub(crate) fn pod(inventory: &Inventory, number: u32) -> &Pod {
    let uid: PodUid = uid(number).parse().expect("a UID");
    inventory.pods.get(&uid).expect("the pod is found")
}

/// Name and kind of each interface, and index and name of its host end.
pub(crate) fn rows(interfaces: &[Interface]) -> Vec<String> {
    let row = |interface: &Interface| {
        let host = interface.host.as_ref().map(|host| format!("{} {}", host.ifindex.0, host.name));
        format!("{} {} {}", interface.name, interface.kind, host.as_deref().unwrap_or("-"))
    };
    interfaces.iter().map(row).collect()
}
