//! `evidence`: what a pod is at this moment, into one archive. Reads the node itself: it takes neither a daemon nor the lock.

use std::{
    fs, io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use isolate_agent::{
    control::protocol::Code,
    desired::Store,
    events::Journal,
    evidence::{Bundle, EvidenceError, Subject, Summary},
    inventory::{Inventory, InventoryError, Scanner, cri::Cri},
    pod::{PodQuery, PodUid, QueryError},
    reconcile::Direct,
    settings::Settings,
};
use thiserror::Error;
use tokio::{sync::oneshot, time::timeout};

use super::{CliError, output};
use crate::args::{Evidence, Form};

/// What a bundle by itself may take, for each of its halves.
const PATIENCE: Duration = Duration::from_mins(1);
/// What reading before a cut may take…
const BEFORE_THE_CUT: Duration = Duration::from_millis(1500);
/// …and what the cut waits for it, whatever it is held up by.
const LONGEST: Duration = Duration::from_secs(2);

/// Why there is no evidence.
#[derive(Debug, Error)]
pub(crate) enum CollectError {
    #[error(transparent)]
    Pod(#[from] QueryError),
    #[error("no pod {0} on this node; `kubectl get pod -A -o wide` says on which node it runs")]
    NoSuchPod(String),
    #[error("{text} means several pods of this node: {candidates}")]
    Ambiguous { text: String, candidates: String },
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    #[error(transparent)]
    Bundle(#[from] EvidenceError),
    #[error("cannot start")]
    Runtime(#[source] io::Error),
    #[error("collecting it is held up, perhaps by the file system that it is written to")]
    Stuck,
}

impl CollectError {
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::Pod(_) | Self::Ambiguous { .. } => Code::Usage,
            Self::NoSuchPod(_) => Code::NoSuchPod,
            Self::Inventory(_) | Self::Bundle(_) | Self::Runtime(_) | Self::Stuck => Code::Failed,
        }
    }
}

pub(crate) async fn run(args: &Evidence, settings: &Settings) -> Result<Code, CliError> {
    let mut bundle = open(&args.uid, &args.write, args.with_env, settings).await?;
    bundle.volatile(Instant::now() + PATIENCE, progress).map_err(CollectError::from)?;
    let summary = finish(bundle)?;
    output::print(&match args.output {
        Form::Text => describe(&summary),
        form => output::document(&summary, form)?,
    })?;
    Ok(Code::Done)
}

/// A bundle that is begun before a cut and finished after it.
pub(super) struct Collecting(oneshot::Receiver<Result<Bundle, CollectError>>);

impl Collecting {
    /// Returns when what changes from moment to moment was read, after two seconds at the latest. What is held up beyond
    /// that (a file system that does not answer) is so on a thread of its own.
    pub(super) async fn before_the_cut(text: &str, path: &Path, with_env: bool, settings: &Settings) -> Self {
        let (text, path, settings) = (text.to_owned(), path.to_owned(), settings.clone());
        let (read, was_read) = oneshot::channel();
        let (result, bundle) = oneshot::channel();
        let collect = move || -> Result<Bundle, CollectError> {
            let until = Instant::now() + BEFORE_THE_CUT;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(CollectError::Runtime)?;
            let mut bundle = runtime.block_on(open(&text, &path, with_env, &settings))?;
            bundle.volatile(until, progress)?;
            Ok(bundle)
        };
        let started = thread::Builder::new().name("evidence".to_owned()).spawn(move || {
            let collected = collect();
            // The command may have ended meanwhile.
            read.send(()).unwrap_or_default();
            drop(result.send(collected));
        });
        if started.is_ok() {
            // Whether it was read in time is told later.
            drop(timeout(LONGEST, was_read).await);
        }
        Self(bundle)
    }

    /// The rest of it, after the cut.
    pub(super) async fn finish(self) -> Result<Summary, CollectError> {
        match timeout(PATIENCE, self.0).await {
            Ok(Ok(bundle)) => finish(bundle?),
            Ok(Err(_)) | Err(_) => Err(CollectError::Stuck),
        }
    }
}

fn finish(mut bundle: Bundle) -> Result<Summary, CollectError> {
    bundle.lasting(Instant::now() + PATIENCE, progress)?;
    Ok(bundle.finish()?)
}

/// What a person is told of a bundle.
pub(super) fn describe(summary: &Summary) -> String {
    let Summary { path, sha256, files, problems, complete } = summary;
    let whole = format!("{}: {files} files, SHA-256 {sha256}\n", output::printable(&path.display().to_string()));
    if *problems == 0 && *complete {
        return whole;
    }
    let time = if *complete { "" } else { ", some for want of time" };
    format!("{whole}{problems} things could not be had{time}; manifest.json in it lists them\n")
}

fn progress(what: &str) {
    output::note(&format!("evidence: {what}"));
}

async fn open(text: &str, path: &Path, with_env: bool, settings: &Settings) -> Result<Bundle, CollectError> {
    let scanner = Scanner::new(settings.cgroup_root.as_deref())?;
    let inventory = scanner.scan([]).await?;
    let query: PodQuery = text.parse()?;
    let names = match query {
        PodQuery::Name(_) => Cri::asked_once(settings.cri_endpoint.as_deref(), Direct::CRI_PATIENCE).await,
        PodQuery::Uid(_) => Cri::default(),
    };
    let uid = resolve(text, &query, &inventory, &names)?;
    let (cgroups, pids) = scanner.processes(uid).await?;
    let description = format!("{:#?}\n", inventory.pods[&uid]);
    let subject = Subject { uid, description, cgroups, pids, records: records(uid, settings) };
    Ok(Bundle::create(path, subject, with_env)?)
}

fn resolve(text: &str, query: &PodQuery, inventory: &Inventory, names: &Cri) -> Result<PodUid, CollectError> {
    let is_meant = |uid: &&PodUid| match query {
        PodQuery::Uid(query) => query.matches(uid),
        PodQuery::Name(name) => names.name(uid).as_ref() == Some(name),
    };
    let matching: Vec<&PodUid> = inventory.pods.keys().filter(is_meant).collect();
    match matching.as_slice() {
        [] => Err(CollectError::NoSuchPod(text.to_owned())),
        [uid] => Ok(**uid),
        several => {
            let candidates: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(CollectError::Ambiguous { text: text.to_owned(), candidates: candidates.join(", ") })
        }
    }
}

/// The isolation's record, and what happened to it so far.
fn records(uid: PodUid, settings: &Settings) -> Vec<(String, Vec<u8>)> {
    let mut records = Vec::new();
    if let Ok(record) = fs::read(Store::record_path(&settings.state_dir, &uid)) {
        records.push(("isolation/record.json".to_owned(), record));
    }
    let mut events = Journal::new(&settings.state_dir).read().unwrap_or_default();
    events.retain(|event| event.uid == uid);
    let lines = events.iter().filter_map(|event| serde_json::to_string(event).ok());
    records.push(("isolation/events.jsonl".to_owned(), output::lines(lines).into_bytes()));
    records
}
