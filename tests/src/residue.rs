//! What a test leaves behind: its node's folder and mounts are cleared here, and everything it made must be gone after.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rustix::mount::{UnmountFlags, unmount};

use crate::{
    bpf::{self, Object},
    cgroup, name, netns, wait,
};

/// How long the kernel may take to free what nobody holds any more (RCU, deferred work). A thousand namespaces take most
/// of a minute.
const FREEING: Duration = Duration::from_mins(2);

/// The list of what must be gone. The last clone's drop checks it.
#[derive(Clone, Debug, Default)]
pub struct Residue(Arc<List>);

#[derive(Debug, Default)]
struct List {
    paths: Mutex<Vec<PathBuf>>,
    objects: Mutex<Vec<Object>>,
}

impl Residue {
    /// Adds a path.
    pub fn watch(&self, path: &Path) {
        self.0.paths.lock().expect("adding does not panic").push(path.to_owned());
    }
}

impl Drop for List {
    fn drop(&mut self) {
        let paths = self.paths.get_mut().expect("adding does not panic");
        let objects = self.objects.get_mut().expect("adding does not panic");
        let freed = wait::happens_within(FREEING, || bpf::alive(objects).is_empty());
        paths.retain(|path| path.exists());
        let clean = freed && paths.is_empty();
        if !clean {
            let report = format!("left behind: {paths:?}, {:?}", bpf::alive(objects));
            // A second panic would abort, and hide the first.
            assert!(thread::panicking(), "{report}");
            eprintln!("{report}");
        }
    }
}

/// A temporary folder. When it is dropped, file systems mounted in it are unmounted first, and the BPF objects pinned
/// there are noted as what must be gone.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    residue: Residue,
}

impl Folder {
    pub(crate) fn new(name: &str, residue: &Residue) -> Self {
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        residue.watch(&path);
        Self { path, residue: residue.clone() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let pinned = mounts_below(&self.path).iter().flat_map(|mount| bpf::pinned(mount)).collect::<Vec<_>>();
        self.residue.0.objects.lock().expect("adding does not panic").extend(pinned);
        remove(&self.path);
    }
}

/// Removes a folder with what is mounted in it.
pub(crate) fn remove(folder: &Path) {
    // The innermost first.
    for mount in mounts_below(folder).iter().rev() {
        if let Err(error) = unmount(mount, UnmountFlags::DETACH) {
            eprintln!("clean-up: unmount {}: {error}", mount.display());
        }
    }
    if let Err(error) = fs::remove_dir_all(folder) {
        eprintln!("clean-up: {}: {error}", folder.display());
    }
}

fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    places.filter(|place| place.starts_with(folder)).collect()
}

/// The places in which objects of tests are found by their names.
pub(crate) fn named(such: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let places = [env::temp_dir(), PathBuf::from(netns::FOLDER), cgroup::mount().to_owned()];
    let entries = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    entries.filter(|entry| entry.file_name().to_str().is_some_and(&such)).map(|entry| entry.path()).collect()
}

/// What this process made and did not remove; nothing, at the end of a run.
pub fn of_this_run() -> Vec<PathBuf> {
    named(name::is_ours)
}

/// Whether any object of a test has a name that begins so.
pub fn any_named(prefix: &str) -> bool {
    !named(|name| name.starts_with(prefix)).is_empty()
}
