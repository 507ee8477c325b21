//! The engine: observes, plans, has the plan carried out. The only place that sees both what is desired and the kernel.
//!
//! The daemon runs it for ever, a command runs it once ([`Direct`]). All of it happens in one task, one thing at a time.

#![expect(clippy::result_large_err, reason = "an outcome is an answer either way, and no error that is passed up")]

mod add;
mod arm;
mod at_once;
mod direct;
mod essential;
mod examine;
mod expire;
mod remove;
mod repair;
mod resolve;
mod retire;
mod sandbox;
mod snapshot;
mod undone;
mod uninstall;

use std::{
    collections::{BTreeSet, VecDeque},
    path::PathBuf,
    time::Instant,
};

use jiff::Timestamp;
use thiserror::Error;

pub use self::{at_once::Looked, direct::Direct, repair::Repaired, uninstall::Left};
use self::{repair::Before, retire::Away};
use crate::{
    desired::{Desired, DesiredError, Entry, RECORD_VERSION, Record, Store},
    enforce::{EnforceError, Enforcer, KernelLog},
    events::{Event, Journal, Kind},
    inventory::{CgroupId, IfIndex, Interface, Inventory, InventoryError, Scanner, cri::Cri},
    lock::{Lock, LockError},
    observed::Observed,
    plan::{self, Action, View},
    pod::PodUid,
    settings::Settings,
    status::{Place, Unattachable},
    watch::Watch,
};

/// Why the engine cannot start.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process is at work.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The kernel's objects cannot be used.
    #[error(transparent)]
    Enforce(#[from] EnforceError),
    /// The node cannot be looked at.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
}

/// Why a pass did not come to its end.
#[derive(Debug, Error)]
pub enum PassError {
    /// The node cannot be looked at: nothing was changed.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// The kernel's objects cannot be read: nothing was changed.
    #[error(transparent)]
    Observe(#[from] EnforceError),
    /// The records cannot be listed: what the kernel holds stays, and what only they know of is not isolated.
    #[error(transparent)]
    Records(#[from] DesiredError),
    /// Some changes failed; the next pass tries them again.
    #[error("{} of the changes failed, first: {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Apply(Vec<EnforceError>),
}

/// Everything that one process needs to isolate pods.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    store: Store,
    journal: Journal,
    enforcer: Enforcer,
    scanner: Scanner,
    cri: Cri,
    desired: Desired,
    /// The records could not be listed: pods may have to be isolated that nobody here knows of.
    unread: bool,
    inventory: Inventory,
    /// The cgroup that kubelet runs in, looked for while some pod's probes are to be kept.
    kubelet: Option<CgroupId>,
    observed: Observed,
    /// The same after the last change of ours: what is missing later was undone by somebody else.
    known: Observed,
    /// Pods that are to be isolated and have left the node.
    away: Away,
    /// What was put back and not yet told.
    repairs: Vec<Repaired>,
    /// The same in words, for a while.
    told: Vec<(Instant, String)>,
    /// Whether somebody calls [`Self::arm_next`] after the answer to a request.
    lingers: bool,
    /// Slow changes that are not urgent: between two of them, requests are answered.
    to_arm: VecDeque<Action>,
    /// Where the kernel would not let us attach, since the last pass.
    unattachable: Unattachable,
    /// What needs a person, since the last pass.
    warnings: Vec<String>,
    _lock: Lock,
}

impl Engine {
    /// Takes the lock, adopts what is on disk and in the kernel. Releases nothing, attaches nothing. `cri` is what the
    /// container runtime tells, now or later.
    pub async fn open(settings: &Settings, cri: Cri) -> Result<Self, OpenError> {
        let lock = Lock::take(&settings.lock()).await?;
        let (store, made) = Store::open(&settings.state_dir);
        let mut warnings: Vec<String> = made.err().into_iter().map(|error| error.to_string()).collect();
        let loaded = store.load();
        let unread = loaded.is_err();
        let desired = loaded.unwrap_or_else(|error| {
            warnings.push(error.to_string());
            Desired::new()
        });
        let mut enforcer = Enforcer::open(settings)?;
        let observed = enforcer.observe()?;
        let scanner = Scanner::new(settings.cgroup_root.as_deref())?.with_claims(cri.clone());
        let inventory = look(&scanner, &desired).await?;
        let away = Away::new(store.absences());
        let mut engine = Self {
            settings: settings.clone(),
            store,
            journal: Journal::new(&settings.state_dir),
            enforcer,
            scanner,
            cri,
            desired,
            unread,
            inventory,
            kubelet: observed.kubelet,
            known: observed.clone(),
            observed,
            away,
            repairs: Vec::new(),
            told: Vec::new(),
            lingers: true,
            to_arm: VecDeque::new(),
            unattachable: Unattachable::new(),
            warnings,
            _lock: lock,
        };
        engine.adopt();
        Ok(engine)
    }

