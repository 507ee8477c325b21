//! A child process that joins the pod's cgroup, makes sockets there, hands them over and ends.
//!
//! A socket belongs to the cgroup of the process that made it. So no thread of the agent has to be where the pod can stop
//! it: the child is a copy of this process that starts no program, in a cgroup of its own below the pod's, outside the
//! pod's process and mount namespaces, with a deadline.

use std::{
    ffi::c_int,
    fs::{self, File},
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
        socketpair,
    },
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
};
use thiserror::Error;

/// How long the child may take: it makes some system calls.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long the kernel may take to let go of its cgroup.
const REAPING: Duration = Duration::from_secs(1);
/// Most descriptors in one message (`SCM_MAX_FD`, include/net/scm.h).
const MOST: usize = 253;

/// Why there are no sockets of the pod's cgroup.
#[derive(Debug, Error)]
pub(super) enum ChildError {
    /// No cgroup of its own below the pod's.
    #[error("cannot make a cgroup below the pod's: {0}")]
    Cgroup(#[source] io::Error),
    /// No child.
    #[error("cannot start a process: {0}")]
    Start(#[source] io::Error),
    /// It did not do its work in time.
    #[error("the pod's cgroup is frozen, and so is what is put there")]
    Frozen,
    /// The same, for a reason that is not to be seen.
    #[error("a process in the pod's cgroup did not come to its end in {} s", DEADLINE.as_secs())]
    Late,
    /// It ended without sockets.
    #[error("a process in the pod's cgroup ended before its time: {0}")]
    Ended(#[source] io::Error),
}

/// Sockets to make in one network namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order<'a> {
    pub(super) namespace: BorrowedFd<'a>,
    /// What socket(2) is asked for: domain, type, protocol.
    pub(super) sockets: &'a [[c_int; 3]],
}

/// How the names of these cgroups begin.
pub(crate) fn prefix() -> String {
    format!("isolate-verify-{}-", std::process::id())
}

/// A cgroup for the child; it goes when this is dropped.
#[derive(Debug)]
pub(super) struct Leaf(PathBuf);

impl Leaf {
    pub(super) fn new(pod: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = pod.join(format!("{}{number}", prefix()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    fn is_frozen(&self) -> bool {
        let events = fs::read_to_string(self.0.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "frozen 1")
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        let end = Instant::now() + REAPING;
        while let Err(error) = fs::remove_dir(&self.0) {
            if error.kind() == io::ErrorKind::NotFound || Instant::now() > end {
                tracing::debug!(path = %self.0.display(), %error, "the cgroup of a verification");
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Makes the sockets in a cgroup, by order; none where the kernel refuses one.
pub(super) fn sockets(leaf: &Leaf, orders: &[Order<'_>]) -> Result<Vec<Vec<Option<OwnedFd>>>, ChildError> {
    let procs = File::options().write(true).open(leaf.0.join("cgroup.procs")).map_err(ChildError::Cgroup)?;
    let (ours, its) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| ChildError::Start(errno.into()))?;
    let mut made = [-1; MOST];
    let number = orders.iter().map(|order| order.sockets.len()).sum::<usize>();
    let made = made.get_mut(..number).ok_or_else(|| ChildError::Start(io::ErrorKind::ArgumentListTooLong.into()))?;
    // SAFETY: the child has this thread alone, makes system calls on memory and descriptors that it has a copy of, and
    // ends: it allocates nothing and takes no lock that another thread may have held.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: as above; it does not return.
        unsafe { work(procs.as_raw_fd(), its.as_raw_fd(), orders, made) };
    }
    let Some(pid) = Pid::from_raw(pid).filter(|pid| pid.as_raw_pid() > 0) else {
        return Err(ChildError::Start(io::Error::last_os_error()));
    };
    drop(its);
    let sockets = receive(ours.as_fd(), number, leaf);
    // It has ended, or has had its time.
    if let Err(errno) =
        kill_process(pid, Signal::KILL).and_then(|()| waitpid(Some(pid), WaitOptions::empty()).map(drop))
    {
        tracing::debug!(%errno, "the process of a verification");
    }
    let mut sockets = sockets?.into_iter();
    Ok(orders.iter().map(|order| sockets.by_ref().take(order.sockets.len()).collect()).collect())
}

fn receive(from: BorrowedFd<'_>, number: usize, leaf: &Leaf) -> Result<Vec<Option<OwnedFd>>, ChildError> {
    let deadline = Timespec { tv_sec: DEADLINE.as_secs().cast_signed(), tv_nsec: 0 };
    let mut ready = [PollFd::from_borrowed_fd(from, PollFlags::IN)];
    match poll(&mut ready, Some(&deadline)) {
        Ok(0) => return Err(if leaf.is_frozen() { ChildError::Frozen } else { ChildError::Late }),
        Ok(_) => {}
        Err(errno) => return Err(ChildError::Ended(errno.into())),
    }
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut buffer = RecvAncillaryBuffer::new(&mut space);
    let mut present = [0_u8; MOST];
    let message = recvmsg(from, &mut [io::IoSliceMut::new(&mut present)], &mut buffer, RecvFlags::CMSG_CLOEXEC)
        .map_err(|errno| ChildError::Ended(errno.into()))?;
    if message.bytes != number {
        return Err(ChildError::Ended(io::ErrorKind::UnexpectedEof.into()));
    }
    let rights = buffer.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let mut rights = rights.flatten();
    Ok(present[..number].iter().map(|present| if *present == 1 { rights.next() } else { None }).collect())
}

/// What the child does. A socket that it cannot make stays -1, and the byte of its number 0.
///
/// # Safety
/// Only in a process that was forked just now; the descriptors are open.
unsafe fn work(procs: RawFd, to: RawFd, orders: &[Order<'_>], made: &mut [RawFd]) -> ! {
    let (mut present, mut fds, mut count) = ([0_u8; MOST], [0 as RawFd; MOST], 0);
    // SAFETY: system calls on plain numbers and on memory of this function's own.
    unsafe {
        // Nobody in the pod may look into this copy of the agent, whatever it may trace.
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        if libc::write(procs, b"0".as_ptr().cast(), 1) != 1 {
            libc::_exit(1);
        }
        let mut at = 0;
        for order in orders {
            let entered = libc::setns(order.namespace.as_raw_fd(), libc::CLONE_NEWNET) == 0;
            for &[domain, style, protocol] in order.sockets {
                if entered {
                    made[at] = libc::socket(domain, style | libc::SOCK_CLOEXEC, protocol);
                }
                if made[at] >= 0 {
                    present[at] = 1;
                    fds[count] = made[at];
                    count += 1;
                }
                at += 1;
            }
        }
        libc::_exit(c_int::from(!send(to, &mut present[..at], &fds[..count])));
    }
}

/// One message with all of them.
///
/// # Safety
/// As for [`work`].
unsafe fn send(to: RawFd, present: &mut [u8], fds: &[RawFd]) -> bool {
    const SPACE: usize = 16 + MOST * size_of::<RawFd>() + 8;
    #[repr(align(8))]
    struct Control([u8; SPACE]);
    let mut control = Control([0; SPACE]);
    let mut data = libc::iovec { iov_base: present.as_mut_ptr().cast(), iov_len: present.len() };
    // SAFETY: the header is zeroed and points to memory of the callers' that outlives the call; the control buffer has
    // room for a header and as many descriptors as there can be, and is aligned for both.
    unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &raw mut data;
        header.msg_iovlen = 1;
        if !fds.is_empty() {
            let Ok(bytes) = libc::c_uint::try_from(size_of_val(fds)) else { return false };
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(bytes) as _;
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(bytes) as _;
            std::ptr::copy_nonoverlapping(fds.as_ptr(), libc::CMSG_DATA(message).cast(), fds.len());
        }
        libc::sendmsg(to, &raw const header, libc::MSG_NOSIGNAL) >= 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::socket::{SET, Shape};

    /// Where the cgroup hierarchy is mounted.
    fn unified() -> Option<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("procfs");
        let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
        mount.split(' ').nth(1).map(PathBuf::from)
    }

    #[test]
    fn sockets_come_over_and_nothing_stays() {
        let Some(root) = unified().filter(|_| rustix::process::geteuid().is_root()) else {
            eprintln!("skipped: needs root and a cgroup2 hierarchy");
            return;
        };
        let leaf = Leaf::new(&root).expect("a cgroup");
        let path = leaf.0.clone();
        let own = File::open("/proc/thread-self/ns/net").expect("a namespace");
        let set = SET.map(Shape::arguments);
        let order = Order { namespace: own.as_fd(), sockets: &set };
        let made = sockets(&leaf, &[order, order]).expect("sockets");
        assert_eq!(made.iter().map(Vec::len).collect::<Vec<_>>(), [SET.len(), SET.len()]);
        assert!(made.iter().flatten().all(Option::is_some), "{made:?}");
        fs::write(path.join("cgroup.freeze"), "1").expect("the freezer");
        assert!(matches!(sockets(&leaf, &[order]), Err(ChildError::Frozen)));
        drop(leaf);
        assert!(!path.exists());
    }
}
