//! Hosts that an isolated pod may still talk to: how they are written, and what the kernel's map holds for them.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use isolate_common::{AllowKey, AllowRule, AllowRules, DIRECTIONS, Direction, RULES, packet::protocol};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most of them for one pod.
pub const MAX_ALLOWED: usize = 64;

/// Why something cannot be allowed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AllowError {
    /// Not of the form.
    #[error(
        "{0:?} is no [in:|out:]CIDR[:PORT[/tcp|udp]], as 192.0.2.7, in:10.0.0.0/8:22/tcp or out:[2001:db8::7]:53/udp"
    )]
    Form(String),
    /// More bits than an address has.
    #[error("{text:?}: the prefix length must be at most {most}")]
    Prefix {
        /// What was given.
        text: String,
        /// Bits of an address.
        most: u8,
    },
    /// A range that is another one than it looks.
    #[error(
        "{text:?}: the address has bits set behind its prefix; write {network}, or the whole address without a prefix"
    )]
    HostBits {
        /// What was given.
        text: String,
        /// The range.
        network: String,
    },
    /// No port.
    #[error("{0:?}: the port must be a number from 1 to 65535")]
    Port(String),
    /// Neither of the two that have ports.
    #[error("{0:?}: the protocol must be tcp or udp")]
    Protocol(String),
    /// Never on the wire.
    #[error("{0:?} is an IPv4 address written as IPv6: write the IPv4 address")]
    Mapped(String),
    /// More than are kept.
    #[error("{0} allowed addresses, at most {MAX_ALLOWED} are kept for a pod: use wider ranges")]
    TooMany(usize),
    /// More than one entry of the map holds.
    #[error(
        "more than {RULES} rules hold for {0} (what is allowed both ways counts twice, and wider ranges' rules count): allow \
         more with fewer"
    )]
    TooManyRules(String),
}

/// Addresses, and what is allowed with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Allow {
    range: Range,
    /// Who may begin: the other side, the pod, or (none) both.
    began: Option<Direction>,
    /// TCP, UDP, or (0) all.
    protocol: u8,
    /// Of the side that is called; 0 for all.
    port: u16,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    network: IpAddr,
    prefix: u8,
}

/// What the kernel's map holds of one pod, slot by slot: the same for every slot but for that number.
pub type Compiled = BTreeMap<Range, AllowRules>;

impl Range {
    /// The first in their order.
    pub const FIRST: Self = Self { network: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix: 0 };

    /// The key of the map, and its length in bits.
    pub fn key(self, slot: u32) -> (u32, AllowKey) {
        let (family, address) = match self.network {
            IpAddr::V4(v4) => {
                let mut address = [0; 16];
                address[..4].copy_from_slice(&v4.octets());
                (4, address)
            }
            IpAddr::V6(v6) => (6, v6.octets()),
        };
        (AllowKey::bits(self.prefix), AllowKey { slot, family, address })
    }

    /// The slot and the range of a key; none if it is no key of ours.
    pub fn of_key(bits: u32, key: AllowKey) -> Option<(u32, Self)> {
        let prefix = u8::try_from(bits.checked_sub(AllowKey::bits(0))?).ok()?;
        let network = match key.family {
            4 => IpAddr::V4(Ipv4Addr::from(*key.address.first_chunk::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(key.address)),
            _ => return None,
        };
        Some((key.slot, Self { network, prefix }))
    }

    fn covers(self, other: Self) -> bool {
        self.prefix <= other.prefix && masked(other.network, self.prefix) == Some(self.network)
    }
}

/// The network of an address; none if the family has no prefix that long.
fn masked(address: IpAddr, prefix: u8) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(v4) => {
            let host = u32::from(32_u8.checked_sub(prefix)?);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.checked_shl(host).unwrap_or(0)))
        }
        IpAddr::V6(v6) => {
            let host = u32::from(128_u8.checked_sub(prefix)?);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(host).unwrap_or(0)))
        }
    })
}

/// What the map has to hold so that a packet may do what any of `allowed` says. The kernel finds the longest range only,
/// so each has the rules of those that cover it.
pub fn compile(allowed: &[Allow]) -> Result<Compiled, AllowError> {
    if allowed.len() > MAX_ALLOWED {
        return Err(AllowError::TooMany(allowed.len()));
    }
    let mut compiled = Compiled::new();
    for Allow { range, .. } in allowed {
        let covering = allowed.iter().filter(|other| other.range.covers(*range));
        let mut rules: Vec<AllowRule> = covering.flat_map(Allow::rules).collect();
        rules.sort_unstable();
        rules.dedup();
        let mut value = AllowRules::default();
        let Some(places) = value.rules.get_mut(..rules.len()) else {
            return Err(AllowError::TooManyRules(range.to_string()));
        };
        places.copy_from_slice(&rules);
        compiled.insert(*range, value);
    }
    Ok(compiled)
}

