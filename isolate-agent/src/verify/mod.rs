//! Proof on the live pod: probes to each hook of an isolated pod, from inside it and towards it, and what became of them.
//!
//! Runs beside the engine, from what that saw before and after. Nothing it sends can leave the node, nothing that it makes
//! stays, it starts no program, and no thread or process of it depends on the pod for its end.

mod allowed;
mod cgroup;
mod child;
mod frame;
mod interface;
mod judge;
mod packet;
mod refusal;
mod scratch;
mod socket;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use isolate_common::{DIRECTIONS, Direction, HOOKS, Hook, SlotCounters};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::Mutex;

pub(crate) use self::{allowed::Allowed, child::prefix as leaf_prefix, socket::Kind};
use self::{interface::Probe, judge::Evidence};
use crate::{
    allow::Compiled,
    control::protocol::{Code, Finding, HookState, HookStatus, Proof, Verification, Verifications},
    enforce::Guard,
    inventory::{Interface, Pod},
    observed::Slot,
    pod::PodUid,
    status::drops_what_is_seen,
};

/// How often a pod is tried that is neither proved cut nor found to leak: a probe may be lost on a busy node.
const ATTEMPTS: usize = 2;

/// One at a time on a node.
static TURN: Mutex<()> = Mutex::const_new(());

/// An isolated pod at one moment.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its UID.
    pub uid: PodUid,
    /// What runs of it.
    pub pod: Pod,
    /// Its slot.
    pub slot: Option<Slot>,
    /// Whether its loopback traffic passes.
    pub keep_loopback: bool,
    /// What it may do all the same.
    pub allowed: Compiled,
    /// Its hooks.
    pub hooks: Vec<HookStatus>,
    /// What stays open, as `status` says it.
    pub open: Vec<String>,
    /// The folder of the pins.
    pub bpffs: PathBuf,
    /// What was dropped.
    pub counters: SlotCounters,
}

/// What a text means that should be an isolated pod.
#[derive(Clone, Debug)]
pub enum Examined {
    /// One.
    Isolated(Box<Subject>),
    /// None: the answer.
    Other(Verification),
}

/// Who knows the isolated pods.
pub trait Examine {
    /// Why it cannot tell.
    type Error;

    /// Looks at a pod.
    fn examine(&mut self, text: &str) -> impl Future<Output = Result<Examined, Self::Error>> + Send;
}

/// Verifies pods, one after the other.
pub async fn verify<E: Examine>(uids: &[String], engine: &mut E) -> Result<Verifications, E::Error> {
    let _turn = TURN.lock().await;
    let mut results = Vec::with_capacity(uids.len());
    for text in uids {
        results.push(one(text, engine).await?);
    }
    Ok(Verifications { results })
}

async fn one<E: Examine>(text: &str, engine: &mut E) -> Result<Verification, E::Error> {
    let mut attempt = 1;
    loop {
        let before = match engine.examine(text).await? {
            Examined::Isolated(subject) => *subject,
            Examined::Other(answer) => return Ok(answer),
        };
        let subject = before.clone();
        let probed = tokio::task::spawn_blocking(move || probe(&subject)).await;
        let evidence = probed.unwrap_or_else(|error| {
            tracing::error!(%error, "a verification failed");
            Err("an error in the agent; its log says more".to_owned())
        });
        let after = match engine.examine(text).await? {
            Examined::Isolated(subject) => *subject,
            Examined::Other(answer) => return Ok(answer),
        };
        let proofs = prove(&before, &after, &evidence);
        // What was said to hold and could not be shown may be next time.
        let again = proofs
            .iter()
            .zip(&before.hooks)
            .any(|(proof, hook)| proof.finding == Finding::NotCovered && hook.state == HookState::Holding);
        let leaks = proofs.iter().any(|proof| proof.finding == Finding::Leak);
        if attempt == ATTEMPTS || leaks || !again {
            return Ok(answer(text, &after, proofs));
        }
        attempt += 1;
    }
}

/// What became of the probes, by number of the hook in [`Subject::hooks`].
type Evidences = BTreeMap<usize, Result<Evidence, String>>;

fn probe(subject: &Subject) -> Result<Evidences, String> {
    // Locally administered, and nobody's.
    let mut source = [0; 6];
    fill(&mut source).map_err(|error| format!("no random numbers: {error}"))?;
    source[0] = source[0] & 0xfc | 2;
    let guard = Guard::load(&subject.bpffs, source).map_err(|error| error.to_string());
    let (mut both_ways, mut refused, mut seen) = (None, None, BTreeMap::<_, usize>::new());
    let mut evidences = Evidences::new();
    for (number, status) in subject.hooks.iter().enumerate() {
        if status.state == HookState::NotApplicable {
            continue;
        }
        let evidence = match named(status) {
            None => Err("there is no probe for this hook".to_owned()),
            Some((Hook::Cgroup, direction)) => {
                let both_ways = both_ways.get_or_insert_with(|| cgroup(subject)).as_ref();
                both_ways.map(|both| both[direction as usize].clone()).map_err(Clone::clone)
            }
            // Nothing can be received on a socket that cannot be made.
            Some((Hook::Lsm, _)) => refused.get_or_insert_with(|| refusal(subject)).clone(),
            Some((hook, direction)) => {
                let nth = seen.entry((hook, direction, &*status.place)).or_default();
                let interface = interface(&subject.pod, hook, &status.place, *nth);
                *nth += 1;
                match (interface, &guard) {
                    (None, _) => Err("there is no such interface".to_owned()),
                    // Nobody knows what the program before ours does with a frame.
                    (Some(_), _) if is_displaced(status) => Err("another program runs first".to_owned()),
                    (Some(_), Err(error)) => Err(error.clone()),
                    (Some(interface), Ok(guard)) => {
                        let holds = status.state == HookState::Holding;
                        let drops = holds || drops_what_is_seen(status.detail.as_deref());
                        let allowed = Allowed(&subject.allowed);
                        Probe { guard, source, interface, slot: subject.slot, holds, drops, allowed }
                            .send(hook, direction)
                    }
                }
            }
        };
        evidences.insert(number, evidence);
    }
    Ok(evidences)
}

