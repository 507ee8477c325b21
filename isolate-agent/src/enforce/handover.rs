//! Whether a program on the node can bring frames into a pod past the host end of its veth.

use std::{collections::BTreeMap, io, os::fd::AsFd as _};

use aya_obj::generated::bpf_prog_type::{self, BPF_PROG_TYPE_SCHED_ACT, BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_XDP};
use isolate_common::names;

use super::sys;

/// Programs that can: those of tc by `bpf_redirect_peer` (since Linux 5.10, commit 9aa1206e8f48), those of XDP by a redirection, which
/// `veth_xdp_xmit` takes to the inner end past the queueing layer.
const KINDS: [bpf_prog_type; 3] = [BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_SCHED_ACT, BPF_PROG_TYPE_XDP];

/// Programs of agents like this one for interfaces: they hand nothing over. Whoever gives that name to another one, and attaches it
/// on the node, could as well detach ours.
const OURS: [&str; 8] = [
    names::VETH_IN,
    names::VETH_OUT,
    names::NETDEV_IN,
    names::NETDEV_OUT,
    names::NETDEV_DROP,
    names::XDP_IN,
    names::XDP_DROP,
    names::GUARD,
];

/// The programs that are loaded on the node.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// By id, which is not given out twice; and whether it is one that can, and not ours.
    known: BTreeMap<u32, bool>,
}

impl Loaded {
    /// Looks at all of them; whether none can hand frames over. Where that cannot be told, one may.
    pub(super) fn look(&mut self) -> bool {
        let before = std::mem::take(&mut self.known);
        self.look_behind(0, &before)
    }

    /// The same, with a look only at those that were loaded since.
    pub(super) fn look_on(&mut self) -> bool {
        let last = self.known.last_key_value().map_or(0, |(id, _)| *id);
        self.look_behind(last, &BTreeMap::new())
    }

    fn look_behind(&mut self, mut last: u32, before: &BTreeMap<u32, bool>) -> bool {
        loop {
            match sys::next_program(last) {
                Ok(Some(id)) => {
                    let known = before.get(&id).copied().map_or_else(|| can(id), Ok);
                    // One that is gone by now hands nothing over.
                    self.known.insert(id, known.unwrap_or_else(|error| error.raw_os_error() != Some(libc::ENOENT)));
                    last = id;
                }
                Ok(None) => return !self.known.values().any(|can| *can),
                Err(error) => {
                    tracing::debug!(%error, "the node's programs cannot be listed");
                    return false;
                }
            }
        }
    }
}

fn can(id: u32) -> io::Result<bool> {
    let facts = sys::program_facts(sys::program_by_id(id)?.as_fd())?;
    Ok(KINDS.iter().any(|kind| *kind as u32 == facts.kind) && !OURS.contains(&facts.name.as_str()))
}
