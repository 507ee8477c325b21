//! The maps, and the bounded steps from a packet to its pod.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id},
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
    programs::SkBuffContext,
};
use isolate_common::{
    Direction, Exemption, GATE_SHUT, Hook, KernelError, Lookup, MAX_CGROUP_LEVEL, Near, Nearby, PLACES, Policy,
    SlotCounters,
};

use crate::report::report;

/// The agent sets every size when it creates the maps; these only keep the object loadable by itself.
pub(crate) const ENTRIES: u32 = 1;

#[map]
static ISO_GATE: Array<u32> = Array::with_max_entries(1, 0);
#[map]
static ISO_CGROUP: HashMap<u64, u32> = HashMap::with_max_entries(ENTRIES, 0);
#[map]
static ISO_IFINDEX: HashMap<u32, u32> = HashMap::with_max_entries(ENTRIES, 0);
#[map]
static ISO_NEAR_CGROUP: Array<Near> = Array::with_max_entries(PLACES, 0);
#[map]
static ISO_NEAR_VETH: Array<Near> = Array::with_max_entries(PLACES, 0);
#[map]
static ISO_POLICY: Array<Policy> = Array::with_max_entries(ENTRIES, 0);
#[map]
static ISO_COUNTERS: PerCpuArray<SlotCounters> = PerCpuArray::with_max_entries(ENTRIES, 0);

/// The gate as a variable: in the programs of the veth hook the agent puts the one value of [`ISO_GATE`] in its place. A look-up would
/// be most of what they do to a healthy pod's packet. In a program that is loaded otherwise the gate stays open, and packets are
/// looked up.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data")]
static mut ISO_GATE_VALUE: u32 = u32::MAX;

/// Which pod this copy of a program was loaded for; the agent sets it.
#[unsafe(no_mangle)]
static ISO_SLOT: u32 = 0;

/// The host end that this copy of a program was loaded for; the agent sets it where the packet does not say it.
#[unsafe(no_mangle)]
static ISO_HOST_END: u32 = 0;

/// Whose packet it is.
#[derive(Clone, Copy)]
pub(crate) enum Attribution {
    /// No isolated pod's.
    Nobody,
    /// An isolated pod's, but which one cannot be told.
    Unknown,
    /// That of the pod in this slot.
    Slot(u32),
}

/// Whether nobody is isolated, for the veth hook.
#[inline(always)]
pub(crate) fn is_gate_shut() -> bool {
    // SAFETY: a `u32`, which is written whole. Read as volatile because it is the agent that writes it.
    unsafe { (&raw const ISO_GATE_VALUE).read_volatile() == GATE_SHUT }
}

/// The gate, as the levels of isolated pods' cgroups; unreadable counts as open at every level.
#[inline(always)]
fn levels() -> u32 {
    let Some(gate) = ISO_GATE.get(0) else {
        report(KernelError::NoGate, 0);
        return u32::MAX;
    };
    *gate
}

#[inline(always)]
pub(crate) fn own_slot() -> u32 {
    // SAFETY: a constant of this object; read as volatile because its value is the loader's, not the compiler's.
    unsafe { core::ptr::read_volatile(&raw const ISO_SLOT) }
}

/// The host end that is known beforehand: that of a netkit device, in the program for what goes into the pod.
#[inline(always)]
pub(crate) fn host_end() -> Option<u32> {
    // SAFETY: as above.
    let ifindex = unsafe { core::ptr::read_volatile(&raw const ISO_HOST_END) };
    if ifindex == 0 { None } else { Some(ifindex) }
}

#[inline(always)]
pub(crate) fn slot_of_ifindex(ifindex: u32) -> Attribution {
    let slot = match nearby(&ISO_NEAR_VETH, ifindex.into()) {
        Nearby::Nobody => None,
        Nearby::Slot(slot) => Some(slot),
        Nearby::Ask => read(ISO_IFINDEX.get_ptr(ifindex)),
    };
    slot.map_or(Attribution::Nobody, Attribution::Slot)
}

#[inline(always)]
fn slot_of_id(id: u64) -> Option<u32> {
    match nearby(&ISO_NEAR_CGROUP, id) {
        Nearby::Nobody => None,
        Nearby::Slot(slot) => Some(slot),
        Nearby::Ask => read(ISO_CGROUP.get_ptr(id)),
    }
}

/// Every key has a place; without one the hash says it all.
#[inline(always)]
fn nearby(table: &Array<Near>, key: u64) -> Nearby {
    table.get(Near::place(key)).map_or(Nearby::Ask, |near| near.says(key))
}

/// From the top of the hierarchy down, so that a cluster nested in a pod counts as that pod.
///
/// The helper needs a full socket, which `cgroup_skb` guarantees (`__cgroup_bpf_run_filter_skb`, kernel/bpf/cgroup.c).
#[inline(always)]
pub(crate) fn slot_of_cgroup(ctx: &SkBuffContext) -> Attribution {
    // SAFETY: the context is the program's own; any level is allowed, and one that does not exist reads 0.
    let found = slot_of_ancestor(|level| unsafe { bpf_skb_ancestor_cgroup_id(ctx.as_ptr().cast(), level) });
    if let Some(slot) = found {
        return Attribution::Slot(slot);
    }
    // SAFETY: as above.
    report(KernelError::CgroupWithoutKey, unsafe { bpf_skb_cgroup_id(ctx.as_ptr().cast()) });
    Attribution::Unknown
}

/// The slot of the process that is running. None where it uses an isolated pod's socket and is of another cgroup.
#[inline(always)]
pub(crate) fn slot_of_process() -> Option<u32> {
    // SAFETY: any level is allowed, and one that does not exist reads 0.
    slot_of_ancestor(|level| unsafe { bpf_get_current_ancestor_cgroup_id(level) })
}

#[inline(always)]
fn slot_of_ancestor(ancestor: impl Fn(i32) -> u64) -> Option<u32> {
    let levels = levels();
    let mut level = 1;
    while level <= MAX_CGROUP_LEVEL {
        if levels & (1 << level) != 0 {
            let id = ancestor(level.cast_signed());
            if id == 0 {
                break;
            }
            if let Some(slot) = slot_of_id(id) {
                return Some(slot);
            }
        }
        level += 1;
    }
    None
}

#[inline(always)]
pub(crate) fn policy(slot: u32) -> Lookup<'static> {
    match ISO_POLICY.get(slot) {
        Some(policy) if policy.is_in_use() => Lookup::Found(policy),
        _ => {
            report(KernelError::KeyWithoutPolicy, u64::from(slot));
            Lookup::Broken
        }
    }
}

#[inline(always)]
pub(crate) fn count(slot: u32, exemption: Option<Exemption>, hook: Hook, direction: Direction, bytes: u32) {
    let Some(counters) = ISO_COUNTERS.get_ptr_mut(slot) else {
        report(KernelError::SlotWithoutCounter, u64::from(slot));
        return;
    };
    // SAFETY: the map's value, this CPU's own copy. A softirq that interrupts a cgroup program between load and store can
    // lose its one count; an atomic would cost every dropped packet more than that is worth.
    let counters = unsafe { &mut *counters };
    let counter = match exemption {
        None => &mut counters.dropped[hook as usize][direction as usize],
        Some(exemption) => &mut counters.exempted[exemption as usize][hook as usize][direction as usize],
    };
    counter.packets += 1;
    counter.bytes += u64::from(bytes);
}

#[inline(always)]
fn read(value: Option<*const u32>) -> Option<u32> {
    // SAFETY: a map value stays readable for the program that looked it up (RCU), and a u32 is read whole.
    value.map(|value| unsafe { *value })
}
