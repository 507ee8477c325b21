//! Isolating pods on request: cut first, record second, answer third.

use std::{collections::BTreeSet, thread, time::Instant};

use jiff::Timestamp;

use super::{Engine, essential, remember, resolve::Purpose};
use crate::{
    allow,
    control::protocol::{AddRequest, Code, Coverage, HookState, Isolation, Outcome, Outcomes},
    desired::{Desired, Entry, RECORD_VERSION, Record},
    enforce::MAX_ALLOWED_IN_ALL,
    events::Kind,
    inventory::{Guard, Inventory, InventoryError},
    limit::{Now, TimeLimit},
    observed::Slot,
    plan::Action,
    pod::PodUid,
};

impl Engine {
    /// Isolates pods. `received` is when the request arrived; `by` tells who asks, and is waited for once the pods are cut off.
    pub async fn add(&mut self, request: &AddRequest, by: impl Future<Output = String>, received: Instant) -> Outcomes {
        self.look_for(&request.uids).await;
        let mut admitted = BTreeSet::new();
        let admit = |text: &String| {
            let one = self.admit(text, request, &admitted);
            admitted.extend(one.iter().map(|(_, uid)| *uid));
            one
        };
        let resolved: Vec<Result<(String, PodUid), Outcome>> = request.uids.iter().map(admit).collect();
        if request.dry_run {
            let results = resolved
                .into_iter()
                .map(|one| one.map_or_else(|refused| refused, |(text, uid)| self.foresee(&text, uid)));
            return Outcomes { results: results.collect(), verifications: Vec::new() };
        }

        let uids: BTreeSet<PodUid> = resolved.iter().flatten().map(|(_, uid)| *uid).collect();
        let limit = match Self::limit_of(request) {
            Ok(limit) => limit,
            Err(why) => {
                let failed = |(text, uid): (String, PodUid)| {
                    self.outcome(&text, uid, Code::Failed, format!("pod {} was not isolated: {why}", self.called(&uid)))
                };
                let results = resolved.into_iter().map(|one| one.map_or_else(|refused| refused, failed));
                return Outcomes { results: results.collect(), verifications: Vec::new() };
            }
        };
        let before = self.want(&uids, request, limit.as_ref());
        self.look_for_kubelet();
        let (actions, no_slots) = self.view().isolate(&uids);
        let writes = actions.partition_point(|action| !action.attaches());
        let cut = actions.partition_point(|action| !is_beside(action));
        // These cut off what is armed. What fails is tried again with the second look below, and reported if it fails again.
        self.apply(&actions[..writes]);
        let by = by.await;
        self.sign(&uids, &by);
        for uid in &no_slots {
            match before.get(uid) {
                Some(entry) => self.desired.insert(*uid, entry.clone()),
                None => self.desired.remove(uid),
            };
        }
        let (unsaved, (enforced_after_us, mut errors)) = self.save_beside(&uids, |engine| {
            engine.apply(&actions[writes..cut]);
            let enforced_after_us = u64::try_from(received.elapsed().as_micros()).ok();
            (enforced_after_us, engine.follow(&uids))
        });
        // With the first exemption on the node: until everybody's addresses are known, no pod is answered for.
        if self.inventory.node.is_none() && self.desired.values().any(Entry::has_exemptions) {
            match self.look_at_node().await.1 {
                Ok(inventory) => drop(self.know(inventory)),
                Err(error) => errors.push(error.to_string()),
            }
            errors.extend(self.settle(&uids));
        }

        let slots = self.observed.slots();
        let mut results = Vec::new();
        for one in resolved {
            results.push(match one {
                Err(refused) => refused,
                Ok((text, uid)) if no_slots.contains(&uid) => {
                    self.outcome(&text, uid, Code::Failed, self.no_slot(&uid))
                }
                Ok((text, uid)) => {
                    let unsaved = unsaved.iter().find(|(unsaved, _)| *unsaved == uid).map(|(_, error)| error.as_str());
                    let mut outcome = self.report(&text, uid, slots.get(&uid).copied(), unsaved, &errors);
                    outcome.message += &limit_note(before.get(&uid), limit.as_ref());
                    Outcome { enforced_after_us, ..outcome }
                }
            });
        }
        for outcome in &results {
            tracing::info!(uid = outcome.uid, code = ?outcome.code, by = by.as_str(), reason = request.reason, "add: {}", outcome.message);
        }
        for uid in uids.difference(&no_slots.iter().copied().collect()) {
            let kind = if before.contains_key(uid) { Kind::Updated } else { Kind::Isolated };
            self.note(*uid, kind, Some(&by), request.reason.clone());
        }
        Outcomes { results, verifications: Vec::new() }
    }

