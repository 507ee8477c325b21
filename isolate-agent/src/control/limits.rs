//! What a request may hold: checked where it enters, by the socket and by the commands alike.

use std::{collections::BTreeSet, time::Duration};

use isolate_common::PROBE_PORTS;
use jiff::Timestamp;
use thiserror::Error;

use super::protocol::{AddRequest, RemoveRequest, VerifyRequest};
use crate::{
    allow::{self, Allow, AllowError, MAX_ALLOWED},
    pod::{PodQuery, QueryError},
};

/// Most UIDs in one request.
pub const MAX_UIDS: usize = 4096;
/// Longest reason.
pub const MAX_REASON_BYTES: usize = 1024;

/// Why a request makes no sense as it is.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RequestError {
    /// No pod is named.
    #[error("no pod is named: give at least one pod UID or namespace/name")]
    NoUids,
    /// Neither pods nor all of them.
    #[error("nothing to release: give pod UIDs, or ask for all")]
    NothingToRemove,
    /// Pods and all of them.
    #[error("give either pod UIDs or all, not both: nothing was released")]
    UidsAndAll,
    /// Too many.
    #[error("{given} pod UIDs in one request, at most {MAX_UIDS} are taken: nothing was changed, split it up")]
    TooMany {
        /// How many.
        given: usize,
    },
    /// Neither the UID of a pod nor its name.
    #[error("{0}; nothing was changed")]
    Pod(#[from] QueryError),
    /// Ports for nothing.
    #[error(
        "probe ports are given, and probes are not to be kept: nothing was changed, add --keep-probes or --preserve"
    )]
    PortsWithoutProbes,
    /// Not a port.
    #[error("port 0 is no port that a probe calls: nothing was changed")]
    PortZero,
    /// More than the kernel is told.
    #[error("{given} probe ports, at most {PROBE_PORTS} are kept: nothing was changed")]
    TooManyPorts {
        /// How many.
        given: usize,
    },
    /// Not something to allow.
    #[error("{0}; nothing was changed")]
    Allow(#[from] AllowError),
    /// Two ends.
    #[error("give either for how long or until when, not both: nothing was changed")]
    ForAndUntil,
    /// It would end before it began.
    #[error("the time limit {until} is in the past (now it is {now}): nothing was changed")]
    UntilPast {
        /// What was asked for.
        until: Timestamp,
        /// The wall clock.
        now: Timestamp,
    },
    /// No time to speak of.
    #[error("a time limit of 0 seconds isolates nothing: nothing was changed")]
    ForNothing,
    /// Beyond what a calendar has.
    #[error("a time limit of {secs} seconds ends beyond the year 9999: nothing was changed, leave it out")]
    ForTooLong {
        /// What was asked for.
        secs: u64,
    },
    /// Too long.
    #[error("the reason has {given} bytes, at most {MAX_REASON_BYTES} are kept: nothing was changed, shorten it")]
    ReasonTooLong {
        /// How many.
        given: usize,
    },
    /// Would garble the terminals and logs that show it.
    #[error("the reason holds a control character ({0:?}): nothing was changed, give it as one line of text")]
    ReasonNotText(char),
}

impl AddRequest {
    /// Whether it can be looked at.
    pub fn check(&self) -> Result<(), RequestError> {
        if self.uids.is_empty() {
            return Err(RequestError::NoUids);
        }
        check_uids(&self.uids)?;
        let reason = self.reason.as_deref().unwrap_or_default();
        if reason.len() > MAX_REASON_BYTES {
            return Err(RequestError::ReasonTooLong { given: reason.len() });
        }
        self.check_exemptions()?;
        if let Some(c) = reason.chars().find(|c| c.is_control()) {
            return Err(RequestError::ReasonNotText(c));
        }
        let now = Timestamp::now();
        match self.ends_at(now)? {
            Some(until) if until <= now => Err(RequestError::UntilPast { until, now }),
            _ => Ok(()),
        }
    }

    fn check_exemptions(&self) -> Result<(), RequestError> {
        if !self.probe_ports.is_empty() && !self.keep_probes {
            return Err(RequestError::PortsWithoutProbes);
        }
        if self.probe_ports.contains(&0) {
            return Err(RequestError::PortZero);
        }
        let given = self.probe_ports.iter().collect::<BTreeSet<_>>().len();
        if given > PROBE_PORTS {
            return Err(RequestError::TooManyPorts { given });
        }
        allow::compile(&self.allowed()?)?;
        Ok(())
    }

    /// Whether nothing can pass or end because of it.
    pub fn only_cuts(&self) -> bool {
        let exempts = self.keep_loopback || self.keep_probes || !self.allow.is_empty();
        !exempts && self.for_secs.is_none() && self.until.is_none()
    }

    /// The addresses that are to be allowed.
    pub fn allowed(&self) -> Result<Vec<Allow>, AllowError> {
        if self.allow.len() > MAX_ALLOWED {
            return Err(AllowError::TooMany(self.allow.len()));
        }
        self.allow.iter().map(|text| text.parse()).collect()
    }

