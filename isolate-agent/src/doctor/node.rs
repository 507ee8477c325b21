//! What else the node has: a daemon that runs, and what inotify has left.

use std::{fs, io::ErrorKind, os::unix::net::UnixStream, path::Path};

use inotify::Inotify;

use super::Finding;
use crate::settings::Settings;

/// One watch a cgroup directory: 250 pods with three containers each and their parents.
const WATCHES: u64 = 1024;

pub(super) fn examine(settings: &Settings) -> Vec<Finding> {
    vec![daemon(&settings.socket()), inotify()]
}

fn daemon(socket: &Path) -> Finding {
    const NAME: &str = "daemon";
    let at = socket.display();
    match UnixStream::connect(socket) {
        Ok(_) => Finding::ok(NAME, format!("listens at {at}"), "pods are armed and hooks are watched"),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Finding::warn(
            NAME,
            format!("none at {at}"),
            "commands do the work themselves; pods are not armed and detached hooks are not put back",
            "systemctl start isolate-agent",
        ),
        Err(error) => Finding::warn(NAME, format!("{at}: {error}"), "commands may not reach it", "run as root"),
    }
}

fn inotify() -> Finding {
    const NAME: &str = "inotify";
    const MEANING: &str = "new pods are noticed by the slow pass only";
    if let Err(error) = Inotify::init() {
        let fix = "sysctl -w fs.inotify.max_user_instances=512";
        return Finding::warn(NAME, format!("no instance to be had: {error}"), MEANING, fix);
    }
    let watches = fs::read_to_string("/proc/sys/fs/inotify/max_user_watches");
    match watches.ok().and_then(|text| text.trim().parse::<u64>().ok()) {
        Some(limit) if limit < WATCHES => {
            let fix = "sysctl -w fs.inotify.max_user_watches=65536";
            Finding::warn(NAME, format!("{limit} watches"), MEANING, fix)
        }
        Some(limit) => Finding::ok(NAME, format!("{limit} watches"), "new pods are noticed at once"),
        None => Finding::ok(NAME, "available", "new pods are noticed at once"),
    }
}
