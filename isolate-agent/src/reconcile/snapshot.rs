//! What the engine shows of itself.

use std::collections::BTreeMap;

use isolate_common::{KernelError, SlotCounters};
use jiff::Timestamp;

use super::Engine;
use crate::{
    control::protocol::{Isolation, KernelErrorCount, RuntimeStatus, Status, Unarmed},
    desired::Entry,
    limit::Now,
    observed::Slot,
    pod::PodUid,
    status::{self, Figures, Hooks, PodFigures},
};

/// What the programs counted, and what a person is to know.
struct Read {
    counters: BTreeMap<Slot, SlotCounters>,
    errors: Vec<(KernelError, u64)>,
    warnings: Vec<String>,
}

impl Engine {
    /// Looks at the kernel again, so that the next [`Self::status`] shows it as it is now. What was to follow while nobody could
    /// come by does not wait where somebody can.
    pub fn look(&mut self) {
        match self.enforcer.observe() {
            Ok(observed) => self.observed = observed,
            Err(error) => self.warnings.push(error.to_string()),
        }
        if !self.observed.host_ends_suffice {
            self.finish();
        }
    }

    /// The node as it was last looked at, with counters read now.
    pub fn status(&self) -> Status {
        let Read { counters, errors, warnings } = self.read();
        let count = |(error, count): (KernelError, u64)| KernelErrorCount { error: error.name().to_owned(), count };
        let (pods_armed, unarmed) = self.arming();
        let (slots, now) = (self.observed.slots(), Now::read().ok());
        let isolation = |(uid, entry)| {
            let slot = slots.get(uid).copied();
            self.isolation(uid, entry, slot, slot.and_then(|slot| counters.get(&slot)), now.as_ref())
        };
        Status {
            taken_at: Timestamp::now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            isolations: self.desired.iter().map(isolation).collect(),
            pods: self.inventory.pods.len(),
            pods_armed,
            unarmed,
            kernel_errors: errors.into_iter().map(count).collect(),
            runtime: Some(RuntimeStatus { cri: self.cri.known().connection(), nri: None }),
            warnings,
        }
    }

    /// The same in numbers.
    pub fn figures(&self) -> Figures {
        let Read { counters, errors, warnings } = self.read();
        let (pods_armed, unarmed) = self.arming();
        let slots = self.observed.slots();
        let isolation = |(uid, entry)| {
            let slot = slots.get(uid).copied();
            let counters = slot.and_then(|slot| counters.get(&slot)).copied().unwrap_or_default();
            PodFigures::of(*uid, entry, self.hooks(uid, slot).as_ref(), counters)
        };
        Figures {
            isolations: self.desired.iter().map(isolation).collect(),
            pods: self.inventory.pods.len(),
            pods_armed,
            unarmed: unarmed.into_iter().map(|pod| pod.reason).collect(),
            kernel_errors: errors,
            warnings: warnings.len(),
        }
    }

    fn read(&self) -> Read {
        let mut warnings = self.warnings.clone();
        warnings.extend(self.told());
        warnings.extend(self.renamed());
        let errors = self.enforcer.kernel_errors().unwrap_or_else(|error| {
            warnings.push(error.to_string());
            Vec::new()
        });
        let slots: Vec<Slot> = self.observed.policies.keys().copied().collect();
        let counters = self.enforcer.counters(&slots).unwrap_or_else(|error| {
            warnings.push(error.to_string());
            BTreeMap::new()
        });
        Read { counters, errors, warnings }
    }

    fn arming(&self) -> (usize, Vec<Unarmed>) {
        let names = self.cri.known().pods;
        status::arming(&self.inventory, &names, &self.observed, self.settings.arm, &self.unattachable)
    }

    /// Isolated pods that the container runtime calls something else than when they were isolated.
    fn renamed(&self) -> impl Iterator<Item = String> {
        let known = self.cri.known().pods;
        self.desired.iter().filter_map(move |(uid, entry)| {
            let (was, is) = (entry.record()?.pod.as_ref()?, &known.get(uid)?.names);
            let others: Vec<String> = is.iter().filter(|name| *name != was).map(ToString::to_string).collect();
            (!others.is_empty()).then(|| {
                format!(
                    "the container runtime calls pod {was} ({uid}) {} as well or instead. It stays isolated, as {was}; \
                     pods are never renamed, so what the runtime says about names is not to be trusted: give UIDs",
                    others.join(", ")
                )
            })
        })
    }

    /// The hooks of an isolated pod that is on the node.
    fn hooks(&self, uid: &PodUid, slot: Option<Slot>) -> Option<Hooks<'_>> {
        let pod = self.inventory.pods.get(uid)?;
        Some(Hooks::of(pod, slot, &self.observed, &self.unattachable))
    }

    /// One isolated pod, as [`Self::status`] has it.
    pub(super) fn isolation(
        &self,
        uid: &PodUid,
        entry: &Entry,
        slot: Option<Slot>,
        counters: Option<&SlotCounters>,
        now: Option<&Now>,
    ) -> Isolation {
        let (facts, pod) = (self.cri.facts(uid), self.inventory.pods.get(uid));
        let isolation = status::isolation(uid, entry, facts.as_ref(), pod, self.hooks(uid, slot), counters);
        let limit = entry.record().and_then(|record| record.limit.as_ref());
        let ends_at = limit.zip(now).map(|(limit, now)| limit.ends_at(now));
        Isolation { until: ends_at.or(isolation.until), ..isolation }
    }
}
