//! Taking everything off the node: records first, then what enforces, then the folders. Goes on whatever fails.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Direct, Engine};
use crate::{desired::Desired, settings::Arm};

/// What is still there afterwards.
#[derive(Debug, Default)]
pub struct Left {
    /// What could not be taken away, for a person.
    pub failed: Vec<String>,
    /// What was found in the agent's folders and is none of its.
    pub strangers: Vec<PathBuf>,
}

impl Direct {
    /// The pods that are isolated, by UID.
    pub async fn isolated(&mut self) -> Vec<String> {
        self.status().await.isolations.into_iter().map(|isolation| isolation.uid).collect()
    }

    /// Releases everything and removes all that the agent has made on the node.
    pub fn uninstall(self, keep_records: bool) -> Left {
        self.engine.uninstall(keep_records)
    }
}

impl Engine {
    fn uninstall(mut self, keep_records: bool) -> Left {
        let mut left = Left::default();
        if !keep_records {
            for uid in self.desired.keys() {
                left.failed.extend(self.store.delete(uid).err().map(|error| error.to_string()));
            }
        }
        if !left.failed.is_empty() {
            return left;
        }
        self.desired = Desired::new();
        self.settings.arm = Arm::OnDemand;
        let plan = self.view().plan();
        for actions in [plan.enforce, plan.arm] {
            left.failed.extend(self.apply(&actions).iter().map(ToString::to_string));
        }
        let Self { enforcer, store, journal, settings, .. } = self;
        left.failed.extend(enforcer.uninstall().err().map(|error| error.to_string()));
        if !left.failed.is_empty() {
            return left;
        }
        if !keep_records {
            for file in journal.files().into_iter().chain(store.files()) {
                left.remove(&file, fs::remove_file);
            }
            left.remove_folder(&store.folder());
            left.remove_folder(&settings.state_dir);
        }
        left.remove_folder(&settings.bpffs);
        // Last, since whoever waits for the lock finds nothing to do any more.
        for file in [settings.socket(), settings.socket_lock(), settings.lock()] {
            left.remove(&file, fs::remove_file);
        }
        left.remove_folder(&settings.run_dir);
        left
    }
}

impl Left {
    fn remove(&mut self, path: &Path, remove: impl FnOnce(PathBuf) -> io::Result<()>) {
        match remove(path.to_owned()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.failed.push(format!("{}: {error}", path.display()));
            }
            _ => {}
        }
    }

    /// A folder with something in it that is not ours stays, and so does one that something is mounted on.
    fn remove_folder(&mut self, path: &Path) {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                let inside = fs::read_dir(path).into_iter().flatten().flatten();
                self.strangers.extend(inside.map(|entry| entry.path()));
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy) => {}
            Err(error) => self.failed.push(format!("{}: {error}", path.display())),
            Ok(()) => {}
        }
    }
}