    /// Writes the records of pods while something else is done: each waits, for a disk and for the kernel. Returns what could
    /// not be written, and what the other thing gave.
    fn save_beside<T>(
        &mut self,
        uids: &BTreeSet<PodUid>,
        act: impl FnOnce(&mut Self) -> T,
    ) -> (Vec<(PodUid, String)>, T) {
        let entries = uids.iter().filter_map(|uid| self.desired.get(uid));
        let unsaved = entries.filter_map(|entry| match entry {
            Entry::Unsaved(record) => Some(record.clone()),
            Entry::Saved(_) | Entry::Unreadable { .. } => None,
        });
        let (records, store): (Vec<Record>, _) = (unsaved.collect(), self.store.clone());
        let (saved, acted) = thread::scope(|scope| {
            let saving = thread::Builder::new().spawn_scoped(scope, || store.save_all(&records));
            let acted = act(self);
            // Without another thread this one does its work.
            let saved = saving.map_or_else(
                |_exhausted| store.save_all(&records),
                |saving| saving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            );
            (saved, acted)
        });
        let mut failed = Vec::new();
        for (record, saved) in records.into_iter().zip(saved) {
            let uid = record.uid;
            match saved {
                Ok(()) => drop(self.desired.insert(uid, Entry::Saved(record))),
                Err(error) => failed.push((uid, error.to_string())),
            }
        }
        (failed, acted)
    }

    /// Resolves one pod and applies the rules that `force` overrides. `admitted` are those before it in the request.
    fn admit(
        &self,
        text: &str,
        request: &AddRequest,
        admitted: &BTreeSet<PodUid>,
    ) -> Result<(String, PodUid), Outcome> {
        let uid = self.resolve(text, Purpose::Isolate)?;
        let refusal = self.inventory.pods.get(&uid).map_or_else(|| self.essential(&uid), |pod| match &pod.guard {
            Some(Guard::AgentItself) => Some("this agent runs in it, and would cut itself off".to_owned()),
            Some(Guard::NodeProcess { pid, name }) => {
                Some(format!("a process of the node itself runs in it ({name}, pid {pid})"))
            }
            None if pod.host_network && request.keep_loopback => {
                Some("it uses the node's network, so its loopback is the node's own: --keep-loopback would leave it every local service".to_owned())
            }
            None => self.essential(&uid),
        });
        match refusal {
            Some(why) if !request.force => {
                let message =
                    format!("pod {} was not isolated: {why}; --force does it all the same", self.called(&uid));
                Err(self.outcome(text, uid, Code::Refused, message))
            }
            _ => match self.cannot_exempt(&uid, request, admitted) {
                Some(why) => {
                    let message = format!("nothing was changed for pod {}: {why}", self.called(&uid));
                    Err(self.outcome(text, uid, Code::Refused, message))
                }
                None => Ok((text.to_owned(), uid)),
            },
        }
    }

    /// Why what is to pass for this pod cannot be told from the rest, if so. Nothing overrides that: it would be widened.
    fn cannot_exempt(&self, uid: &PodUid, request: &AddRequest, admitted: &BTreeSet<PodUid>) -> Option<String> {
        let pod = self.inventory.pods.get(uid);
        let has_exemptions = request.keep_probes || !request.allow.is_empty();
        if has_exemptions && pod.is_some_and(|pod| !pod.interfaces.is_empty() && pod.host_veths().next().is_none()) {
            return Some(
                "none of its interfaces has an end on the node, where what may pass is told from the rest: leave out \
                 --keep-probes and --allow"
                    .to_owned(),
            );
        }
        if request.keep_probes {
            if pod.is_some_and(|pod| pod.host_network) {
                return Some(
                    "it uses the node's network, where kubelet's probes cross no interface of the pod and cannot be \
                     told from other traffic of the node: leave out --keep-probes (its loopback passes with \
                     --keep-loopback --force)"
                        .to_owned(),
                );
            }
            if request.probe_ports.is_empty() {
                return Some(
                    "no port is known that its probes call: give each with --probe-port or the pod's specification with \
                     --pod-manifest, or isolate it without --keep-probes"
                        .to_owned(),
                );
            }
            if let Err(error) = self.scanner.kubelet(self.settings.kubelet_cgroup.as_deref()) {
                return Some(format!("{error}; or isolate it without --keep-probes"));
            }
        }
        let wanted = request.allowed().ok().and_then(|allowed| allow::compile(&allowed).ok()).unwrap_or_default().len();
        if wanted == 0 {
            return None;
        }
        let asking: BTreeSet<&PodUid> = admitted.iter().chain([uid]).collect();
        let others = self.desired.iter().filter(|(of, _)| !asking.contains(of)).map(|(_, entry)| entry.allowed().len());
        (others.sum::<usize>() + wanted * asking.len() > MAX_ALLOWED_IN_ALL).then(|| {
            format!(
                "{MAX_ALLOWED_IN_ALL} allowed addresses of all pods together are kept, and this would be more: allow \
                 wider ranges, or isolate it without --allow"
            )
        })
    }

