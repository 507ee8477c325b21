//! The tables that a packet's interface or cgroup is looked up in before the hash of isolated pods' is.
//!
//! They are direct-mapped: a key has one place, which it shares with every key that is a multiple of [`PLACES`] away. The
//! programs read an array inline; asking a hash is a call of the kernel, which healthy pods would pay for while anybody is
//! isolated. The hash stays the truth, and alone tells those apart that share a place.

/// Places in a table, 8 bytes each: few of a thousand isolated pods share one, and it stays in a core's cache.
pub const PLACES: u32 = 8192;

/// Bits of a value that are the key; the others are the slot. An ifindex has 32. A cgroup id begins as small, and has
/// more when the kernel has handed 2^32 of them out (`kernfs_new_node`, fs/kernfs/dir.c).
const KEY_BITS: u32 = 40;
const KEY: u64 = (1 << KEY_BITS) - 1;

/// What is at one place: a key and its slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Near(u64);

/// What a place says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nearby {
    /// It is no isolated pod's.
    Nobody,
    /// It is that of the pod in this slot.
    Slot(u32),
    /// The place cannot tell: the hash knows.
    Ask,
}

impl Near {
    /// Nobody's.
    pub const NOBODY: Self = Self(0);
    /// Of several, or of one that does not fit.
    const ASK: Self = Self(u64::MAX);

    /// Where a key is in its table.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
    #[expect(clippy::cast_possible_truncation, reason = "there are fewer places")]
    pub const fn place(key: u64) -> u32 {
        (key % PLACES as u64) as u32
    }

    /// What belongs at a place, from all (key, slot) that have it. 0 is no key.
    pub fn of(keys: impl IntoIterator<Item = (u64, u32)>) -> Self {
        keys.into_iter().fold(Self::NOBODY, |near, (key, slot)| match near {
            Self::NOBODY if key < KEY && slot < 1 << (64 - KEY_BITS) => Self(u64::from(slot) << KEY_BITS | key),
            _ => Self::ASK,
        })
    }

    /// What this place says of a key that has it.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
    pub const fn says(self, key: u64) -> Nearby {
        if self.0 == Self::NOBODY.0 {
            return Nearby::Nobody;
        }
        if self.0 == Self::ASK.0 {
            return Nearby::Ask;
        }
        match self.halves() {
            (own, slot) if own == key => Nearby::Slot(slot),
            _ => Nearby::Nobody,
        }
    }

    /// The one key that this place is about, and its slot.
    pub const fn single(self) -> Option<(u64, u32)> {
        match self {
            Self::NOBODY | Self::ASK => None,
            near => Some(near.halves()),
        }
    }

    const fn halves(self) -> (u64, u32) {
        (self.0 & KEY, (self.0 >> KEY_BITS) as u32)
    }
}

#[cfg(feature = "user")]
// SAFETY: repr(transparent) over an integer.
unsafe impl aya::Pod for Near {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_place_is_nobodys() {
        assert_eq!(Near::of([]), Near::default());
        assert_eq!(Near::of([]).says(7), Nearby::Nobody);
    }

    #[test]
    fn what_does_not_fit_is_asked_for() {
        for (key, slot) in [(KEY, 1), (u64::MAX, 1), (1 << KEY_BITS | 7, 1), (7, u32::MAX), (7, 1 << 24)] {
            assert_eq!(Near::of([(key, slot)]).says(key), Nearby::Ask, "{key} {slot}");
        }
        assert_eq!(Near::of([(KEY - 1, (1 << 24) - 1)]).says(KEY - 1), Nearby::Slot((1 << 24) - 1));
    }

    /// Few enough that some share a place, and some that do not fit.
    fn key() -> impl Strategy<Value = u64> {
        let far = prop_oneof![0..4_u64, Just(1 << 30)];
        (1..5_u64, far).prop_map(|(near, far)| near + far * u64::from(PLACES))
    }

    proptest! {
        #[test]
        fn the_table_and_the_hash_together_say_what_the_hash_says(
            keys in prop::collection::btree_map(key(), 1..5_u32, 0..8),
            asked in key(),
        ) {
            let keys: BTreeMap<u64, u32> = keys;
            let sharing = keys.iter().filter(|(key, _)| Near::place(**key) == Near::place(asked));
            let near = Near::of(sharing.map(|(key, slot)| (*key, *slot)));
            let said = match near.says(asked) {
                Nearby::Nobody => None,
                Nearby::Slot(slot) => Some(slot),
                Nearby::Ask => keys.get(&asked).copied(),
            };
            prop_assert_eq!(said, keys.get(&asked).copied());
            if let Some((own, slot)) = near.single() {
                prop_assert_eq!(keys.get(&own), Some(&slot));
            }
        }
    }
}
