//! The processes of a pod and the namespaces that they live in. Reads cgroupfs and procfs only.

use std::{
    collections::{BTreeSet, HashSet},
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
    sync::Arc,
};

use rustix::{
    buffer::spare_capacity,
    fs::{Mode, OFlags},
    io::Errno,
};

use super::{
    Guard, InventoryError, Way, cgroup, guard, is_exhausted,
    power::{self, Powers},
};
use crate::{pod::PodUid, verify};

/// A namespace, as long as something keeps it alive: the numbers are used again after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NamespaceId {
    device: u64,
    inode: u64,
}

/// A network namespace, kept alive.
#[derive(Debug)]
pub(super) struct Netns {
    pub(super) fd: OwnedFd,
    pub(super) way: Way,
    id: NamespaceId,
}

/// File system of namespaces (`NSFS_MAGIC` of `linux/magic.h`).
const NSFS: u64 = 0x6e73_6673;
/// What a `seq_file` gives at a time, and more than most have to say.
const PAGE: usize = 4096;
/// `NS_GET_NSTYPE` of `linux/nsfs.h` (4.11).
const GET_TYPE: libc::Ioctl = 0xb703;

impl Netns {
    fn new(fd: OwnedFd, way: Way) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self { id: NamespaceId { device: stat.st_dev, inode: stat.st_ino }, fd, way })
    }

    /// The one that this file keeps. Errors if it keeps none, or one of another kind. What it is, is looked at before it is
    /// opened: that alone would wait for some files (a FIFO) and have some devices do things.
    pub(super) fn of_file(path: Arc<Path>) -> io::Result<Self> {
        let place = rustix::fs::open(&*path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let on_nsfs = u64::try_from(rustix::fs::fstatfs(&place)?.f_type).is_ok_and(|magic| magic == NSFS);
        let none = || io::Error::new(io::ErrorKind::InvalidInput, "it keeps no network namespace");
        if !on_nsfs {
            return Err(none());
        }
        let again = format!("/proc/self/fd/{}", place.as_raw_fd());
        let fd = rustix::fs::open(again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // SAFETY: the call takes a descriptor and no argument, and changes nothing.
        if unsafe { libc::ioctl(fd.as_raw_fd(), GET_TYPE) } != libc::CLONE_NEWNET {
            return Err(none());
        }
        Self::new(fd, Way::File(path))
    }

    /// Whether only the runtime says whose it is.
    pub(super) const fn is_claimed(&self) -> bool {
        matches!(self.way, Way::File(_))
    }

    pub(super) fn inode(&self) -> u64 {
        self.id.inode
    }
}

/// The namespaces that are the node's own.
#[derive(Debug)]
pub(super) struct NodeNamespaces {
    net: Vec<Netns>,
    mount: Vec<NamespaceId>,
    user: Vec<NamespaceId>,
    pids: Vec<NamespaceId>,
}

impl NodeNamespaces {
    /// Those of the calling thread, which sees the node's interfaces, and of process 1: a node may itself live in
    /// namespaces of its own (kind), and an agent in a pod.
    pub(super) fn open() -> Result<Self, InventoryError> {
        let own = Path::new("/proc/thread-self/ns/net");
        let error = |source: Errno| InventoryError::Read { path: own.to_path_buf(), source: source.into() };
        let fd = rustix::fs::open(own, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(error)?;
        let own = Netns::new(fd, Way::Process(0))
            .map_err(|source| InventoryError::Read { path: own.to_path_buf(), source })?;
        // A hardened agent may be kept from looking at process 1; then its own must do.
        let init = Process::open(1).ok();
        let init_net = init.as_ref().and_then(|init| init.netns().ok());
        let agent = i32::try_from(std::process::id()).ok().and_then(|pid| Process::open(pid).ok());
        let both: Vec<Process> = [init, agent].into_iter().flatten().collect();
        let of = |kind| both.iter().filter_map(|process| process.namespace(kind).ok()).collect();
        let net = [Some(own), init_net].into_iter().flatten().collect();
        Ok(Self { net, mount: of("mnt"), user: of("user"), pids: of("pid") })
    }

    fn has_net(&self, id: NamespaceId) -> bool {
        self.net.iter().any(|own| own.id == id)
    }

    /// Whether the process lives in the node's network namespace.
    pub(super) fn has_net_of(&self, pid: i32) -> bool {
        Process::open(pid).and_then(|process| process.netns()).is_ok_and(|netns| self.has_net(netns.id))
    }

    fn has_mount(&self, process: &Process) -> bool {
        process.namespace("mnt").is_ok_and(|mount| self.mount.contains(&mount))
    }

    /// Whether the capabilities of a process hold on the node. They may, where that is not to be seen.
    pub(super) fn has_user(&self, process: &Process) -> bool {
        match process.namespace("user") {
            Ok(user) => self.user.is_empty() || self.user.contains(&user),
            Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
        }
    }

    /// Whether it sees the node's processes.
    pub(super) fn has_pids(&self, process: &Process) -> bool {
        process.namespace("pid").is_ok_and(|pids| self.pids.contains(&pids))
    }
}

/// What the processes of a pod say about it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) processes: usize,
    pub(super) host_network: bool,
    pub(super) namespaces: usize,
    pub(super) guard: Option<Guard>,
    pub(super) powers: Option<Powers>,
}

/// Looks at the processes `pids` of pod `uid` and hands each network namespace that is not the node's to `sink`, once;
/// then those of `claims` in which none of them lives. What the processes can do beyond the pod is looked at if it is to be
/// done `closely`: it takes a file for each thread.
///
/// A process that ends meanwhile is passed over, and so is one that took over the id of one that ended.
pub(super) fn census(
    uid: PodUid,
    pids: &BTreeSet<i32>,
    node: &NodeNamespaces,
    closely: bool,
    claims: impl Iterator<Item = Netns>,
    mut sink: impl FnMut(Netns) -> Result<(), InventoryError>,
) -> Result<Census, InventoryError> {
    let mut census = Census { processes: pids.len(), guard: guard::of_pids(pids), ..Census::default() };
    let mut known = HashSet::new();
    let mut beside = false;
    let (mut own, mut of_the_node) = (Powers::new(), Powers::new());
    // Id 0 stands for a process outside the agent's process namespace, which cannot be looked at.
    for &pid in pids.range(1..) {
        let Some((process, netns)) = open(pid)? else { continue };
        let is_known = known.contains(&netns.id);
        if is_known && !closely {
            continue;
        }
        let Ok(cgroups) = process.read("cgroup") else { continue };
        if !names(&cgroups, uid) || process.is_own_child(&cgroups) {
            continue;
        }
        let is_beside = node.has_net(netns.id) && node.has_mount(&process);
        if closely {
            power::look(&process, node, if is_beside { &mut of_the_node } else { &mut own })?;
        }
        if is_known {
            continue;
        }
        if !node.has_net(netns.id) {
            known.insert(netns.id);
            census.namespaces += 1;
            sink(netns)?;
        } else if is_beside {
            // A pod has a root file system of its own: this one was put beside it by the node.
            beside = true;
            census.guard = census.guard.or_else(|| guard::of_node_process(pid, &process.name()));
        } else {
            census.host_network = true;
        }
    }
    // Alone in the pod it is what runs in it, whoever put it there.
    if beside && census.namespaces == 0 {
        census.host_network = true;
        own.append(&mut of_the_node);
    }
    census.powers = closely.then_some(own);
    for claimed in claims {
        if !node.has_net(claimed.id) && known.insert(claimed.id) {
            sink(claimed)?;
        }
    }
    Ok(census)
}

/// The ids of the processes in `directory` and below.
pub(crate) fn pids(directory: &Path) -> Result<BTreeSet<i32>, InventoryError> {
    let mut pids = BTreeSet::new();
    let mut exhausted = None;
    let read = cgroup::descend(directory, |folder| {
        match folder.open("cgroup.procs").and_then(|file| whole(&file)) {
            Ok(list) => pids.extend(list.lines().filter_map(|line| line.parse::<i32>().ok())),
            Err(error) if is_exhausted(&error) => exhausted = Some(error),
            // A threaded cgroup refuses this; the domain above it lists its processes.
            Err(_) => {}
        }
        true
    });
    match exhausted.map_or(read, Err) {
        Err(source) if is_exhausted(&source) => Err(InventoryError::Read { path: directory.to_path_buf(), source }),
        Err(error) => {
            tracing::trace!(path = %directory.display(), %error, "pod went away");
            Ok(pids)
        }
        Ok(()) => Ok(pids),
    }
}

/// What a file of procfs or cgroupfs says. These tell no length, so that asking for it, as the standard library does, is two
/// calls for nothing; and there are some files for each pod.
fn whole(file: &OwnedFd) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(PAGE);
    loop {
        bytes.reserve(PAGE / 2);
        match rustix::io::read(file, spare_capacity(&mut bytes)) {
            Ok(0) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether one of these cgroups, a line each, is a pod's or in it.
fn names(cgroups: &str, uid: PodUid) -> bool {
    cgroups.lines().any(|line| line.split('/').any(|name| cgroup::uid_in_name(name) == Some(uid)))
}

fn open(pid: i32) -> Result<Option<(Process, Netns)>, InventoryError> {
    let opened = Process::open(pid).and_then(|process| Ok((process.netns()?, process)));
    match opened {
        Ok((netns, process)) => Ok(Some((process, netns))),
        Err(source) if is_exhausted(&source) => Err(InventoryError::Process { pid, source }),
        Err(error) => {
            tracing::debug!(pid, %error, "process passed over");
            Ok(None)
        }
    }
}

/// One process: its directory in procfs stays that process's, whoever gets the id next.
#[derive(Debug)]
pub(crate) struct Process {
    directory: OwnedFd,
    pid: i32,
}

impl Process {
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// The ids of its threads.
    pub(super) fn threads(&self) -> io::Result<Vec<String>> {
        let tasks = rustix::fs::Dir::read_from(self.open_at("task")?)?;
        let names = tasks.flatten().filter_map(|task| task.file_name().to_str().ok().map(str::to_owned));
        Ok(names.filter(|name| !name.starts_with('.')).collect())
    }

    pub(crate) fn open(pid: i32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { directory: rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty())?, pid })
    }

    fn netns(&self) -> io::Result<Netns> {
        let open = |path: &str| self.open_at(path);
        match open("ns/net") {
            // The main thread has ended and others go on: their namespaces are still there.
            Err(_) => {
                let found = self.threads()?.iter().find_map(|name| open(&format!("task/{name}/ns/net")).ok());
                Netns::new(found.ok_or(Errno::SRCH)?, Way::Process(self.pid))
            }
            Ok(fd) => Netns::new(fd, Way::Process(self.pid)),
        }
    }

    pub(crate) fn namespace(&self, kind: &str) -> io::Result<NamespaceId> {
        let stat = rustix::fs::statat(&self.directory, format!("ns/{kind}"), rustix::fs::AtFlags::empty())?;
        Ok(NamespaceId { device: stat.st_dev, inode: stat.st_ino })
    }

    /// Whether it runs in a cgroup of this pod.
    pub(crate) fn is_in(&self, uid: PodUid) -> bool {
        self.read("cgroup").is_ok_and(|cgroups| names(&cgroups, uid))
    }

    /// Whether this process started it for a verification, to make sockets in the pod's cgroup.
    fn is_own_child(&self, cgroups: &str) -> bool {
        if !cgroups.contains(&verify::leaf_prefix()) {
            return false;
        }
        // Behind the name, which may hold anything: the state, then the parent's process id.
        let stat = self.read("stat").unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parent == Some(std::process::id())
    }

    pub(crate) fn name(&self) -> String {
        self.read("comm").unwrap_or_default().trim_end().to_owned()
    }

    pub(crate) fn read(&self, path: &str) -> io::Result<String> {
        whole(&self.open_at(path)?)
    }

    pub(crate) fn open_at(&self, path: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(self.directory.as_fd(), path, flags, Mode::empty())?)
    }
}