fn cgroup(subject: &Subject) -> Result<[Evidence; 2], String> {
    cgroup::probe(&subject.pod, directory(subject)?, subject.keep_loopback, Allowed(&subject.allowed))
}

fn refusal(subject: &Subject) -> Result<Evidence, String> {
    refusal::probe(directory(subject)?)
}

fn directory(subject: &Subject) -> Result<&Path, String> {
    let cgroup = subject.pod.cgroup.as_ref().ok_or("the pod has no cgroup in the unified hierarchy")?;
    Ok(&cgroup.path)
}

/// The hook and direction that a status names.
fn named(status: &HookStatus) -> Option<(Hook, Direction)> {
    let hook = HOOKS.into_iter().find(|hook| hook.name() == status.hook)?;
    let direction = DIRECTIONS.into_iter().find(|direction| direction.name() == status.direction)?;
    Some((hook, direction))
}

/// The interface that a status is about: several may have the same name, in several namespaces.
fn interface<'p>(pod: &'p Pod, hook: Hook, place: &str, nth: usize) -> Option<&'p Interface> {
    let is_it = |interface: &&Interface| match hook {
        Hook::Veth => interface.host.as_ref().is_some_and(|veth| veth.name == place),
        _ => interface.name == place,
    };
    pod.interfaces.iter().filter(is_it).nth(nth)
}

fn is_displaced(status: &HookStatus) -> bool {
    status.state == HookState::Missing && status.detail.as_deref().is_some_and(|why| why.contains("runs first"))
}

fn prove(before: &Subject, after: &Subject, evidence: &Result<Evidences, String>) -> Vec<Proof> {
    let prove = |(number, status): (usize, &HookStatus)| {
        let found = match evidence {
            Ok(evidences) => evidences.get(&number).map(|found| found.as_ref().map_err(String::as_str)),
            Err(why) => Some(Err(why.as_str())),
        };
        // A hook without a place has no evidence.
        let found = found.unwrap_or(Err("there is no place for it"));
        let same = |other: &&HookStatus| {
            (&other.hook, &other.direction, &other.place) == (&status.hook, &status.direction, &status.place)
        };
        let counted = named(status).map_or(0, |(hook, direction)| {
            // Its probes are calls that ask to be let out, whichever direction they speak for.
            let direction = if hook == Hook::Lsm { Direction::Out } else { direction };
            let of = |subject: &Subject| subject.counters.of(hook, direction).packets;
            of(after).saturating_sub(of(before))
        });
        let (finding, evidence) = judge::judge(status, after.hooks.iter().find(same), found, counted);
        let HookStatus { hook, direction, place, .. } = status.clone();
        Proof { hook: hook.into_owned(), direction: direction.into_owned(), place, finding, evidence }
    };
    let relevant = before.hooks.iter().enumerate().filter(|(_, status)| status.state != HookState::NotApplicable);
    relevant.map(prove).collect()
}

fn answer(text: &str, subject: &Subject, proofs: Vec<Proof>) -> Verification {
    let (uid, open) = (subject.uid, subject.open.clone());
    let of = |finding| proofs.iter().filter(|proof| proof.finding == finding).count();
    let (proved, allowed) = (of(Finding::ProvedCut), of(Finding::Allowed));
    let (leaks, all) = (of(Finding::Leak), proofs.len());
    let (code, message) = if leaks > 0 {
        let message = format!(
            "pod {uid} LEAKS: probes got past {leaks} of {all} hooks. Take the node off the network, or freeze the pod's \
             cgroup; then look at `isolate-agent status {uid}` and the agent's log"
        );
        (Code::Failed, message)
    } else if all > 0 && proved == all && open.is_empty() {
        (Code::Done, format!("pod {uid} is proved cut off, by probes to {all} of {all} hooks"))
    } else if all > 0 && proved + allowed == all && open.is_empty() {
        let message = format!(
            "pod {uid} is proved cut off, by probes to {proved} of {all} hooks; at the others all probes are allowed (--allow)"
        );
        (Code::Done, message)
    } else {
        let message = format!("pod {uid} is proved cut off at {proved} of {all} hooks, and the rest is not covered");
        (Code::PartlyCovered, message)
    };
    Verification { query: text.to_owned(), uid: Some(uid.to_string()), code, message, proofs, open }
}

fn fill(bytes: &mut [u8]) -> io::Result<()> {
    match getrandom(&mut *bytes, GetRandomFlags::empty())? {
        length if length == bytes.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
