//! The process that collects: what it waits for may never answer, and it may then not even end. So nobody waits for it, and
//! it has nothing open that is the command's but two pipes.

use std::{
    fs,
    io::{self, BufRead as _},
    time::{Duration, Instant},
};

use isolate_agent::{
    control::protocol::Code,
    desired::Store,
    events::Journal,
    evidence::{Bundle, EvidenceError, Subject, Summary},
    inventory::{InventoryError, Scanner, cri::Cri},
    pod::{PodQuery, PodUid, QueryError},
    reconcile::Direct,
    settings::Settings,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::super::{
    CliError,
    lookup::{self, LookupError},
    output, with_causes,
};
use crate::args::Evidence;

/// What executables may take, all together.
const PATIENCE: Duration = Duration::from_mins(1);

/// What it tells the command, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// What comes next.
    Progress(String),
    /// What changes from moment to moment was read; it goes on when it is told to.
    Read,
    /// It is done.
    Done { sha256: String, files: usize, problems: usize, complete: bool },
    /// There is no bundle.
    Failed { code: Code, message: String },
}

#[derive(Debug, Error)]
enum CollectError {
    #[error(transparent)]
    Pod(#[from] LookupError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    #[error(transparent)]
    Bundle(#[from] EvidenceError),
}

impl CollectError {
    const fn code(&self) -> Code {
        match self {
            Self::Pod(error) => error.code(),
            Self::Query(_) => Code::Usage,
            Self::Inventory(_) | Self::Bundle(_) => Code::Failed,
        }
    }
}

/// Collects: what changes from moment to moment within `first`, the rest once a line comes from the command.
pub(super) async fn run(args: &Evidence, first: Duration, settings: &Settings) -> Result<Code, CliError> {
    let until = Instant::now() + first;
    let (code, last) = match collect(args, until, settings).await {
        Ok(Summary { sha256, files, problems, complete, .. }) => {
            (Code::Done, Message::Done { sha256, files, problems, complete })
        }
        Err(error) => (error.code(), Message::Failed { code: error.code(), message: with_causes(&error) }),
    };
    say(&last);
    Ok(code)
}

async fn collect(args: &Evidence, until: Instant, settings: &Settings) -> Result<Summary, CollectError> {
    let mut bundle = open(args, settings).await?;
    bundle.volatile(until, progress)?;
    say(&Message::Read);
    // Whether a line comes or the command has ended: what was read is finished.
    drop(io::stdin().lock().read_line(&mut String::new()));
    bundle.lasting(Instant::now() + PATIENCE, progress)?;
    progress("writing it to its end");
    Ok(bundle.finish()?)
}

/// The command may have ended.
fn say(message: &Message) {
    let line = serde_json::to_string(message).unwrap_or_default();
    drop(output::print(&(line + "\n")));
}

fn progress(what: &str) {
    say(&Message::Progress(what.to_owned()));
}

async fn open(args: &Evidence, settings: &Settings) -> Result<Bundle, CollectError> {
    let scanner = Scanner::new(settings.cgroup_root.as_deref())?;
    let inventory = scanner.scan([]).await?;
    let names = match args.uid.parse()? {
        PodQuery::Name(_) => Cri::asked_once(settings.cri_endpoint.as_deref(), Direct::CRI_PATIENCE).await,
        PodQuery::Uid(_) => Cri::default(),
    };
    let uid = lookup::pod(&args.uid, inventory.pods.keys(), &names)?;
    let (cgroups, pids) = scanner.processes(uid).await?;
    let description = format!("{:#?}\n", inventory.pods[&uid]);
    let subject = Subject { uid, description, cgroups, pids, records: records(uid, settings) };
    Ok(Bundle::create(&args.write, subject, args.with_env)?)
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
