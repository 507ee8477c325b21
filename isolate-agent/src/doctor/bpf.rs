//! The one question to bpf(2) that aya has no call for.

use std::{io, mem};

use aya_obj::generated::{bpf_attr, bpf_cmd};

/// Whether the kernel has `BPF_LINK_CREATE` (5.7), whose first use are cgroup programs. Attaches nothing.
///
/// Without a program to attach, a kernel that knows the command says EBADF, one that does not says EINVAL. Errors
/// when it says something else, as a missing privilege or a seccomp filter makes it.
pub(super) fn has_links() -> io::Result<bool> {
    // SAFETY: all fields of the union are integers or arrays of them, for which zero is a value.
    let mut attr: bpf_attr = unsafe { mem::zeroed() };
    attr.link_create.__bindgen_anon_1.prog_fd = u32::MAX;
    attr.link_create.__bindgen_anon_2.target_fd = u32::MAX;
    // SAFETY: the kernel reads as many bytes of `attr` as its size says, and `attr` outlives the call.
    let returned = unsafe {
        libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_LINK_CREATE as libc::c_long, &raw const attr, size_of::<bpf_attr>())
    };
    let error = io::Error::last_os_error();
    match (returned, error.raw_os_error()) {
        (-1, Some(libc::EBADF)) => Ok(true),
        (-1, Some(libc::EINVAL)) => Ok(false),
        (-1, _) => Err(error),
        _ => unreachable!("file descriptor -1 is never a program"),
    }
}