    /// The time limit that is asked for, on the clocks of now.
    fn limit_of(request: &AddRequest) -> Result<Option<TimeLimit>, String> {
        if request.for_secs.is_none() && request.until.is_none() {
            return Ok(None);
        }
        let now = Now::read().map_err(|error| format!("the clock cannot be read for its time limit: {error}"))?;
        let until = request.ends_at(now.wall).map_err(|error| error.to_string())?;
        Ok(until.map(|until| TimeLimit::at(until, &now)))
    }

    /// Why the node or the cluster needs the pod, if so.
    fn essential(&self, uid: &PodUid) -> Option<String> {
        let facts = self.cri.facts(uid).unwrap_or_default();
        let is_static = uid.is_plain() || facts.is_static;
        // Each that it is called by: where the runtime contradicts itself, one may be right.
        let names = self.name(uid).into_iter().chain(facts.names);
        names.map(Some).chain([None]).find_map(|name| essential::why(name.as_ref(), is_static))
    }

    /// Notes what is asked for, by nobody yet; a pod that is isolated already keeps the time since when. Returns what was noted
    /// of these pods before.
    fn want(&mut self, uids: &BTreeSet<PodUid>, request: &AddRequest, limit: Option<&TimeLimit>) -> Desired {
        let mut noted = Desired::new();
        for uid in uids {
            let record = self.record(uid, request, limit);
            noted.extend(self.desired.insert(*uid, Entry::Unsaved(record)).map(|before| (*uid, before)));
        }
        noted
    }

    /// The record of a pod for this request, signed by nobody.
    fn record(&self, uid: &PodUid, request: &AddRequest, limit: Option<&TimeLimit>) -> Record {
        let before = self.desired.get(uid).and_then(Entry::record);
        Record {
            version: RECORD_VERSION,
            uid: *uid,
            pod: self.name(uid),
            since: before.map_or_else(Timestamp::now, |record| record.since),
            by: String::new(),
            reason: request.reason.clone().or_else(|| before?.reason.clone()),
            keep_loopback: request.keep_loopback,
            probe_ports: request.probe_ports.iter().copied().collect(),
            // Checked where the request came in.
            allow: request.allowed().unwrap_or_default(),
            limit: limit.cloned(),
        }
    }

    /// Notes who asked for it.
    fn sign(&mut self, uids: &BTreeSet<PodUid>, by: &str) {
        for uid in uids {
            if let Some(Entry::Unsaved(record)) = self.desired.get_mut(uid) {
                by.clone_into(&mut record.by);
            }
        }
    }

    /// Attaches what only covers the cut, and then what came since the last pass, from which it was made: a new sandbox, one more
    /// interface. Returns what went wrong.
    fn follow(&mut self, uids: &BTreeSet<PodUid>) -> Vec<String> {
        self.enforcer.observe_new_programs(&mut self.observed);
        let (rest, _) = self.view().isolate(uids);
        // What fails is tried again below, and reported if it fails again.
        self.apply(&rest);
        let looked = self.look_again(uids);
        let errors = self.settle(uids);
        looked.err().iter().map(ToString::to_string).chain(errors).collect()
    }

    fn look_again(&mut self, uids: &BTreeSet<PodUid>) -> Result<(), InventoryError> {
        let pods = self.scanner.pods(uids)?;
        self.inventory.pods.retain(|uid, _| !uids.contains(uid) || pods.contains_key(uid));
        let mut seen = Inventory { pods, node: None };
        remember(&self.inventory, &mut seen, &self.observed);
        self.inventory.pods.append(&mut seen.pods);
        Ok(())
    }

