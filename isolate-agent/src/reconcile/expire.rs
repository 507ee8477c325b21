//! Time limits: releases what has lasted as long as it was asked to. The daemon only; a command ends no isolation that
//! it was not asked to end.

use std::time::Duration;

use super::{Engine, PassError};
use crate::{
    control::protocol::Code,
    desired::{Entry, Record},
    events::Kind,
    limit::{LastSeen, Now},
    pod::PodUid,
};

/// How often it is noted that the agent runs: at most that much of a limit passes twice after a crash of the node.
const NOTE_EVERY_SECS: u64 = 60;

impl Engine {
    /// How long until [`Self::expire`] has something to do; `None` without time limits.
    pub fn next_end(&self) -> Option<Duration> {
        self.limited().next()?;
        let now = Now::read().ok()?;
        let left = self.limited().filter_map(|record| {
            let until = record.limit.as_ref()?.ends_at(&now).duration_since(now.wall);
            Some(Duration::try_from(until).unwrap_or_default())
        });
        left.min()
    }

    /// Releases every pod whose time limit has ended, and carries the others' over a reboot.
    ///
    /// What cannot be released now stays isolated, and is tried again with the next pass.
    pub fn expire(&mut self) -> Result<(), PassError> {
        if self.limited().next().is_none() {
            return Ok(());
        }
        let now = match Now::read() {
            Ok(now) => now,
            Err(error) => {
                self.warnings.push(format!("the clock cannot be read, and no time limit ends: {error}"));
                return Ok(());
            }
        };
        self.carry_over(&now);
        let ended: Vec<PodUid> = self
            .limited()
            .filter(|record| record.limit.as_ref().is_some_and(|limit| limit.has_ended(&now)))
            .map(|record| record.uid)
            .collect();
        for uid in &ended {
            let outcome = self.forget(&uid.to_string(), *uid, Kind::Expired, None).unwrap_or_else(|failed| failed);
            if outcome.code == Code::Done {
                tracing::info!(%uid, "the time limit has ended: {}", outcome.message);
            } else {
                tracing::error!(%uid, "the time limit has ended, but {}", outcome.message);
                self.warnings.push(format!("its time limit has ended, but {}", outcome.message));
            }
        }
        if ended.is_empty() {
            return Ok(());
        }
        self.enforce_releases()
    }

    /// Brings the kernel up to date after records were deleted.
    pub(super) fn enforce_releases(&mut self) -> Result<(), PassError> {
        let plan = self.view().plan();
        let errors = self.apply(&plan.enforce);
        self.to_arm = plan.arm.into();
        if errors.is_empty() { Ok(()) } else { Err(PassError::Apply(errors)) }
    }

    fn limited(&self) -> impl Iterator<Item = &Record> {
        self.desired.values().filter_map(Entry::record).filter(|record| record.limit.is_some())
    }

    /// Puts limits of another boot on this one's clock, and notes that the agent runs. In this order: what is noted
    /// says how much of them had passed.
    fn carry_over(&mut self, now: &Now) {
        let last_seen = self.store.last_seen();
        let rebased: Vec<Record> = self
            .limited()
            .filter_map(|record| {
                let limit = record.limit.as_ref()?.rebased(now, last_seen.as_ref())?;
                Some(Record { limit: Some(limit), ..record.clone() })
            })
            .collect();
        for record in rebased {
            let uid = record.uid;
            tracing::info!(%uid, secs = record.limit.as_ref().map(|limit| limit.to_secs), "the node has been started \
                anew: what was left of the time limit counts from then");
            self.desired.insert(uid, Entry::Unsaved(record));
            if let Err(error) = self.save(&uid) {
                self.warnings.push(error.to_string());
            }
        }
        let fresh = last_seen
            .is_some_and(|seen| seen.boot == now.boot && now.up_secs.saturating_sub(seen.up_secs) < NOTE_EVERY_SECS);
        if !fresh {
            let noted = self.store.note_seen(&LastSeen { boot: now.boot.clone(), up_secs: now.up_secs });
            if let Err(error) = noted {
                self.warnings.push(error.to_string());
            }
        }
    }
}
