//! Links: made, updated, detached, and what they say of themselves.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{
    BPF_F_AFTER, BPF_F_BEFORE, BPF_F_LINK, XDP_FLAGS_SKB_MODE, bpf_attach_type, bpf_cmd, bpf_link_info, bpf_link_type,
};

use super::{as_fd_field, bpf, new_fd, zeroed};

/// Where a link is to be attached.
#[derive(Clone, Copy, Debug)]
pub(in crate::enforce) enum Target<'fd> {
    /// An interface of this thread's network namespace, first in its chain.
    FirstOn(u32),
    /// The same, right behind the program of this link.
    Behind(u32, BorrowedFd<'fd>),
    /// An interface of this thread's network namespace, before its packet sockets: XDP in generic mode.
    Unseen(u32),
    /// A cgroup directory.
    Cgroup(BorrowedFd<'fd>),
}

/// What a link says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::enforce) struct LinkFacts {
    /// Its id; no other link ever gets it.
    pub(in crate::enforce) id: u32,
    /// Id of its program.
    pub(in crate::enforce) program: u32,
    /// What it is attached to.
    pub(in crate::enforce) place: Place,
}

/// What a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::enforce) enum Place {
    /// The chain of an interface, by index.
    Interface(u32),
    /// An interface's XDP, by index.
    Xdp(u32),
    /// A pair of netkit devices, at this attach point. The kernel tells the index of the device whose frames it sees, which for
    /// what comes out of the pod is the one inside; the chain of the host end tells whether the link is there.
    Netkit(bpf_attach_type),
    /// A cgroup, by id.
    Cgroup(u64),
    /// Nothing any more: its interface or cgroup is gone. (The kernel reports index or id 0.)
    Nowhere,
}

/// `BPF_LINK_CREATE`: attaches `program`. The link lives as long as the descriptor, or a pin of it.
///
/// A cgroup link always coexists with others and takes no flags. On an interface ours goes before all programs that
/// are there; on kernels without tcx (before 6.6, commit e420bed02507) this fails with EINVAL. netkit (6.7, commit
/// 35dfaad7188c) takes the same fields, and only for the primary device of a pair (EACCES). An interface has one XDP program in a
/// mode (EBUSY), and none beside one in another mode, or on a device above it (EEXIST; `dev_xdp_attach`, net/core/dev.c).
pub(in crate::enforce) fn link_create(
    program: BorrowedFd<'_>,
    target: Target<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.attach_type = attach_type as u32;
    attr.link_create.__bindgen_anon_1.prog_fd = as_fd_field(program.as_raw_fd());
    match target {
        Target::FirstOn(ifindex) => {
            attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
            attr.link_create.flags = BPF_F_BEFORE;
        }
        Target::Behind(ifindex, link) => {
            attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
            attr.link_create.flags = BPF_F_AFTER | BPF_F_LINK;
            attr.link_create.__bindgen_anon_3.tcx.__bindgen_anon_1.relative_fd = as_fd_field(link.as_raw_fd());
        }
        Target::Unseen(ifindex) => {
            attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
            attr.link_create.flags = XDP_FLAGS_SKB_MODE;
        }
        Target::Cgroup(directory) => {
            attr.link_create.__bindgen_anon_2.target_fd = as_fd_field(directory.as_raw_fd());
        }
    }
    new_fd(bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?)
}

/// `BPF_LINK_UPDATE`: gives a link another program, at once and in its place. tcx, netkit, XDP and cgroup links can.
pub(in crate::enforce) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = as_fd_field(link.as_raw_fd());
    attr.link_update.__bindgen_anon_1.new_prog_fd = as_fd_field(program.as_raw_fd());
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// `BPF_LINK_DETACH`: detaches a link before it returns, whoever else still holds it (since Linux 5.9).
pub(in crate::enforce) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_detach.link_fd = as_fd_field(link.as_raw_fd());
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// `BPF_OBJ_GET_INFO_BY_FD` on a link.
pub(in crate::enforce) fn link_facts(link: BorrowedFd<'_>) -> io::Result<LinkFacts> {
    // SAFETY: plain integers; the kernel overwrites what it knows of.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed();
    attr.info.bpf_fd = as_fd_field(link.as_raw_fd());
    attr.info.info_len = u32::try_from(size_of::<bpf_link_info>()).expect("some hundred bytes");
    attr.info.info = (&raw mut info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    let place = if info.type_ == bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
        // SAFETY: the kernel fills this member for links of this type.
        match unsafe { info.__bindgen_anon_1.tcx.ifindex } {
            0 => Place::Nowhere,
            ifindex => Place::Interface(ifindex),
        }
    } else if info.type_ == bpf_link_type::BPF_LINK_TYPE_XDP as u32 {
        // SAFETY: the kernel fills this member for links of this type.
        match unsafe { info.__bindgen_anon_1.xdp.ifindex } {
            0 => Place::Nowhere,
            ifindex => Place::Xdp(ifindex),
        }
    } else if info.type_ == bpf_link_type::BPF_LINK_TYPE_NETKIT as u32 {
        // SAFETY: the kernel fills this member for links of this type.
        let netkit = unsafe { info.__bindgen_anon_1.netkit };
        let points = [bpf_attach_type::BPF_NETKIT_PRIMARY, bpf_attach_type::BPF_NETKIT_PEER];
        match points.into_iter().find(|point| *point as u32 == netkit.attach_type) {
            Some(point) if netkit.ifindex != 0 => Place::Netkit(point),
            _ => Place::Nowhere,
        }
    } else if info.type_ == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 {
        // SAFETY: the kernel fills this member for links of this type.
        match unsafe { info.__bindgen_anon_1.cgroup.cgroup_id } {
            0 => Place::Nowhere,
            id => Place::Cgroup(id),
        }
    } else {
        Place::Nowhere
    };
    Ok(LinkFacts { id: info.id, program: info.prog_id, place })
}
