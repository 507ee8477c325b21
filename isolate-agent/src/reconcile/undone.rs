//! What somebody has undone and the engine has put back: said in the log, the status, the journal, and as counts.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{Engine, Repaired, repair::Repair};
use crate::{enforce::EnforceError, events::Kind, observed::uid_of, pod::PodUid};

/// How long the status shows it.
const SHOWN: Duration = Duration::from_mins(10);

impl Engine {
    /// Pins again what somebody has unpinned.
    pub(super) fn mend(&mut self) -> Result<(), EnforceError> {
        let mended = self.enforcer.mend(&self.known)?;
        let Some(first) = mended.first() else { return Ok(()) };
        let text = format!("{} pins were gone and are made again, the first: {}", mended.len(), first.pin.display());
        let cut = mended.iter().filter_map(|mended| self.known.policies.get(&mended.slot?)).map(uid_of);
        for uid in cut.collect::<BTreeSet<PodUid>>() {
            self.note(uid, Kind::HookRepaired, None, Some(text.clone()));
        }
        self.tell(text);
        self.repairs.extend(mended.into_iter().map(|mended| mended.hook.map_or(Repaired::Pin, Repaired::Hook)));
        Ok(())
    }

    pub(super) fn repaired(&mut self, repair: &Repair) {
        let whose = repair.uid.map_or_else(String::new, |uid| format!(" of pod {uid}"));
        self.tell(format!("a part{whose} did not hold any more and is put back: {}", repair.text));
        if let Some(uid) = repair.uid {
            self.note(uid, Kind::HookRepaired, None, Some(repair.text.clone()));
        }
        self.repairs.push(repair.what);
    }

    pub(super) fn lost(&mut self, repair: &Repair) {
        let whose = repair.uid.map_or_else(String::new, |uid| format!(" of pod {uid}"));
        self.tell(format!("a part{whose} does not hold and could not be put back: {}", repair.text));
        if let Some(uid) = repair.uid {
            self.note(uid, Kind::HookLost, None, Some(repair.text.clone()));
        }
    }

    /// Says in the log, and for a while in the status, what somebody has undone.
    fn tell(&mut self, text: String) {
        tracing::warn!("{text}");
        self.told.retain(|(when, told)| when.elapsed() < SHOWN && *told != text);
        self.told.push((Instant::now(), text));
    }

    /// What was put back since the last time that this was asked.
    pub fn take_repairs(&mut self) -> Vec<Repaired> {
        std::mem::take(&mut self.repairs)
    }

    /// What was said in the last minutes.
    pub(super) fn told(&self) -> impl Iterator<Item = String> {
        let recent = self.told.iter().filter(|(when, _)| when.elapsed() < SHOWN);
        recent.map(|(_, text)| text.clone())
    }
}
