//! The folders that the agent works in, and the file systems below them.

use std::path::{Path, PathBuf};

use rustix::{
    fs::{Access, access, statfs},
    io::Errno,
};

use super::Finding;
use crate::settings::Settings;

const BPF: &str = "bpf";
/// Magic numbers of `statfs(2)` that tell something here.
const FILE_SYSTEMS: [(u64, &str); 7] = [
    (0xcafe_4a11, BPF),
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlay"),
    (0x6265_6572, "sysfs"),
];

pub(super) fn examine(settings: &Settings) -> Vec<Finding> {
    vec![bpffs(&settings.bpffs), state_dir(&settings.state_dir), run_dir(&settings.run_dir)]
}

/// The part of a path that is there, what it lies on, and whether it can be written to.
struct Place {
    nearest: PathBuf,
    file_system: String,
    writable: Result<(), Errno>,
}

fn place(path: &Path) -> Place {
    let nearest = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or_else(|| Path::new("/"));
    let magic = statfs(nearest).ok().and_then(|fs| u64::try_from(fs.f_type).ok());
    let known = magic.and_then(|magic| FILE_SYSTEMS.iter().find(|(known, _)| *known == magic));
    let file_system = match (known, magic) {
        (Some((_, name)), _) => (*name).to_owned(),
        (None, Some(magic)) => format!("file system {magic:#x}"),
        (None, None) => "an unknown file system".to_owned(),
    };
    Place { writable: access(nearest, Access::WRITE_OK), nearest: nearest.to_owned(), file_system }
}

impl Place {
    fn value(&self, path: &Path) -> String {
        let not_yet = if self.nearest == path { "" } else { ", to be made" };
        format!("{} on {}{not_yet}", path.display(), self.file_system)
    }
}

fn bpffs(path: &Path) -> Finding {
    const NAME: &str = "bpffs";
    let place = place(path);
    let value = place.value(path);
    if place.file_system != BPF {
        return Finding::warn(
            NAME,
            format!("{}: no BPF file system is mounted there", path.display()),
            "without pins nothing would hold after the process ends; the agent mounts one when it starts",
            format!("mount -t bpf bpf {}, or let the daemon do it", path.parent().unwrap_or(path).display()),
        );
    }
    match place.writable {
        Ok(()) => Finding::ok(NAME, value, "isolation holds without a process"),
        Err(error) => Finding::fail(
            NAME,
            format!("{value}: {error}"),
            "nothing can be pinned: no pod can be isolated",
            "run as root; remount it read-write",
        ),
    }
}

fn state_dir(path: &Path) -> Finding {
    const NAME: &str = "state-dir";
    let place = place(path);
    let value = place.value(path);
    match place.writable {
        Err(error) => Finding::fail(
            NAME,
            format!("{value}: {error}"),
            "isolations cannot be recorded: they would not survive a reboot",
            "make it writable for root, or choose another --state-dir",
        ),
        Ok(()) if matches!(place.file_system.as_str(), "tmpfs" | "overlay") => Finding::warn(
            NAME,
            value,
            "records may be gone after a reboot, and the pods with them free",
            "put --state-dir on a disk of the node",
        ),
        Ok(()) => Finding::ok(NAME, value, "isolations survive a reboot"),
    }
}

fn run_dir(path: &Path) -> Finding {
    const NAME: &str = "run-dir";
    let place = place(path);
    let value = place.value(path);
    match place.writable {
        Ok(()) => Finding::ok(NAME, value, "the control socket and the lock have their place"),
        Err(error) => Finding::fail(
            NAME,
            format!("{value}: {error}"),
            "no control socket and no lock: neither the daemon nor a command can work",
            "make it writable for root, or choose another --run-dir",
        ),
    }
}