    /// Records every isolation that only the kernel knows.
    fn adopt(&mut self) {
        for (uid, policy) in plan::recovered(&self.desired, &self.inventory, &self.observed) {
            tracing::warn!(%uid, "the kernel isolates this pod and no record says so: adopted");
            let record = Record {
                version: RECORD_VERSION,
                uid,
                pod: self.cri.name(&uid),
                since: Timestamp::now(),
                by: "isolate-agent (recovered)".to_owned(),
                reason: Some("found isolated in the kernel, without a record, when the agent started".to_owned()),
                keep_loopback: policy.flags.contains(isolate_common::PolicyFlags::KEEP_LOOPBACK),
                probe_ports: BTreeSet::new(),
                allow: Vec::new(),
                limit: None,
            };
            self.desired.insert(uid, Entry::Unsaved(record));
            self.note(uid, Kind::Recovered, None, None);
        }
    }

    /// Writes an event down. What happened has happened, whether or not that works.
    fn note(&mut self, uid: PodUid, kind: Kind, by: Option<&str>, detail: Option<String>) {
        let event = Event { at: Timestamp::now(), uid, pod: self.name(&uid), kind, by: by.map(str::to_owned), detail };
        if let Err(error) = self.journal.append(&event) {
            self.warnings.push(format!("cannot write to the journal {}: {error}", self.journal.path().display()));
        }
    }

    /// Makes the kernel agree with what is desired on the node as `scanned`, as far as it is urgent; what is not is left for [`Self::arm_next`].
    pub fn pass(&mut self, scanned: Result<Inventory, InventoryError>) -> Result<(), PassError> {
        self.warnings.clear();
        let read = self.read_records();
        let mended = self.mend();
        let outcome = self.enforce_all(scanned).and_then(|()| read.map_err(PassError::from));
        let outcome = outcome.and_then(|()| mended.map_err(PassError::from));
        // Not over records that were never read.
        if !self.unread {
            self.save_unsaved();
        }
        self.describe_records();
        if let Err(error) = &outcome {
            self.warnings.push(format!("the last pass failed: {error}"));
        }
        outcome
    }

    fn enforce_all(&mut self, scanned: Result<Inventory, InventoryError>) -> Result<(), PassError> {
        self.observed = self.enforcer.observe()?;
        let found = self.observed.clone();
        let inventory = self.know(scanned?);
        self.unattachable.clear();
        self.look_for_kubelet();
        let plan = self.view().plan();
        for uid in &plan.no_slot {
            self.warnings.push(self.no_slot(uid));
        }
        let errors = self.apply_and_tell(&plan.enforce, &found, &inventory);
        self.known = self.observed.clone();
        self.to_arm = plan.arm.into();
        if errors.is_empty() { Ok(()) } else { Err(PassError::Apply(errors)) }
    }

