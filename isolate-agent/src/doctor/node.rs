//! What else runs on the node: the daemon, a container runtime, and what inotify has left.

use std::{fs, io::ErrorKind, os::unix::net::UnixStream, path::Path};

use inotify::Inotify;

use super::Finding;
use crate::settings::Settings;

const RUNTIMES: [(&str, &str); 8] = [
    ("containerd", "/run/containerd/containerd.sock"),
    ("CRI-O", "/run/crio/crio.sock"),
    ("k3s' containerd", "/run/k3s/containerd/containerd.sock"),
    ("k0s' containerd", "/run/k0s/containerd.sock"),
    ("MicroK8s' containerd", "/var/snap/microk8s/common/run/containerd.sock"),
    ("cri-dockerd", "/run/cri-dockerd.sock"),
    ("dockershim", "/run/dockershim.sock"),
    ("Docker", "/run/docker.sock"),
];
/// One watch a cgroup directory: 250 pods with three containers each and their parents.
const WATCHES: u64 = 1024;

pub(super) fn examine(settings: &Settings) -> Vec<Finding> {
    vec![daemon(&settings.socket()), runtime(), inotify()]
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

fn runtime() -> Finding {
    const NAME: &str = "container-runtime";
    let found: Vec<String> = RUNTIMES
        .iter()
        .filter(|(_, socket)| Path::new(socket).exists())
        .map(|(name, socket)| format!("{name} at {socket}"))
        .collect();
    if found.is_empty() {
        return Finding::warn(
            NAME,
            "no socket in the usual places",
            "not needed to isolate: pods are found by their cgroups",
            "if this machine is to run pods, check that this is the node and not a container on it",
        );
    }
    Finding::ok(NAME, found.join(", "), "not needed to isolate: pods are found by their cgroups")
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