    /// When the isolation is to end, asked for `now`.
    pub fn ends_at(&self, now: Timestamp) -> Result<Option<Timestamp>, RequestError> {
        match (self.for_secs, self.until) {
            (Some(_), Some(_)) => Err(RequestError::ForAndUntil),
            (Some(0), None) => Err(RequestError::ForNothing),
            (Some(secs), None) => match now.checked_add(Duration::from_secs(secs)) {
                Ok(until) => Ok(Some(until)),
                Err(_) => Err(RequestError::ForTooLong { secs }),
            },
            (None, until) => Ok(until),
        }
    }
}

impl RemoveRequest {
    /// Whether it can be looked at.
    pub fn check(&self) -> Result<(), RequestError> {
        match (self.uids.is_empty(), self.all) {
            (true, false) => Err(RequestError::NothingToRemove),
            (false, true) => Err(RequestError::UidsAndAll),
            _ => check_uids(&self.uids),
        }
    }
}

impl VerifyRequest {
    /// Whether it can be looked at.
    pub fn check(&self) -> Result<(), RequestError> {
        if self.uids.is_empty() {
            return Err(RequestError::NoUids);
        }
        check_uids(&self.uids)
    }
}

fn check_uids(uids: &[String]) -> Result<(), RequestError> {
    if uids.len() > MAX_UIDS {
        return Err(RequestError::TooMany { given: uids.len() });
    }
    for uid in uids {
        uid.parse::<PodQuery>()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(uids: usize, reason: &str) -> AddRequest {
        AddRequest { uids: vec!["0f0e0d0c".to_owned(); uids], reason: Some(reason.to_owned()), ..AddRequest::default() }
    }

    #[test]
    fn limits_are_where_they_are_said_to_be() {
        assert_eq!(add(1, "").check(), Ok(()));
        assert_eq!(add(MAX_UIDS, &"x".repeat(MAX_REASON_BYTES)).check(), Ok(()));
        assert_eq!(add(0, "").check(), Err(RequestError::NoUids));
        assert_eq!(add(MAX_UIDS + 1, "").check(), Err(RequestError::TooMany { given: MAX_UIDS + 1 }));
        let long = "ä".repeat(MAX_REASON_BYTES / 2) + "x";
        assert_eq!(add(1, &long).check(), Err(RequestError::ReasonTooLong { given: MAX_REASON_BYTES + 1 }));
        for c in ['\n', '\t', '\0', '\x1b', '\x7f', '\u{9b}'] {
            assert_eq!(add(1, &format!("a{c}b")).check(), Err(RequestError::ReasonNotText(c)));
        }
        let allowed = |allow: &str, count| AddRequest { allow: vec![allow.to_owned(); count], ..add(1, "") }.check();
        assert_eq!(allowed("in:10.0.0.0/8:22/tcp", 64), Ok(()));
        assert_eq!(allowed("10.0.0.1", 10_000), Err(RequestError::Allow(AllowError::TooMany(10_000))));
        assert!(matches!(allowed("10.0.0.1/8", 1), Err(RequestError::Allow(AllowError::HostBits { .. }))));
        let probed = |keep_probes, probe_ports| AddRequest { keep_probes, probe_ports, ..add(1, "") }.check();
        assert_eq!(probed(true, (1..=32).collect()), Ok(()));
        assert_eq!(probed(true, vec![80; 100]), Ok(()), "one port");
        assert_eq!(probed(true, (1..=33).collect()), Err(RequestError::TooManyPorts { given: 33 }));
        assert_eq!(probed(true, vec![0]), Err(RequestError::PortZero));
        assert_eq!(probed(false, vec![80]), Err(RequestError::PortsWithoutProbes));
        let limited = |for_secs, until| AddRequest { for_secs, until, ..add(1, "") }.check();
        let (past, future) = (Timestamp::UNIX_EPOCH, Timestamp::now() + Duration::from_mins(1));
        assert_eq!(limited(Some(1), None), Ok(()));
        assert_eq!(limited(None, Some(future)), Ok(()));
        assert_eq!(limited(Some(1), Some(future)), Err(RequestError::ForAndUntil));
        assert_eq!(limited(Some(0), None), Err(RequestError::ForNothing));
        assert_eq!(limited(Some(u64::MAX), None), Err(RequestError::ForTooLong { secs: u64::MAX }));
        assert!(matches!(limited(None, Some(past)), Err(RequestError::UntilPast { until, .. }) if until == past));
        let malformed = AddRequest { uids: vec!["../etc".to_owned()], ..AddRequest::default() };
        assert!(matches!(malformed.check(), Err(RequestError::Pod(_))));
    }

    #[test]
    fn remove_takes_pods_or_all() {
        let remove = |uids: &[&str], all| RemoveRequest { uids: uids.iter().map(ToString::to_string).collect(), all };
        assert_eq!(remove(&["0f0e0d0c", "default/web-0"], false).check(), Ok(()));
        assert_eq!(remove(&[], true).check(), Ok(()));
        assert_eq!(remove(&[], false).check(), Err(RequestError::NothingToRemove));
        assert_eq!(remove(&["0f0e0d0c"], true).check(), Err(RequestError::UidsAndAll));
        assert!(matches!(remove(&["web-0"], false).check(), Err(RequestError::Pod(_))));
    }
}
