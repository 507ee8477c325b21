//! Which pods are to be isolated, how, by whom, why. `store` keeps it on disk.
//!
//! A record that cannot be read still isolates: its file's name says whom, and the strictest policy applies.

mod store;

use std::collections::{BTreeMap, BTreeSet};

use isolate_common::{PROBE_PORTS, Policy, PolicyFlags};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::store::{DesiredError, Store};
use crate::{
    allow::{self, Allow, Compiled},
    limit::TimeLimit,
    pod::{PodName, PodUid},
};

/// Version of the record files that this agent writes, and the newest that it reads.
pub const RECORD_VERSION: u32 = 1;

/// One isolation, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`RECORD_VERSION`] of the agent that wrote it.
    pub version: u32,
    /// The pod.
    pub uid: PodUid,
    /// Its name, if that was known when it was isolated: the runtime forgets it when the pod is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// Since when.
    pub since: Timestamp,
    /// Who asked for it.
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether the pod's loopback traffic passes.
    #[serde(default)]
    pub keep_loopback: bool,
    /// TCP ports that kubelet's probes may still call; none keeps no probe.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub probe_ports: BTreeSet<u16>,
    /// Who the pod may still talk to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Allow>,
    /// When it ends; without, somebody has to release the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<TimeLimit>,
}

/// A pod that is to be isolated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Its record is on disk.
    Saved(Record),
    /// It is isolated, but its record could not be written yet.
    Unsaved(Record),
    /// Its record cannot be read.
    Unreadable {
        /// Why not.
        why: String,
        /// When the file was last written.
        since: Timestamp,
    },
}

impl Entry {
    /// The record, where there is one to read.
    pub const fn record(&self) -> Option<&Record> {
        match self {
            Self::Saved(record) | Self::Unsaved(record) => Some(record),
            Self::Unreadable { .. } => None,
        }
    }

    /// Since when the pod is isolated; without a readable record, when it was last written.
    pub const fn since(&self) -> Timestamp {
        match self {
            Self::Saved(record) | Self::Unsaved(record) => record.since,
            Self::Unreadable { since, .. } => *since,
        }
    }

    /// What the kernel is told. Without a readable record: nothing passes.
    pub fn policy(&self, uid: &PodUid) -> Policy {
        let record = self.record();
        let mut probe_ports = [0; PROBE_PORTS];
        let ports = record.into_iter().flat_map(|record| &record.probe_ports);
        probe_ports.iter_mut().zip(ports).for_each(|(place, port)| *place = *port);
        Policy {
            uid: uid.bytes(),
            in_use: 1,
            flags: PolicyFlags::default()
                .with(PolicyFlags::KEEP_LOOPBACK, record.is_some_and(|record| record.keep_loopback))
                .with(PolicyFlags::KEEP_PROBES, self.keeps_probes())
                .with(PolicyFlags::ALLOW, record.is_some_and(|record| !record.allow.is_empty()))
                .with(PolicyFlags::PLAIN_UID, uid.is_plain()),
            probe_ports,
            #[cfg(feature = "layout-next")]
            next: [0; 2],
        }
    }

    /// Whether kubelet's probes pass.
    pub fn keeps_probes(&self) -> bool {
        self.record().is_some_and(|record| !record.probe_ports.is_empty())
    }

    /// Whether anything passes but loopback.
    pub fn has_exemptions(&self) -> bool {
        self.keeps_probes() || self.record().is_some_and(|record| !record.allow.is_empty())
    }

    /// The addresses that the pod may talk to. A record that says what cannot be (it was written by hand) allows nothing.
    pub fn allowed(&self) -> Compiled {
        self.record().and_then(|record| allow::compile(&record.allow).ok()).unwrap_or_default()
    }
}

/// Pods that are to be isolated, by UID.
pub type Desired = BTreeMap<PodUid, Entry>;
