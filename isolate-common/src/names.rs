//! Names of the maps and programs, as `bpftool` shows them (the kernel keeps 15 bytes).

/// Array of one `u32`: the gate. Zero lets every packet pass at once; see [`crate::gate_for`].
pub const GATE: &str = "ISO_GATE";
/// Hash, cgroup id (`u64`) of an isolated pod's pod-level cgroup to slot (`u32`).
pub const CGROUP: &str = "ISO_CGROUP";
/// Hash, ifindex (`u32`) of an isolated pod's host veth in the node's network namespace to slot (`u32`).
pub const IFINDEX: &str = "ISO_IFINDEX";
/// Array, place of a cgroup id to [`crate::Near`]: what is in [`CGROUP`], read without a call.
pub const NEAR_CGROUP: &str = "ISO_NEAR_CGROUP";
/// Array, place of an ifindex to [`crate::Near`]: what is in [`IFINDEX`], read without a call.
pub const NEAR_VETH: &str = "ISO_NEAR_VETH";
/// Array, slot to [`crate::Policy`].
pub const POLICY: &str = "ISO_POLICY";
/// Per-CPU array, slot to [`crate::SlotCounters`].
pub const COUNTERS: &str = "ISO_COUNTERS";
/// Per-CPU array, [`crate::KernelError`] to its count (`u64`).
pub const ERRORS: &str = "ISO_ERRORS";

/// Array of one [`crate::NodeFacts`].
pub const NODE: &str = "ISO_NODE";
/// Hash, ifindex (`u32`) of an isolated pod's host veth to [`crate::LinkFacts`].
pub const LINK: &str = "ISO_LINK";
/// LPM trie, [`crate::AllowKey`] to [`crate::AllowRules`].
pub const ALLOW: &str = "ISO_ALLOW";
/// LRU hash, [`crate::FlowKey`] to [`crate::Flow`].
pub const FLOW: &str = "ISO_FLOW";
/// Array, slot to [`crate::Window`].
pub const WINDOW: &str = "ISO_WINDOW";

/// Ring buffer of aya-log: what the programs say about their errors. The library gave it its name.
pub const LOGS: &str = "AYA_LOGS";

/// All maps that are pinned and shared.
pub const MAPS: [&str; 14] =
    [GATE, CGROUP, IFINDEX, NEAR_CGROUP, NEAR_VETH, POLICY, COUNTERS, ERRORS, LOGS, NODE, LINK, ALLOW, FLOW, WINDOW];

/// `cgroup_skb` ingress: packets that reach a socket of the pod.
pub const CGROUP_IN: &str = "iso_cgroup_in";
/// `cgroup_skb` egress: packets that a socket of the pod sends.
pub const CGROUP_OUT: &str = "iso_cgroup_out";
/// tcx egress of the host veth: frames on their way into the pod.
pub const VETH_IN: &str = "iso_veth_in";
/// tcx ingress of the host veth: frames that come out of the pod.
pub const VETH_OUT: &str = "iso_veth_out";
/// tcx ingress of an interface inside the pod's namespace: frames that come in there.
pub const NETDEV_IN: &str = "iso_netdev_in";
/// The same for a pod without exemptions.
pub const NETDEV_DROP: &str = "iso_netdev_drop";
/// XDP of an interface inside the pod's namespace: frames that come in there, before any packet socket sees them.
pub const XDP_IN: &str = "iso_xdp_in";
/// The same for a pod without exemptions.
pub const XDP_DROP: &str = "iso_xdp_drop";
/// tcx egress of an interface inside the pod's namespace: frames that go out there.
pub const NETDEV_OUT: &str = "iso_netdev_out";
/// Behind one of those on an interface while it is being verified: drops and counts the probes that it let through.
pub const GUARD: &str = "iso_guard";
/// Per-CPU array of one `u64`, not pinned: how many those were.
pub const PROBES: &str = "ISO_PROBES";
/// Constant of the guard: the source address of the probes.
pub const PROBE_SOURCE: &str = "ISO_SOURCE";
/// `lsm_cgroup` on `socket_create`: refuses new packet sockets.
pub const LSM_CREATE: &str = "iso_lsm_create";
/// `lsm_cgroup` on `socket_sendmsg`: refuses to send on packet sockets.
pub const LSM_SEND: &str = "iso_lsm_send";
/// `lsm_cgroup` on `socket_recvmsg`: refuses to receive on packet sockets.
pub const LSM_RECEIVE: &str = "iso_lsm_receive";
/// `lsm_cgroup` on `capable`: refuses `CAP_NET_ADMIN`.
pub const LSM_CAPABLE: &str = "iso_lsm_capable";
/// Constant of the netdev programs: the slot of the one pod that this copy was loaded for. An ifindex means nothing
/// outside its namespace, and a program is not told the namespace (tc has no `bpf_get_netns_cookie` before 6.15).
pub const NETDEV_SLOT: &str = "ISO_SLOT";

/// Constant of the programs of the veth hook: the host end that this copy was loaded for, or 0 where the packet says it. On
/// its way into the pod a packet that a netkit device sends has the index of the pod's end already (`netkit_xmit`,
/// drivers/net/netkit.c), which means nothing outside the pod's namespace.
pub const HOST_END: &str = "ISO_HOST_END";

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAMS: [&str; 14] = [
        GUARD,
        CGROUP_IN,
        CGROUP_OUT,
        VETH_IN,
        VETH_OUT,
        NETDEV_IN,
        NETDEV_OUT,
        NETDEV_DROP,
        XDP_IN,
        XDP_DROP,
        LSM_CREATE,
        LSM_SEND,
        LSM_RECEIVE,
        LSM_CAPABLE,
    ];

    #[test]
    fn names_fit_the_kernel() {
        // BPF_OBJ_NAME_LEN is 16 with the terminating zero.
        for name in MAPS.iter().chain(&PROGRAMS).chain(&[PROBES]) {
            assert!(name.len() <= 15, "{name} would be cut");
        }
    }
}
