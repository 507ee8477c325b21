//! Copies of the veth hook's programs: they stand in front where the pinned ones are in the chain already.

use std::os::fd::OwnedFd;

use isolate_common::{Direction, names};

use super::{EnforceError, maps::Maps, object};
use crate::observed::Slot;

/// The copies that were loaded last.
#[derive(Debug, Default)]
pub(super) struct VethCopies {
    last: Option<[OwnedFd; 2]>,
}

impl VethCopies {
    /// A copy of the program for a direction; a fresh one is in no chain yet.
    pub(super) fn of(&mut self, maps: &Maps, direction: Direction, fresh: bool) -> Result<&OwnedFd, EnforceError> {
        if fresh || self.last.is_none() {
            self.last = Some(object::copies(maps, Slot::NOBODYS, [names::VETH_IN, names::VETH_OUT])?);
        }
        let copies = self.last.as_ref().expect("it was set above");
        Ok(&copies[direction as usize])
    }
}
