//! Removes what runs that were killed have left, by its name. Never touches what a living process made.

use std::path::{Path, PathBuf};

use crate::{cgroup, name, netns, residue};

/// Removes the objects of test processes that no longer exist, and says so on stderr.
pub fn dead_runs() {
    let orphans = residue::named(name::is_orphan);
    for path in &orphans {
        eprintln!("sweep: {} was left by a run that was killed", path.display());
    }
    remove(orphans);
}

/// Removes the objects of a process that has ended; returns what there was.
pub fn left_by(pid: u32) -> Vec<PathBuf> {
    let left = residue::named(|name| name::is_orphan(name) && name::is_of(name, pid));
    remove(left.clone());
    left
}

fn remove(mut paths: Vec<PathBuf>) {
    // Cgroups first: their processes hold the namespaces and the mounts.
    paths.sort_by_key(|path| !path.starts_with(cgroup::mount()));
    for path in paths {
        if path.starts_with(cgroup::mount()) {
            cgroup::remove(&path);
        } else if path.starts_with(netns::FOLDER) {
            let name = path.strip_prefix(Path::new(netns::FOLDER)).expect("it lies there");
            netns::remove(name.to_str().expect("its name is one of ours"));
        } else {
            residue::remove(&path);
        }
    }
}
