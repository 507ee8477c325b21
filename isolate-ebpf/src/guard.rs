//! Probes of a verification: known by their source address, which is the loader's and random.

use aya_ebpf::{macros::map, maps::PerCpuArray, programs::TcContext};

/// Where an Ethernet header has its source address.
const SOURCE: usize = 6;

/// How many probes came by.
#[map]
static ISO_PROBES: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The source address of the probes; the agent sets it.
#[unsafe(no_mangle)]
static ISO_SOURCE: [u8; 6] = [0; 6];

/// Counts a probe.
#[inline(always)]
pub(crate) fn is_probe(ctx: &TcContext) -> bool {
    // SAFETY: a constant of this object; read as volatile because its value is the loader's, not the compiler's.
    let source = unsafe { core::ptr::read_volatile(&raw const ISO_SOURCE) };
    let Ok(from) = ctx.load::<[u8; 6]>(SOURCE) else { return false };
    let mut byte = 0;
    while byte < from.len() {
        if from[byte] != source[byte] {
            return false;
        }
        byte += 1;
    }
    if let Some(count) = ISO_PROBES.get_ptr_mut(0) {
        // SAFETY: the map's value, this CPU's own copy.
        unsafe { *count += 1 };
    }
    true
}