impl Allow {
    fn rules(&self) -> impl Iterator<Item = AllowRule> {
        let begins = |began: &Direction| self.began.is_none_or(|only| only == *began);
        DIRECTIONS.into_iter().filter(begins).map(|began| AllowRule::new(began, self.protocol, self.port))
    }
}

impl FromStr for Allow {
    type Err = AllowError;

    fn from_str(text: &str) -> Result<Self, AllowError> {
        let form = || AllowError::Form(text.to_owned());
        let (began, rest) = match text.split_once(':') {
            Some(("in", rest)) => (Some(Direction::In), rest),
            Some(("out", rest)) => (Some(Direction::Out), rest),
            _ => (None, text),
        };
        let (range, called) = if let Some(bracketed) = rest.strip_prefix('[') {
            let (range, called) = bracketed.split_once(']').ok_or_else(form)?;
            // The prefix length may stand behind the bracket as well.
            match called.strip_prefix('/') {
                Some(prefixed) => {
                    let (prefix, called) = prefixed.split_once(':').unwrap_or((prefixed, ""));
                    (format!("{range}/{prefix}"), Some(called).filter(|called| !called.is_empty()))
                }
                None if called.is_empty() => (range.to_owned(), None),
                None => (range.to_owned(), Some(called.strip_prefix(':').ok_or_else(form)?)),
            }
        } else if rest.matches(':').count() == 1 {
            let (range, called) = rest.split_once(':').ok_or_else(form)?;
            (range.to_owned(), Some(called))
        } else {
            (rest.to_owned(), None)
        };
        let range = parse_range(text, &range)?;
        let (protocol, port) = called.map_or(Ok((0, 0)), |called| parse_called(text, called))?;
        Ok(Self { range, began, protocol, port })
    }
}

fn parse_range(text: &str, range: &str) -> Result<Range, AllowError> {
    let form = || AllowError::Form(text.to_owned());
    let (address, prefix) = match range.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (range, None),
    };
    let address: IpAddr = address.parse().map_err(|_no_address| form())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => most,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.is_empty() => {
            digits.parse().unwrap_or(u8::MAX)
        }
        Some(_) => return Err(form()),
    };
    let network = masked(address, prefix).ok_or_else(|| AllowError::Prefix { text: text.to_owned(), most })?;
    let range = Range { network, prefix };
    if network != address {
        return Err(AllowError::HostBits { text: text.to_owned(), network: range.to_string() });
    }
    match network {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() && prefix >= 96 => Err(AllowError::Mapped(text.to_owned())),
        _ => Ok(range),
    }
}

fn parse_called(text: &str, called: &str) -> Result<(u8, u16), AllowError> {
    let (port, protocol) = match called.split_once('/') {
        None => (called, 0),
        Some((port, "tcp")) => (port, protocol::TCP),
        Some((port, "udp")) => (port, protocol::UDP),
        Some(_) => return Err(AllowError::Protocol(text.to_owned())),
    };
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|&port| is_number && port != 0);
    Ok((protocol, port.ok_or_else(|| AllowError::Port(text.to_owned()))?))
}

impl TryFrom<String> for Allow {
    type Error = AllowError;

    fn try_from(text: String) -> Result<Self, AllowError> {
        text.parse()
    }
}

