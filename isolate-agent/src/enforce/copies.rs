//! Copies of programs: in front where the pinned ones are in the chain already, and with constants of their own.

use std::os::fd::OwnedFd;

use isolate_common::{Direction, names};

use super::{EnforceError, maps::Maps, object};
use crate::{inventory::IfIndex, observed::Slot};

/// The packet tells it.
const NO_HOST_END: IfIndex = IfIndex(0);

/// The copies that were loaded last.
#[derive(Debug, Default)]
pub(super) struct VethCopies {
    last: Option<[OwnedFd; 2]>,
}

impl VethCopies {
    /// A copy of the program for a direction; a fresh one is in no chain yet.
    pub(super) fn of(&mut self, maps: &Maps, direction: Direction, fresh: bool) -> Result<&OwnedFd, EnforceError> {
        if fresh || self.last.is_none() {
            self.last = Some(object::copies(maps, Slot::NOBODYS, NO_HOST_END, [names::VETH_IN, names::VETH_OUT])?);
        }
        let copies = self.last.as_ref().expect("it was set above");
        Ok(&copies[direction as usize])
    }
}

/// A copy of one of the netdev hook's programs for the pod in a slot.
pub(super) fn of_slot(maps: &Maps, slot: Slot, name: &'static str) -> Result<OwnedFd, EnforceError> {
    object::copies(maps, slot, NO_HOST_END, [name]).map(|[program]| program)
}

/// A copy of the veth hook's program for what goes into a pod, which knows the pod's host end.
pub(super) fn of_host_end(maps: &Maps, ifindex: IfIndex) -> Result<OwnedFd, EnforceError> {
    object::copies(maps, Slot::NOBODYS, ifindex, [names::VETH_IN]).map(|[program]| program)
}
