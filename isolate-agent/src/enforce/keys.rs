//! What leads from a packet to its pod's slot: a hash of keys, and the direct-mapped table that the programs read first.

use std::{collections::BTreeMap, os::fd::BorrowedFd};

use aya::{
    Pod,
    maps::{Array, HashMap, MapData},
};
use isolate_common::{Near, Nearby, PLACES};

use super::{
    EnforceError,
    maps::{failed, removed},
    sys,
};
use crate::{
    inventory::{CgroupId, IfIndex},
    observed::Slot,
};

/// What a packet is known by.
pub(super) trait Key: Copy + Ord {
    /// The same in the kernel's map.
    type Raw: Pod + Into<u64>;

    fn raw(self) -> Self::Raw;
    /// None for a number that is no such key.
    fn of(number: u64) -> Option<Self>;
}

impl Key for CgroupId {
    type Raw = u64;

    fn raw(self) -> u64 {
        self.0
    }

    fn of(number: u64) -> Option<Self> {
        Some(Self(number))
    }
}

impl Key for IfIndex {
    type Raw = u32;

    fn raw(self) -> u32 {
        self.0
    }

    fn of(number: u64) -> Option<Self> {
        number.try_into().ok().map(Self)
    }
}

/// Keys of one kind.
pub(super) struct Keys<K: Key> {
    pub(super) hash: HashMap<MapData, K::Raw, u32>,
    pub(super) table: Array<MapData, Near>,
    /// Names of the two maps.
    pub(super) names: [&'static str; 2],
}

impl<K: Key> Keys<K> {
    /// Every key and its slot; `table` is the table once more, to be read whole. Where the hash and the table do not agree, which a crash between two writes leaves, the slot
    /// is nobody's: the planner then sets or drops the key, in both.
    pub(super) fn observe(&self, table: BorrowedFd<'_>) -> Result<BTreeMap<K, Slot>, EnforceError> {
        let table: Vec<Near> =
            sys::array_values(table, 0, PLACES, 1).map_err(|error| failed("read", self.names[1])(error.into()))?;
        let agreed = |(key, slot): (K, Slot)| {
            let number = key.raw().into();
            let place = usize::try_from(Near::place(number)).expect("some thousands");
            match table[place].says(number) {
                Nearby::Ask => (key, slot),
                Nearby::Slot(near) if near == slot.0 => (key, slot),
                Nearby::Slot(_) | Nearby::Nobody => (key, Slot::NOBODYS),
            }
        };
        let mut keys: BTreeMap<K, Slot> = self.hashed()?.into_iter().map(agreed).collect();
        for key in table.iter().filter_map(|near| near.single()).filter_map(|(number, _)| K::of(number)) {
            keys.entry(key).or_insert(Slot::NOBODYS);
        }
        Ok(keys)
    }

    /// Sets one; `all` are those that there are.
    pub(super) fn set(&mut self, key: K, slot: Slot, all: &mut BTreeMap<K, Slot>) -> Result<(), EnforceError> {
        self.hash.insert(key.raw(), slot.0, 0).map_err(failed("write", self.names[0]))?;
        let before = all.insert(key, slot);
        self.tabulate(key, all).inspect_err(|_| put_back(key, before, all))
    }

    /// Drops one, likewise.
    pub(super) fn drop(&mut self, key: K, all: &mut BTreeMap<K, Slot>) -> Result<(), EnforceError> {
        removed(self.hash.remove(&key.raw())).map_err(failed("write", self.names[0]))?;
        let before = all.remove(&key);
        self.tabulate(key, all).inspect_err(|_| put_back(key, before, all))
    }

    /// Writes into the table what the hash has: an older layout's state came without it.
    pub(super) fn fill_table(&mut self) -> Result<(), EnforceError> {
        let keys = self.hashed()?;
        keys.keys().try_for_each(|key| self.tabulate(*key, &keys))
    }

    fn hashed(&self) -> Result<BTreeMap<K, Slot>, EnforceError> {
        let mut keys = BTreeMap::new();
        for entry in &self.hash {
            let (raw, slot) = entry.map_err(failed("read", self.names[0]))?;
            keys.extend(K::of(raw.into()).map(|key| (key, Slot(slot))));
        }
        Ok(keys)
    }

    /// Writes what belongs at the place of a key, if these are all.
    fn tabulate(&mut self, key: K, all: &BTreeMap<K, Slot>) -> Result<(), EnforceError> {
        let place = Near::place(key.raw().into());
        let numbers = all.iter().map(|(key, slot)| (key.raw().into(), slot.0));
        let near = Near::of(numbers.filter(|(number, _)| Near::place(*number) == place));
        self.table.set(place, near, 0).map_err(failed("write", self.names[1]))
    }
}

/// Makes it what it was before a write that failed.
fn put_back<K: Key>(key: K, before: Option<Slot>, all: &mut BTreeMap<K, Slot>) {
    match before {
        Some(slot) => all.insert(key, slot),
        None => all.remove(&key),
    };
}