impl From<Allow> for String {
    fn from(allow: Allow) -> Self {
        allow.to_string()
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, began, protocol, port } = self;
        if let Some(began) = began {
            write!(f, "{}:", began.name())?;
        }
        match (range.network, port) {
            (_, 0) => return write!(f, "{range}"),
            (IpAddr::V4(_), port) => write!(f, "{range}:{port}")?,
            (IpAddr::V6(_), port) => write!(f, "[{range}]:{port}")?,
        }
        match *protocol {
            protocol::TCP => f.write_str("/tcp"),
            protocol::UDP => f.write_str("/udp"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_is_read_and_written() {
        for (text, written) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("in:10.0.0.0/8:22/tcp", "in:10.0.0.0/8:22/tcp"),
            ("out:192.0.2.7:53/udp", "out:192.0.2.7/32:53/udp"),
            ("192.0.2.7:443", "192.0.2.7/32:443"),
            ("2001:db8::7", "2001:db8::7/128"),
            ("in:2001:db8::/32", "in:2001:db8::/32"),
            ("[2001:db8::7]:22", "[2001:db8::7/128]:22"),
            ("[2001:db8::/32]:22/tcp", "[2001:db8::/32]:22/tcp"),
            ("out:[2001:db8::]/32:22/tcp", "out:[2001:db8::/32]:22/tcp"),
            ("[2001:db8::7]", "2001:db8::7/128"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
        ] {
            let allow: Allow = text.parse().expect(text);
            assert_eq!(allow.to_string(), written);
            assert_eq!(written.parse(), Ok(allow), "{written}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, said) in [
            ("", "is no"),
            ("in:", "is no"),
            ("example.org", "is no"),
            ("10.0.0.1/8", "10.0.0.0/8"),
            ("[2001:db8::1/32]:22", "2001:db8::/32"),
            ("10.0.0.0/33", "at most 32"),
            ("2001:db8::/129", "at most 128"),
            ("10.0.0.0/-1", "is no"),
            ("10.0.0.0/", "is no"),
            ("10.0.0.1:0", "from 1 to 65535"),
            ("10.0.0.1:65536", "from 1 to 65535"),
            ("10.0.0.1:+22", "from 1 to 65535"),
            ("10.0.0.1:ssh", "from 1 to 65535"),
            ("10.0.0.1:", "from 1 to 65535"),
            ("10.0.0.1:22/sctp", "tcp or udp"),
            ("10.0.0.1:22/TCP", "tcp or udp"),
            ("[2001:db8::1", "is no"),
            ("[2001:db8::1]22", "is no"),
            ("::ffff:10.0.0.1", "write the IPv4"),
            ("up:10.0.0.1", "is no"),
        ] {
            let error = text.parse::<Allow>().expect_err(text).to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn the_limits_are_where_they_are_said_to_be() {
        let many = |count: u32| -> Vec<Allow> {
            (0..count).map(|n| format!("10.0.{n}.0/24").parse().expect("valid")).collect()
        };
        assert!(compile(&many(64)).is_ok());
        assert_eq!(compile(&many(65)), Err(AllowError::TooMany(65)));
        let ports = |count: u32| -> Vec<Allow> {
            (1..=count).map(|port| format!("10.0.0.1:{port}").parse().expect("valid")).collect()
        };
        assert!(compile(&ports(16)).is_ok());
        assert!(matches!(compile(&ports(17)), Err(AllowError::TooManyRules(_))));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(in:|out:)?\\[?[0-9a-f:.]{0,20}\\]?(/[0-9]{0,3})?(:[0-9]{0,6})?(/[a-z]{0,4})?") {
            if let Ok(allow) = text.parse::<Allow>() {
                prop_assert_eq!(allow.to_string().parse(), Ok(allow));
            }
        }

        /// The longest range that holds an address has the rules of all that hold it.
        #[test]
        fn the_longest_range_is_enough(
            ranges in prop::collection::vec((any::<u32>(), 0..=32_u8, 1..4_u16), 1..8),
            address in any::<u32>(),
            near in any::<prop::sample::Index>(),
        ) {
            let allowed: Vec<Allow> = ranges.iter().map(|(network, prefix, port)| {
                let network = masked(IpAddr::V4(Ipv4Addr::from_bits(*network)), *prefix).expect("IPv4");
                format!("{network}/{prefix}:{port}").parse().expect("valid")
            }).collect();
            // Half of the addresses lie in the ranges.
            let address = if address % 2 == 0 { address } else { near.get(&ranges).0 };
            let host = Range { network: IpAddr::V4(Ipv4Addr::from_bits(address)), prefix: 32 };
            let mut expected: Vec<AllowRule> =
                allowed.iter().filter(|allow| allow.range.covers(host)).flat_map(Allow::rules).collect();
            expected.sort_unstable();
            expected.dedup();
            let compiled = compile(&allowed).expect("few");
            let longest = compiled.iter().filter(|(range, _)| range.covers(host)).max_by_key(|(range, _)| range.prefix);
            let found: Vec<AllowRule> = longest
                .map(|(_, value)| value.rules.iter().copied().filter(|rule| rule.0 != 0).collect())
                .unwrap_or_default();
            prop_assert_eq!(found, expected);
            for range in compiled.keys() {
                let (bits, key) = range.key(7);
                prop_assert_eq!(Range::of_key(bits, key), Some((7, *range)));
            }
        }
    }
}
