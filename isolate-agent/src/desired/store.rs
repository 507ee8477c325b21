//! The records on disk: one JSON file per isolation, written atomically, and what is noted beside them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Desired, Entry, RECORD_VERSION, Record};
use crate::{fault, limit::LastSeen, pod::PodUid};

/// Largest record file that is read, in bytes; ours are some hundred.
const MAX_RECORD_BYTES: u64 = 64 * 1024;

/// The folder of records in the state folder.
const FOLDER: &str = "isolations";

/// A failed operation on the state folder.
#[derive(Debug, Error)]
pub enum DesiredError {
    /// The folder cannot be made.
    #[error("cannot make the state folder {path}: {source}; use --state-dir for one that can be written")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder cannot be read.
    #[error("cannot read the state folder {path}: {source}")]
    Read {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record cannot be written.
    #[error("cannot write the record {path}: {source}")]
    Write {
        /// The record's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record cannot be deleted.
    #[error("cannot delete the record {path}: {source}")]
    Delete {
        /// The record's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The folder of records.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    /// Where the moment is noted that the agent was last seen running at.
    last_seen: PathBuf,
    /// For how long isolated pods were seen to be away from the node.
    absences: PathBuf,
}

impl Store {
    /// The records below `state_dir`, which is made if it does not exist. Without it, those that can be made later.
    pub fn open(state_dir: &Path) -> (Self, Result<(), DesiredError>) {
        let folder = state_dir.join(FOLDER);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        let made = made.map_err(|source| DesiredError::Folder { path: folder.clone(), source });
        (Self { folder, last_seen: state_dir.join("last-seen.json"), absences: state_dir.join("absences.json") }, made)
    }

    /// Reads all records. Files that are named like no record are left alone.
    pub fn load(&self) -> Result<Desired, DesiredError> {
        let failed = |source| DesiredError::Read { path: self.folder.clone(), source };
        let files = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Desired::new()),
            other => other.map_err(failed)?,
        };
        let mut desired = Desired::new();
        for file in files {
            let path = file.map_err(failed)?.path();
            if let Some(uid) = uid_in_name(&path) {
                desired.insert(uid, read(&path, &uid));
            }
        }
        Ok(desired)
    }

    /// Writes a record so that after a crash either the old or the new one is there, whole.
    pub fn save(&self, record: &Record) -> Result<(), DesiredError> {
        let path = self.path(&record.uid);
        replace(&path, record).map_err(|source| DesiredError::Write { path, source })
    }

    /// Writes records as [`Self::save`] does, several at a time: what waits for the disk at once, the disk does at once.
    pub fn save_all(&self, records: &[Record]) -> Vec<Result<(), DesiredError>> {
        const AT_ONCE: usize = 8;
        let save = |records: &[Record]| records.iter().map(|record| self.save(record)).collect::<Vec<_>>();
        thread::scope(|scope| {
            let mut shares = records.chunks(records.len().div_ceil(AT_ONCE).max(1));
            let first = shares.next();
            let spawn = |share| (share, thread::Builder::new().spawn_scoped(scope, move || save(share)));
            let others: Vec<_> = shares.map(spawn).collect();
            let mut saved = first.map_or_else(Vec::new, save);
            for (share, thread) in others {
                // Without another thread this one does its work.
                saved.extend(thread.map_or_else(
                    |_exhausted| save(share),
                    |thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                ));
            }
            saved
        })
    }

    /// Deletes a record; that it is absent already is success.
    pub fn delete(&self, uid: &PodUid) -> Result<(), DesiredError> {
        let path = self.path(uid);
        let deleted = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other,
        };
        fault::after("record deleted");
        deleted.and_then(|()| self.sync_folder()).map_err(|source| DesiredError::Delete { path, source })
    }

    /// When the agent was last seen running, if that was noted and can be read.
    pub fn last_seen(&self) -> Option<LastSeen> {
        let text = fs::read(&self.last_seen).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Notes that the agent runs now.
    pub fn note_seen(&self, now: &LastSeen) -> Result<(), DesiredError> {
        let path = self.last_seen.clone();
        replace(&path, now).map_err(|source| DesiredError::Write { path, source })
    }

    /// For how long pods were seen to be away, in milliseconds; nothing where that cannot be read.
    pub fn absences(&self) -> BTreeMap<PodUid, u64> {
        let text = fs::read(&self.absences).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Notes for how long pods were seen to be away.
    pub fn save_absences(&self, absences: &BTreeMap<PodUid, u64>) -> Result<(), DesiredError> {
        let path = self.absences.clone();
        replace(&path, absences).map_err(|source| DesiredError::Write { path, source })
    }

    /// The folder of the records.
    pub fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    /// All its files but the records: what is noted beside them, and what a crash has left half-written.
    pub fn files(&self) -> Vec<PathBuf> {
        let half = |path: &PathBuf| path.to_str().is_some_and(|path| path.ends_with(".json.new"));
        let records = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let beside = [&self.last_seen, &self.absences];
        let beside = beside.into_iter().flat_map(|path| [path.clone(), path.with_extension("json.new")]);
        records.filter(half).chain(beside).collect()
    }

    /// Where the record of `uid` is.
    pub fn path(&self, uid: &PodUid) -> PathBuf {
        self.folder.join(file_name(uid))
    }

    /// Where the record of `uid` is below this state folder.
    pub fn record_path(state_dir: &Path, uid: &PodUid) -> PathBuf {
        state_dir.join(FOLDER).join(file_name(uid))
    }

    /// The pods that have a record below this state folder, readable or not; none if the folder cannot be read.
    pub fn recorded(state_dir: &Path) -> Vec<PodUid> {
        let files = fs::read_dir(state_dir.join(FOLDER)).into_iter().flatten().flatten();
        files.filter_map(|file| uid_in_name(&file.path())).collect()
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

/// Writes a file so that after a crash either the old or the new one is there, whole.
fn replace(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let temporary = path.with_extension("json.new");
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    fault::at("write record")?;
    file.write_all(&text)?;
    file.sync_all()?;
    fault::after("record written");
    fs::rename(&temporary, path)?;
    fault::after("record named");
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn file_name(uid: &PodUid) -> String {
    format!("{uid}.json")
}

fn uid_in_name(path: &Path) -> Option<PodUid> {
    if path.extension()? != "json" {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}

fn read(path: &Path, uid: &PodUid) -> Entry {
    match parse(path) {
        Ok(record) if record.uid == *uid => Entry::Saved(record),
        Ok(record) => unreadable(path, format!("it is named for another pod than the one in it, {}", record.uid)),
        Err(why) => unreadable(path, why),
    }
}

fn unreadable(path: &Path, why: String) -> Entry {
    let written = fs::metadata(path).and_then(|file| file.modified()).ok();
    let since = written.and_then(|time| Timestamp::try_from(time).ok()).unwrap_or(Timestamp::UNIX_EPOCH);
    Entry::Unreadable { why, since }
}

/// Reads one record, or says why it cannot.
fn parse(path: &Path) -> Result<Record, String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let file = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    if !file.is_file() || file.len() > MAX_RECORD_BYTES {
        return Err(format!("it is no file of at most {MAX_RECORD_BYTES} bytes"));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let Version { version } = serde_json::from_str(&text).map_err(|error| format!("it is no record: {error}"))?;
    if version > RECORD_VERSION {
        return Err(format!("it has version {version}, this agent reads up to {RECORD_VERSION}"));
    }
    serde_json::from_str(&text).map_err(|error| format!("it is no record: {error}"))
}

#[cfg(test)]
mod tests;
