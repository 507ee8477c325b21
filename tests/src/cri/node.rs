//! The node: containerd in namespaces and a cgroup of its own.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{
    client::Runtime,
    config, image,
    pod::{Cri, CriSpec},
};
use crate::{
    agent::Host,
    cgroup::{self, Cgroup},
    channel::End,
    launch, name, netdev,
    netns::Netns,
    process::{self, Process},
    residue::{Folder, Residue},
};

/// The node's end of the pods' bridge.
pub(super) const BRIDGE: &str = "cni0";

/// A node with a container runtime. A clone is the same node; with the last one everything goes.
#[derive(Clone, Debug)]
pub struct CriNode(Arc<Parts>);

/// Dropped from top to bottom.
#[derive(Debug)]
struct Parts {
    runtime: Runtime,
    netns: Netns,
    cgroup: Cgroup,
    init: Mutex<Child>,
    folder: Folder,
    _residue: Residue,
}

impl CriNode {
    /// A node whose sandboxes keep quiet.
    pub fn new() -> Self {
        Self::with_sandboxes(image::PAUSE)
    }

    /// A node whose sandboxes send frames from their first moment on.
    pub fn flooded() -> Self {
        Self::with_sandboxes(image::FLOOD)
    }

    fn with_sandboxes(sandbox_image: &str) -> Self {
        let name = name::unique();
        let residue = Residue::default();
        let folder = Folder::new(&name, &residue);
        let cgroup = Cgroup::new(cgroup::mount().join(&name));
        residue.watch(cgroup.path());
        config::write(folder.path(), sandbox_image);
        for folder in ["run", "state"].map(|part| folder.path().join(part)) {
            fs::create_dir(&folder).expect("the node's folder is new");
        }
        let init = Self::start(folder.path(), cgroup.path());
        let (pid, init) = (init.id(), Mutex::new(init));
        let log = folder.path().join("containerd.log");
        let alive = || {
            let ended = init.lock().expect("nobody panics with it").try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "containerd ended: {ended:?}\n{}", fs::read_to_string(&log).unwrap_or_default());
        };
        let runtime = Runtime::connect(&socket(pid), alive);
        let netns = Netns::of_process(pid);
        residue.watch(&netns.path());
        let node = Self(Arc::new(Parts { runtime, netns, cgroup, init, folder, _residue: residue }));
        for file in image::archives() {
            let mut import = node.command(image::found("ctr"));
            launch::succeed(import.args(["--namespace", "k8s.io", "images", "import"]).arg(file));
        }
        node
    }

    fn start(folder: &Path, cgroup: &Path) -> Child {
        let log = File::create(folder.join("containerd.log")).expect("the node's folder is writable");
        let errors = log.try_clone().expect("a descriptor can be copied");
        let procs = File::options().write(true).open(cgroup.join("cgroup.procs")).expect("the cgroup is new");
        let mut command = Command::new(process::program_of("cri-node", "ISOLATE_CRI_NODE"));
        command.arg("node").arg(folder.join("containerd.toml")).stdin(Stdio::null()).stdout(log).stderr(errors);
        // SAFETY: between fork and exec the closure makes system calls on a descriptor that it owns, and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                io::Write::write_all(&mut &procs, b"0")?;
                Ok(())
            })
        };
        command.spawn().expect("cri-node can be started")
    }

    /// Makes a pod and starts its containers.
    pub fn pod(&self, spec: CriSpec) -> Cri {
        Cri::run(self, spec)
    }

    /// Starts a process of the node itself.
    pub fn process(&self) -> Process {
        let service = self.0.cgroup.path().join("system.slice/node.service");
        fs::create_dir_all(&service).unwrap_or_else(|error| panic!("{}: {error}", service.display()));
        Process::start(&self.0.netns, &service)
    }

    /// The node's end of the bridge, which is there once a pod was.
    pub fn end<'a>(&self, process: &'a Process) -> End<'a> {
        let v4 = [10, 88, 0, 1].into();
        let mac = netdev::mac(&self.0.netns, BRIDGE);
        End { process, device: BRIDGE, mac, v4, v6: std::net::Ipv6Addr::UNSPECIFIED }
    }

    /// The network namespace of the node.
    pub fn netns(&self) -> &Netns {
        &self.0.netns
    }

    /// The root of its cgroup tree, as the machine sees it.
    pub fn cgroup(&self) -> &Path {
        self.0.cgroup.path()
    }

    /// A path on the node, as this process reaches it.
    pub fn path(&self, on_node: &str) -> PathBuf {
        root(self.pid()).join(on_node.trim_start_matches('/'))
    }

    /// What containerd has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("containerd.log")).unwrap_or_default()
    }

    pub(super) fn runtime(&self) -> &Runtime {
        &self.0.runtime
    }

    fn pid(&self) -> u32 {
        self.0.init.lock().expect("nobody panics with it").id()
    }
}

impl Host for CriNode {
    fn folder(&self) -> &Path {
        self.0.folder.path()
    }

    fn netns(&self) -> &Netns {
        &self.0.netns
    }

    fn command(&self, program: PathBuf) -> Command {
        let pid = self.pid();
        let open = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}")).expect("the node runs");
        let spaces = [
            (open("net"), LinkNameSpaceType::Network),
            (open("cgroup"), LinkNameSpaceType::ControlGroup),
            // The last one: it changes what paths mean.
            (open("mnt"), LinkNameSpaceType::Mount),
        ];
        // Below the root of its cgroup namespace, or the process would see itself outside of it.
        let procs = File::options().write(true).open(self.cgroup().join("init/cgroup.procs")).expect("the node runs");
        let mut command = Command::new(program);
        // SAFETY: between fork and exec the closure makes system calls on descriptors that it owns, and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
                io::Write::write_all(&mut &procs, b"0")?;
                for (space, kind) in &spaces {
                    move_into_link_name_space(space.as_fd(), Some(*kind))?;
                }
                Ok(())
            })
        };
        command
    }

    fn places(&self) -> Vec<(&'static str, PathBuf)> {
        let folder = self.folder();
        // The rest is where it is on any node, also for the agent.
        vec![("--run-dir", folder.join("run")), ("--state-dir", folder.join("state"))]
    }
}

impl Default for CriNode {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("containerd.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("--- containerd's last words\n{}\n---", lines.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        self.cgroup.kill();
        let init = self.init.get_mut().expect("nobody panics with it");
        if let Err(error) = init.wait() {
            eprintln!("clean-up: containerd: {error}");
        }
    }
}

fn root(pid: u32) -> PathBuf {
    format!("/proc/{pid}/root").into()
}

fn socket(pid: u32) -> PathBuf {
    root(pid).join("run/containerd/containerd.sock")
}