    fn no_slot(&self, uid: &PodUid) -> String {
        format!(
            "pod {} is NOT isolated: {} pods are, and the maps have no room for more. Release one, or, with nothing \
             isolated, delete the pins and start the agent with a larger --max-isolated",
            self.called(uid),
            self.observed.capacity
        )
    }

    /// Takes in what a scan saw, and what it could not see any more; gives what was known before.
    fn know(&mut self, mut seen: Inventory) -> Inventory {
        remember(&self.inventory, &mut seen, &self.observed);
        std::mem::replace(&mut self.inventory, seen)
    }

    /// A look at the node, for [`Self::pass`]; it needs the engine no more once it has begun. Tells when it began.
    pub fn look_at_node(&self) -> impl Future<Output = (Instant, Result<Inventory, InventoryError>)> + use<> {
        let (scanner, desired) = (self.scanner.clone(), self.desired.clone());
        async move {
            let started = Instant::now();
            (started, look(&scanner, &desired).await)
        }
    }

    /// What wakes whoever runs the engine: the same tree and links that it looks at.
    pub fn watch(&self) -> Watch {
        Watch::new(&self.scanner, self.enforcer.folder())
    }

    /// The root of the unified hierarchy, as far up as it is mounted.
    pub fn cgroup_root(&self) -> Option<PathBuf> {
        self.scanner.hierarchies().unified.as_ref().map(|unified| unified.root().to_path_buf())
    }

    /// What the programs in the kernel say about their errors.
    pub fn kernel_log(&self) -> Option<KernelLog> {
        self.enforcer.kernel_log()
    }

    /// Whether there are pods that the container runtime has not told about.
    pub fn has_strangers(&self) -> bool {
        let known = self.cri.known();
        self.inventory.pods.keys().any(|uid| !known.pods.contains_key(uid))
    }

    /// Looks where kubelet runs, if that matters to anybody. While it is not known, no probe passes.
    fn look_for_kubelet(&mut self) {
        if !self.desired.values().any(Entry::keeps_probes) {
            self.kubelet = None;
            return;
        }
        match self.scanner.kubelet(self.settings.kubelet_cgroup.as_deref()) {
            Ok(id) => self.kubelet = Some(id),
            Err(error) => {
                self.kubelet = None;
                self.warnings.push(format!("no probes are kept: {error}"));
            }
        }
    }

    fn view(&self) -> View<'_> {
        View {
            desired: &self.desired,
            inventory: &self.inventory,
            observed: &self.observed,
            arm: self.settings.arm,
            kubelet: self.kubelet,
            lingers: self.lingers,
        }
    }

    /// Carries out all of them, whatever becomes of each.
    fn apply(&mut self, actions: &[Action]) -> Vec<EnforceError> {
        self.apply_each(actions).into_iter().map(|(_, error)| error).collect()
    }

