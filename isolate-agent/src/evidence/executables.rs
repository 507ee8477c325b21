//! What the pod's processes run: hashed, and copied where no name leads to it any more.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Seek as _},
    time::Duration,
};

use serde::Serialize;

use super::{
    archive::{Archive, Hashing},
    bounded::Attempts,
    proc::{Executable, Process},
};

/// Larger ones are neither hashed nor copied.
const LARGEST: u64 = 1 << 30;
/// What all copies together may take.
const MOST_COPIED: u64 = 2 << 30;
/// What reading one is waited for: some hundred MB a second.
const PATIENCE: Duration = Duration::from_secs(15);

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
    pub(super) fn take(&mut self, process: &Process, attempts: &mut Attempts) -> Result<(), String> {
        let Some(what) = process.executable() else { return Ok(()) };
        let key = (what.device, what.inode);
        if let Some(known) = self.0.get_mut(&key) {
            known.pids.push(process.pid);
            return Ok(());
        }
        if what.bytes > LARGEST {
            return Err(format!("it has {} bytes: too large to be hashed", what.bytes));
        }
        let (of, bytes) = (process.clone(), what.bytes);
        let hashed = attempts.run(PATIENCE, move || -> io::Result<(File, String)> {
            let mut file = of.executable_file()?;
            let mut hash = Hashing::new(&mut file);
            io::copy(&mut hash.by_ref().take(bytes), &mut io::sink())?;
            let (_, sha256) = hash.finish();
            file.rewind()?;
            Ok((file, sha256))
        });
        let (file, sha256) =
            hashed.map_err(|gave_up| gave_up.to_string())?.map_err(|error: io::Error| error.to_string())?;
        let copy = what.deleted.then_some(file);
        self.0.insert(key, Known { what, pids: vec![process.pid], sha256, copy });
        Ok(())
    }

    /// Writes the list, and the copies.
    pub(super) fn add_to(self, archive: &mut Archive) -> io::Result<()> {
        let mut left = MOST_COPIED;
        let mut rows = Vec::new();
        for known in self.0.values() {
            let mut copy = None;
            if let Some(file) = &known.copy
                && known.what.bytes <= left
            {
                let name = format!("executables/{}", known.sha256);
                archive.copy(&name, file, known.what.bytes, false)?;
                left -= known.what.bytes;
                copy = Some(name);
            }
            rows.push(Row { what: &known.what, sha256: &known.sha256, processes: &known.pids, copy });
        }
        archive.add("executables.json", &serde_json::to_vec_pretty(&rows)?, false)
    }
}
