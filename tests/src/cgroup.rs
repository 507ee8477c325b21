//! Cgroup directories of the unified hierarchy.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use crate::wait;

/// How long the kernel may take to let go of a cgroup whose processes were killed.
const REAPING: Duration = Duration::from_secs(10);

/// Where the unified hierarchy is mounted: `/sys/fs/cgroup`, or a folder below on a machine that has v1 as well.
pub fn mount() -> &'static Path {
    static MOUNT: OnceLock<PathBuf> = OnceLock::new();
    MOUNT.get_or_init(|| {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("procfs is mounted");
        let of_cgroup2 = |line: &str| {
            let mut fields = line.split(' ').skip(1);
            let (place, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(place))
        };
        mounts.lines().find_map(of_cgroup2).expect("the tests need a mounted cgroup2 hierarchy")
    })
}

/// A cgroup sub-tree; when it is dropped, what runs in it is killed and the directories are removed.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The directory, made with its parents where they are missing.
    pub fn new(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Kills what runs in it and below, and waits until it has ended.
    pub fn kill(&self) {
        kill(&self.path);
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn kill(path: &Path) {
    if let Err(error) = fs::write(path.join("cgroup.kill"), "1") {
        eprintln!("clean-up: {}: {error}", path.display());
    }
    let empty = || {
        fs::read_to_string(path.join("cgroup.events")).map_or(true, |events| events.lines().any(|l| l == "populated 0"))
    };
    if !wait::happens_within(REAPING, empty) {
        eprintln!("clean-up: {} is still populated", path.display());
    }
}

/// Kills and removes a sub-tree. One that is gone already is fine.
pub(crate) fn remove(path: &Path) {
    if !path.exists() {
        return;
    }
    kill(path);
    let mut last = None;
    let gone = wait::happens_within(REAPING, || match remove_tree(path) {
        Ok(()) => true,
        Err(error) => {
            last = Some(error);
            false
        }
    });
    if !gone {
        eprintln!("clean-up: {}: {last:?}", path.display());
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
