//! Starts programs at their place: a network namespace and a cgroup, both entered before the program runs.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::Write as _,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::Path,
    process::{Child, Command, Output},
};

use rustix::{
    process::{Signal, set_parent_process_death_signal},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::netns::Netns;

/// Copies a program to be started, by a process of its own: a descriptor that this one had open for writing could be in the
/// hands of a child that another thread forks just then, and nothing can be started that somebody writes to (ETXTBSY).
pub fn copy(program: impl AsRef<OsStr>, to: &Path) {
    let copied = Command::new("cp").arg(program).arg(to).status().expect("coreutils is installed");
    assert!(copied.success(), "cp to {}: {copied}", to.display());
}

/// A command that will be born in `netns` and `cgroup`, and is killed when the thread that starts it ends.
pub fn command(program: impl AsRef<OsStr>, netns: &Netns, cgroup: &Path) -> Command {
    let netns = netns.file().try_clone().expect("a descriptor can be copied");
    let procs = cgroup.join("cgroup.procs");
    let procs = OpenOptions::new().write(true).open(&procs).unwrap_or_else(|e| panic!("{}: {e}", procs.display()));
    let mut command = Command::new(program);
    // SAFETY: between fork and exec the closure makes three system calls on descriptors that it owns, and allocates nothing.
    unsafe { command.pre_exec(move || settle(&netns, &procs)) };
    command
}

/// What a container's root keeps by default, with every runtime. Nothing of it reaches beyond the pod's namespaces.
const CONTAINER: [u32; 14] = [
    0,  // CHOWN
    1,  // DAC_OVERRIDE
    3,  // FOWNER
    4,  // FSETID
    5,  // KILL
    6,  // SETGID
    7,  // SETUID
    8,  // SETPCAP
    10, // NET_BIND_SERVICE
    13, // NET_RAW
    18, // SYS_CHROOT
    27, // MKNOD
    29, // AUDIT_WRITE
    31, // SETFCAP
];
/// `CAP_NET_ADMIN`, with which a container may change its network.
pub const NET_ADMIN: u32 = 12;
/// `CAP_SYS_ADMIN`.
pub const SYS_ADMIN: u32 = 21;
/// `CAP_BPF`, with which a container may load programs.
pub const BPF: u32 = 39;

/// Like [`command`], with no capabilities but a container's and these.
pub fn container_command(program: impl AsRef<OsStr>, netns: &Netns, cgroup: &Path, more: &'static [u32]) -> Command {
    let mut command = command(program, netns, cgroup);
    // SAFETY: between fork and exec the closure makes system calls alone, and allocates nothing. It is called after the one
    // that enters the namespace, which needs more than is left.
    unsafe { command.pre_exec(move || restrict(more)) };
    command
}

/// Has a command run without these capabilities.
pub fn without(command: &mut Command, capabilities: &'static [u32]) {
    let drop_them = || capabilities.iter().try_for_each(|capability| drop_capability(*capability));
    // SAFETY: between fork and exec the closure makes system calls alone, and allocates nothing.
    unsafe { command.pre_exec(drop_them) };
}

/// Takes everything else out of the bounding set; the `exec` that follows gives root what is left in it.
pub fn restrict(more: &[u32]) -> std::io::Result<()> {
    const LAST: u32 = 63;
    for capability in (0..=LAST).filter(|capability| !CONTAINER.contains(capability) && !more.contains(capability)) {
        drop_capability(capability)?;
    }
    Ok(())
}

fn drop_capability(capability: u32) -> std::io::Result<()> {
    // SAFETY: a call with plain numbers.
    let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
    let error = std::io::Error::last_os_error();
    // Beyond the last one that this kernel knows.
    if dropped < 0 && error.raw_os_error() != Some(libc::EINVAL) {
        return Err(error);
    }
    Ok(())
}

/// Starts a command in a process namespace of its own, as containers have one. The calling thread stays in its own.
pub fn spawn_as_init(command: &mut Command) -> std::io::Result<Child> {
    let own = File::open("/proc/thread-self/ns/pid")?;
    // SAFETY: it changes where the next child of this thread is born, and nothing that memory safety rests on.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWPID) }?;
    let child = command.spawn();
    move_into_link_name_space(own.as_fd(), None)?;
    child
}

fn settle(netns: &File, mut procs: &File) -> std::io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    procs.write_all(b"0")?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// Runs a command to its end; panics with what it printed when it fails.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs a command of a clean-up, which goes on when it fails.
pub(crate) fn try_to(command: &mut Command) {
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            eprintln!("clean-up: {command:?}: {}: {}", output.status, text.trim());
        }
        Err(error) => eprintln!("clean-up: cannot start {command:?}: {error}"),
    }
}