    /// The same; says which failed.
    fn apply_each<'a>(&mut self, actions: &'a [Action]) -> Vec<(&'a Action, EnforceError)> {
        let mut failed = Vec::new();
        for action in actions {
            tracing::debug!(?action, "apply");
            if let Err(error) = self.enforcer.apply(action, &mut self.observed) {
                tracing::error!(?action, %error, "a change in the kernel failed");
                self.unattachable.extend(place(action).map(|place| (place, error.to_string())));
                failed.push((action, error));
            }
        }
        failed
    }

    /// The same; tells what was put back. `found` and `before` are the kernel and the pods as they were.
    fn apply_and_tell(&mut self, actions: &[Action], found: &Observed, before: &Inventory) -> Vec<EnforceError> {
        let failed = self.apply_each(actions);
        let before = Before { known: &self.known, found, inventories: [before, &self.inventory] };
        let undone = actions.iter().filter_map(|action| Some((action, before.repair(action)?)));
        for (action, repair) in undone.collect::<Vec<_>>() {
            if failed.iter().any(|(failed, _)| *failed == action) {
                self.lost(&repair);
            } else {
                self.repaired(&repair);
            }
        }
        failed.into_iter().map(|(_, error)| error).collect()
    }

    /// Reads the records where the start could not. What was asked for since and is on disk stands.
    fn read_records(&mut self) -> Result<(), DesiredError> {
        if self.unread {
            for (uid, entry) in self.store.load()? {
                if !matches!(self.desired.get(&uid), Some(Entry::Saved(_))) {
                    self.desired.insert(uid, entry);
                }
            }
            self.unread = false;
        }
        Ok(())
    }

    fn save_unsaved(&mut self) {
        let uids: Vec<PodUid> = self.desired.keys().copied().collect();
        for uid in uids {
            if let Err(error) = self.save(&uid) {
                self.warnings.push(error.to_string());
            }
        }
    }

    /// Writes a record that is not on disk yet.
    fn save(&mut self, uid: &PodUid) -> Result<(), DesiredError> {
        let Some(Entry::Unsaved(record)) = self.desired.get(uid) else { return Ok(()) };
        let record = record.clone();
        self.store.save(&record)?;
        self.desired.insert(*uid, Entry::Saved(record));
        Ok(())
    }

    fn describe_records(&mut self) {
        for (uid, entry) in &self.desired {
            if let Entry::Unreadable { why, .. } = entry {
                self.warnings.push(format!(
                    "the record {} cannot be read: {why}. The pod is cut off entirely; add it again to write a new \
                     record, or remove it",
                    self.store.path(uid).display()
                ));
            }
        }
    }
}

/// A look at the node: closely at isolated pods, and at everybody's addresses where some of these are to be believed.
async fn look(scanner: &Scanner, desired: &Desired) -> Result<Inventory, InventoryError> {
    let closely = desired.keys().copied();
    if desired.values().any(Entry::has_exemptions) {
        scanner.scan_with_addresses(closely).await
    } else {
        scanner.scan(closely).await
    }
}

/// Keeps the host veths that a pod was seen with for as long as their armed links live and nobody else has them: its
/// processes may have left the namespace that they lead to, and packet sockets in it stay behind. And what its processes
/// can do, where the new look was begun before anybody wanted to know.
fn remember(before: &Inventory, now: &mut Inventory, observed: &Observed) {
    let not_seen = before.pods.values().filter(|pod| !now.pods.contains_key(&pod.uid));
    let seen = now.pods.values().chain(not_seen).flat_map(|pod| &pod.interfaces);
    let taken: BTreeSet<IfIndex> = seen.filter(|interface| !interface.claimed).filter_map(host_index).collect();
    for (uid, pod) in &mut now.pods {
        let known = before.pods.get(uid).into_iter().flat_map(|pod| &pod.interfaces);
        for interface in known {
            let Some(ifindex) = host_index(interface) else { continue };
            if taken.contains(&ifindex) || !observed.veth_is_live(ifindex) {
                continue;
            }
            match pod.interfaces.iter_mut().find(|now| host_index(now) == Some(ifindex)) {
                // The runtime says so as well; it was known without it.
                Some(now) => now.claimed &= interface.claimed,
                None => pod.interfaces.push(Interface { inside: None, ..interface.clone() }),
            }
        }
        if pod.powers.is_none() {
            pod.powers = before.pods.get(uid).and_then(|pod| pod.powers.clone());
        }
    }
}

/// The interface that a change attaches a hook to.
const fn place(action: &Action) -> Option<Place> {
    match action {
        Action::HoldVeth(veth, _) | Action::AttachVeth(veth, _) => Some(Place::HostEnd(veth.ifindex)),
        Action::AttachNetdev(place, _) | Action::AttachXdp(place) => Some(Place::Inside(place.key)),
        _ => None,
    }
}

fn host_index(interface: &Interface) -> Option<IfIndex> {
    interface.host.as_ref().map(|veth| veth.ifindex)
}