    /// Isolates these pods as they are known now. Returns what went wrong.
    fn settle(&mut self, uids: &BTreeSet<PodUid>) -> Vec<String> {
        let (actions, _) = self.view().isolate(uids);
        let errors = self.apply(&actions);
        // What waits there was planned when these pods were healthy: it may detach from one that is isolated now, and what guards
        // these may follow.
        self.to_arm = self.view().arm().into();
        self.known = self.observed.clone();
        errors.iter().map(ToString::to_string).collect()
    }

    fn foresee(&self, text: &str, uid: PodUid) -> Outcome {
        let places: Vec<String> = match self.inventory.pods.get(&uid) {
            None => vec!["nothing yet: the pod is not on this node now".to_owned()],
            Some(pod) => {
                let cgroup = pod.cgroup.iter().map(|cgroup| format!("cgroup {}", cgroup.path.display()));
                cgroup.chain(pod.host_veths().map(|veth| format!("veth {}", veth.name))).collect()
            }
        };
        let state =
            if self.desired.contains_key(&uid) { "is isolated, and would be updated" } else { "would be isolated" };
        let message = format!("pod {} {state} at: {}; nothing was changed", self.called(&uid), places.join(", "));
        self.outcome(text, uid, Code::Done, message)
    }

    fn report(&self, text: &str, uid: PodUid, slot: Option<Slot>, unsaved: Option<&str>, errors: &[String]) -> Outcome {
        let entry = &self.desired[&uid];
        let Isolation { coverage, open, hooks, .. } = self.isolation(&uid, entry, slot, None, None);
        let called = self.called(&uid);
        let uncut = coverage == Coverage::Partial && hooks.iter().all(|hook| hook.state != HookState::Holding);
        let mut message = match coverage {
            Coverage::Partial if uncut => {
                format!("pod {called} is NOT cut off, nothing on this node can do it: {}", open.join("; "))
            }
            Coverage::Full => format!("pod {called} is isolated"),
            Coverage::Partial => format!("pod {called} is isolated, but only partly covered: {}", open.join("; ")),
            Coverage::Absent => format!("pod {called} is not on this node now; it is isolated as soon as it is"),
        };
        let mut code = match coverage {
            Coverage::Partial if uncut => Code::Failed,
            Coverage::Partial => Code::PartlyCovered,
            Coverage::Full | Coverage::Absent => Code::Done,
        };
        if !errors.is_empty() {
            code = if coverage == Coverage::Full { Code::PartlyCovered } else { Code::Failed };
            message =
                format!("{message}. Not all went well; it is tried again every few seconds: {}", errors.join("; "));
        }
        if let Some(error) = unsaved {
            code = Code::Failed;
            message = format!(
                "{message}. But its record could not be written, so it would not survive a reboot: {error}. Mend that \
                 and add it again; it stays isolated meanwhile"
            );
        }
        Outcome { open, ..self.outcome(text, uid, code, message) }
    }
}

/// Whether a change, and what comes after it, only covers what goes past the hooks on a pod's packets: what a CNI may hand over past the
/// host ends, which waits for RCU at each, and calls.
const fn is_beside(action: &Action) -> bool {
    match action {
        Action::AttachNetdev(place, _) => place.has_host_end,
        Action::AttachLsm(..) => true,
        _ => false,
    }
}

/// What is to be said about the end of an isolation, and about what became of the end that it had before.
fn limit_note(before: Option<&Entry>, limit: Option<&TimeLimit>) -> String {
    let earlier = before.and_then(Entry::record).map(|record| record.limit.as_ref());
    match (earlier, limit) {
        (None | Some(None), None) => String::new(),
        (Some(Some(earlier)), None) => {
            format!("; its time limit ({:.0}) is lifted: it stays isolated until somebody releases it", earlier.until)
        }
        (None, Some(limit)) => format!("; it is released at {:.0}", limit.until),
        (Some(None), Some(limit)) => format!("; it is released at {:.0}, it had no time limit before", limit.until),
        (Some(Some(earlier)), Some(limit)) => {
            format!("; it is released at {:.0}, not at {:.0} as before", limit.until, earlier.until)
        }
    }
}
