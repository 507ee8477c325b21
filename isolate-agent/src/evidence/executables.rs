//! What the pod's processes run: hashed, and copied where no name leads to it any more.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Seek as _},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    archive::{Archive, Hashing},
    bounded::{Attempts, Patient},
    proc::{Executable, Process},
};

/// Larger ones are neither hashed nor copied.
const LARGEST: u64 = 1 << 30;
/// What all copies together may take.
const MOST_COPIED: u64 = 2 << 30;
/// What reading one is waited for: some hundred MB a second.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the kernel is asked of it in passing.
const BRIEFLY: Duration = Duration::from_secs(2);

/// Executables by device and inode: most processes of a pod run the same few.
#[derive(Debug, Default)]
pub(super) struct Executables(BTreeMap<(u64, u64), Known>);

#[derive(Debug)]
struct Known {
    what: Executable,
    pids: Vec<i32>,
    sha256: String,
    /// Where it can be copied from: unchanged, since a file that runs cannot be written (`ETXTBSY`).
    copy: Option<File>,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    what: &'a Executable,
    sha256: &'a str,
    processes: &'a [i32],
    #[serde(skip_serializing_if = "Option::is_none")]
    copy: Option<String>,
}

impl Executables {
    /// Takes in what a process runs, or says why it cannot.
    pub(super) fn take(&mut self, process: &Process, until: Instant, attempts: &mut Attempts) -> Result<(), String> {
        let left = || until.saturating_duration_since(Instant::now());
        let of = process.clone();
        let what = attempts.run(BRIEFLY.min(left()), move || of.executable()).map_err(|gave_up| gave_up.to_string())?;
        let Some(what) = what else { return Ok(()) };
        let key = (what.device, what.inode);
        if let Some(known) = self.0.get_mut(&key) {
            known.pids.push(process.pid);
            return Ok(());
        }
        if what.bytes > LARGEST {
            return Err(format!("it has {} bytes: too large to be hashed", what.bytes));
        }
        let (of, bytes, deleted) = (process.clone(), what.bytes, what.deleted);
        let hashed = attempts.run(PATIENCE.min(left()), move || -> io::Result<(Option<File>, String)> {
            let mut file = of.executable_file()?;
            let mut hash = Hashing::new(&mut file);
            io::copy(&mut hash.by_ref().take(bytes), &mut io::sink())?;
            let (_, sha256) = hash.finish();
            file.rewind()?;
            // Closing it may hang as well, so that is done here.
            Ok((deleted.then_some(file), sha256))
        });
        let (copy, sha256) =
            hashed.map_err(|gave_up| gave_up.to_string())?.map_err(|error: io::Error| error.to_string())?;
        self.0.insert(key, Known { what, pids: vec![process.pid], sha256, copy });
        Ok(())
    }

    /// Writes the list, and the copies. Returns what could not be had, and why.
    pub(super) fn add_to(self, archive: &mut Archive, progress: impl Fn(&str)) -> io::Result<Vec<(String, String)>> {
        let (mut left, mut rows, mut problems) = (MOST_COPIED, Vec::new(), Vec::new());
        let mut list = Vec::new();
        for Known { what, pids, sha256, copy: file } in self.0.into_values() {
            let mut copy = None;
            if let Some(file) = file {
                let mut patient = Patient::new(file, PATIENCE)?;
                if what.bytes <= left {
                    let name = format!("executables/{sha256}");
                    progress(&format!("a copy of {}", what.path));
                    archive.copy(&name, &mut patient, what.bytes, false)?;
                    left -= what.bytes;
                    if let Some(why) = patient.failure() {
                        problems.push((format!("copy of {}: zeroes from there on", what.path), why));
                    }
                    copy = Some(name);
                }
            }
            list.push((what, pids, sha256, copy));
        }
        for (what, processes, sha256, copy) in &list {
            rows.push(Row { what, sha256, processes, copy: copy.clone() });
        }
        archive.add("executables.json", &serde_json::to_vec_pretty(&rows)?, false)?;
        Ok(problems)
    }
}
