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

/// A function of its own: inlined, its text would stand six times in each program. A number comes back because the
/// verifier wants each function to set its result.
///
/// One line for each error: of a table of names the compiler would make pointers in data, which no loader follows.
#[inline(never)]
fn tell(error: u32, about: u64) -> u64 {
    if error == KernelError::CgroupWithoutKey as u32 {
        error!((), "packet dropped: no key leads from cgroup {} to an isolated pod", about);
    } else if error == KernelError::KeyWithoutPolicy as u32 {
        error!((), "packet dropped: a key leads to slot {}, which is vacant", about);
    } else if error == KernelError::SlotWithoutCounter as u32 {
        error!((), "packet dropped, and not counted: slot {} has no counter", about);
    } else {
        error!((), "the gate cannot be read: it counts as open");
    }
    0
}
