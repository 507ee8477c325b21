//! Copies of the veth hook's programs: they stand in front where the pinned ones are in the chain already.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use isolate_common::{Direction, names};

use super::{EnforceError, maps::Maps, object};
use crate::observed::Slot;

/// The copies that were loaded last.
#[derive(Debug)]
pub(super) struct VethCopies {
    folder: PathBuf,
    last: Option<[OwnedFd; 2]>,
}

impl VethCopies {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), last: None }
    }

    /// A copy of the program for a direction; a fresh one is in no chain yet.
    pub(super) fn of(&mut self, maps: &Maps, direction: Direction, fresh: bool) -> Result<&OwnedFd, EnforceError> {
        /// Of the netdev hook alone.
        const NO_SLOT: Slot = Slot(0);
        if fresh || self.last.is_none() {
            self.last = Some(object::copies(&self.folder, maps, NO_SLOT, [names::VETH_IN, names::VETH_OUT])?);
        }
        let copies = self.last.as_ref().expect("it was set above");
        Ok(&copies[direction as usize])
    }
}
