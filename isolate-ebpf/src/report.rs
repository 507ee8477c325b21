//! Errors in the programs: always counted, and told through aya-log as far as its ring has room.
//!
//! No way of an ordinary packet comes by here, so what a pod sends fills no ring.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use aya_log_ebpf::error;
use isolate_common::KernelError;

use crate::lookup::ENTRIES;

#[map]
static ISO_ERRORS: PerCpuArray<u64> = PerCpuArray::with_max_entries(ENTRIES, 0);

/// Counts an error, and tells what it is `about`: a cgroup id or a slot.
#[inline(always)]
pub(crate) fn report(error: KernelError, about: u64) {
    if let Some(count) = ISO_ERRORS.get_ptr_mut(error as u32) {
        // SAFETY: the map's value, this CPU's own copy.
        unsafe { *count += 1 };
    }
    tell(error as u32, about);
}

/// A function of its own: inlined, it would stand six times in each program. Two numbers, which the agent puts into words: each text
/// costs some 400 instructions. A number comes back because the verifier wants each function to set its result.
#[inline(never)]
fn tell(error: u32, about: u64) -> u64 {
    error!((), "{} {}", error, about);
    0
}
