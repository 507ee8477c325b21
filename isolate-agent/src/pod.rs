//! Pod UIDs: their spellings, and what a user may type for one. Their names are in `name`.

mod name;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::name::{PodName, PodQuery, QueryError};

/// Fewest hex digits that a user may give of a UID.
pub const MIN_PREFIX: usize = 8;
const HEX_DIGITS: usize = 32;
const BITS_PER_DIGIT: usize = 4;
/// Lengths of the groups between the dashes of a UUID.
const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];

/// Why a text is no pod UID.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UidError {
    /// Something other than hex digits, dashes and underscores.
    #[error("pod UID {0:?} has characters other than hex digits, `-` and `_`")]
    NotHex(String),
    /// Too short to be a prefix, or too long to be a UID.
    #[error("pod UID {text:?} has {digits} hex digits; a UID has {HEX_DIGITS}, a prefix of one at least {MIN_PREFIX}")]
    Length {
        /// What was given.
        text: String,
        /// Its hex digits.
        digits: usize,
    },
    /// Separators that are not where a UUID has them.
    #[error("pod UID {0:?} has separators that are not where a UID has them (8-4-4-4-12)")]
    Shape(String),
}

/// The UID of a pod: a UUID, or for a static pod the hash of its manifest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid {
    bytes: [u8; 16],
    plain: bool,
}

impl PodUid {
    /// The UID with these 128 bits; `plain` ones are spelled without dashes (static pods).
    pub const fn new(bytes: [u8; 16], plain: bool) -> Self {
        Self { bytes, plain }
    }

    /// Its 128 bits, in the order in which they are spelled.
    pub const fn bytes(&self) -> [u8; 16] {
        self.bytes
    }

    /// Whether it is spelled without dashes.
    pub const fn is_plain(&self) -> bool {
        self.plain
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(HEX_DIGITS + GROUPS.len() - 1);
        for (index, byte) in self.bytes.iter().enumerate() {
            if !self.plain && matches!(index, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            for digit in [byte >> 4, byte & 0xf] {
                text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
            }
        }
        f.write_str(&text)
    }
}

impl fmt::Debug for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PodUid {
    type Err = UidError;

    /// Reads a whole UID: with dashes, with underscores (as cgroup names of the systemd driver have it) or without.
    fn from_str(text: &str) -> Result<Self, UidError> {
        let UidQuery { value, digits } = text.parse()?;
        if digits != HEX_DIGITS {
            return Err(UidError::Length { text: text.to_owned(), digits });
        }
        Ok(Self { bytes: value.to_be_bytes(), plain: !text.contains(['-', '_']) })
    }
}

impl Serialize for PodUid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PodUid {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a user typed for a pod: a UID in any spelling, or the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UidQuery {
    /// Of the digits that were typed, at least [`MIN_PREFIX`].
    value: u128,
    digits: usize,
}

impl UidQuery {
    /// Whether `uid` is the one meant, or one of those meant by a prefix.
    pub fn matches(&self, uid: &PodUid) -> bool {
        let beyond = (HEX_DIGITS - self.digits) * BITS_PER_DIGIT;
        u128::from_be_bytes(uid.bytes) >> beyond == self.value
    }
}

impl FromStr for UidQuery {
    type Err = UidError;

    fn from_str(text: &str) -> Result<Self, UidError> {
        if !text.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, '-' | '_')) {
            return Err(UidError::NotHex(text.to_owned()));
        }
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        if !(MIN_PREFIX..=HEX_DIGITS).contains(&digits.len()) {
            return Err(UidError::Length { text: text.to_owned(), digits: digits.len() });
        }
        if text.contains(['-', '_']) && !separators_fit(text) {
            return Err(UidError::Shape(text.to_owned()));
        }
        let value = u128::from_str_radix(&digits, 16).map_err(|_not_hex| UidError::NotHex(text.to_owned()))?;
        Ok(Self { value, digits: digits.len() })
    }
}

/// Whether the groups between the separators are a UUID's, the last one possibly cut short.
fn separators_fit(text: &str) -> bool {
    let groups: Vec<usize> = text.split(['-', '_']).map(str::len).collect();
    let Some((last, whole)) = groups.split_last() else {
        return false;
    };
    groups.len() <= GROUPS.len() && whole == &GROUPS[..whole.len()] && *last <= GROUPS[whole.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DASHED: &str = "0f0e0d0c-1234-4000-8000-0123456789ab";

    #[test]
    fn all_spellings_mean_the_same_pod() {
        let uid: PodUid = DASHED.parse().expect("a UID");
        assert_eq!(uid.to_string(), DASHED);
        assert_eq!(DASHED.replace('-', "_").parse::<PodUid>(), Ok(uid));
        for spelling in [DASHED.to_owned(), DASHED.replace('-', "_"), DASHED.replace('-', ""), DASHED.to_uppercase()] {
            assert!(spelling.parse::<UidQuery>().expect("a query").matches(&uid), "{spelling}");
        }
        let hash: PodUid = DASHED.replace('-', "").parse().expect("a hash");
        assert_eq!(hash.to_string(), DASHED.replace('-', ""));
    }

    #[test]
    fn a_prefix_means_what_begins_with_it() {
        let uid: PodUid = DASHED.parse().expect("a UID");
        for prefix in ["0f0e0d0c", "0f0e0d0c-", "0f0e0d0c-12", "0f0e0d0c12", "0F0E0D0C_1234_4"] {
            assert!(prefix.parse::<UidQuery>().expect("a query").matches(&uid), "{prefix}");
        }
        assert!(!"0f0e0d0d".parse::<UidQuery>().expect("a query").matches(&uid));
    }

    #[test]
    fn what_is_no_uid_is_refused() {
        let too_long = format!("{DASHED}00");
        for text in ["", "web-0", "0f0e0d0", "../../etc", &too_long, "0f0e-0d0c-1234", "0f0e0d0c--1234", "0f0e0d0c\n"] {
            assert!(text.parse::<UidQuery>().is_err(), "{text:?}");
        }
        assert!("0f0e0d0c".parse::<PodUid>().is_err(), "a prefix is no UID");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            let _read = text.parse::<UidQuery>();
            let _uid = text.parse::<PodUid>();
        }

        #[test]
        fn display_and_parse_agree(bytes in any::<[u8; 16]>(), plain in any::<bool>()) {
            let uid = PodUid::new(bytes, plain);
            prop_assert_eq!(uid.to_string().parse::<PodUid>(), Ok(uid));
        }
    }
}
