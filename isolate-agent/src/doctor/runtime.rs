//! The container runtime: whether it tells names (CRI) and of new sandboxes (NRI). Asks it for its version, and the daemon
//! for what that has seen.

use std::{os::unix::fs::FileTypeExt as _, path::Path, time::Duration};

use jiff::Timestamp;
use tokio::time::timeout;

use super::Finding;
use crate::{
    control::{
        client::Client,
        protocol::{Connection, RuntimeStatus},
    },
    inventory::cri::{self, CriError, endpoint},
    settings::Settings,
};

/// Time for one answer, of a runtime or of the daemon.
const DEADLINE: Duration = Duration::from_secs(2);
/// Sockets of what runs containers and speaks no CRI.
const OTHERS: [(&str, &str); 2] = [("dockershim", "/run/dockershim.sock"), ("Docker", "/run/docker.sock")];
const NAMED: &str = "pods are known by their names as well as by their UIDs";
const UNNAMED: &str = "pods are known by their UIDs only, and those that only the runtime can find (Kata) are covered in \
                       part; nothing else depends on it";

pub(super) async fn examine(settings: &Settings) -> Vec<Finding> {
    let told = told(settings).await;
    vec![cri(settings, told.as_ref()).await, nri(settings, told.as_ref())]
}

/// What the daemon says of the runtime; none without a daemon that answers in time.
async fn told(settings: &Settings) -> Option<RuntimeStatus> {
    let ask = async { Client::open(&settings.socket(), |_waited| ()).await.ok()?.status().await.ok()?.runtime };
    timeout(DEADLINE, ask).await.ok()?
}

async fn cri(settings: &Settings, told: Option<&RuntimeStatus>) -> Finding {
    const NAME: &str = "container-runtime";
    let sockets = endpoint::candidates(settings.cri_endpoint.as_deref());
    let mut troubles = Vec::new();
    for socket in &sockets {
        let (of, place) = (known_as(socket), socket.display());
        match cri::version(socket, DEADLINE).await {
            Ok(version) => {
                let answers = format!("{version} answers at {place}");
                return match told.map(|told| &told.cri) {
                    Some(daemon) if !daemon.up => Finding::warn(
                        NAME,
                        format!("{answers}, but not the daemon{}", since(daemon)),
                        UNNAMED,
                        format!(
                            "see that the daemon asks there (--cri-endpoint) and may connect. It says: {}",
                            daemon.trouble.as_deref().unwrap_or("nothing yet")
                        ),
                    ),
                    Some(daemon) => Finding::ok(NAME, format!("{answers}, the daemon too{}", since(daemon)), NAMED),
                    None => Finding::ok(NAME, answers, NAMED),
                };
            }
            Err(error) => troubles.push((of, error)),
        }
    }
    let daemon = told.map(|told| &told.cri).filter(|daemon| !daemon.up && daemon.since.is_some());
    let daemon = daemon.map_or_else(String::new, |daemon| format!("; nor did it answer the daemon{}", since(daemon)));
    let Some((of, error)) = troubles.into_iter().next() else {
        let others: Vec<String> = OTHERS
            .iter()
            .filter(|(_, socket)| Path::new(socket).exists())
            .map(|(name, socket)| format!(" ({name} at {socket} speaks no CRI)"))
            .collect();
        return Finding::warn(
            NAME,
            format!("no socket in the usual places{}", others.concat()),
            UNNAMED,
            "name its socket with --cri-endpoint; if this machine is to run pods, check that this is the node and not a \
             container on it",
        );
    };
    Finding::warn(NAME, format!("{of}: {}{daemon}", cri::with_cause(&error)), UNNAMED, mend(&error))
}

/// What to do about a runtime that does not answer.
fn mend(error: &CriError) -> String {
    let look = |path: &Path| format!("`crictl --runtime-endpoint unix://{} version` should answer", path.display());
    match error {
        CriError::Connect { path, .. } if !path.exists() => {
            "start the runtime, or name its socket with --cri-endpoint".to_owned()
        }
        CriError::Connect { path, .. } => {
            format!("see that the runtime runs and that root may connect: {}", look(path))
        }
        CriError::Slow { path, .. } => format!("the runtime hangs, or is overloaded: {}; restart it", look(path)),
        CriError::Call { path, .. } => format!("see that this is a CRI v1 socket: {}", look(path)),
        CriError::NoSocket => "name its socket with --cri-endpoint".to_owned(),
    }
}

fn known_as(socket: &Path) -> &'static str {
    endpoint::USUAL.iter().find(|(_, path)| Path::new(path) == socket).map_or("the runtime", |(name, _)| name)
}

fn since(connection: &Connection) -> String {
    connection.since.map_or_else(String::new, |since: Timestamp| format!(" (since {since:.0})"))
}

/// Whether the runtime tells the daemon of new sandboxes before their containers run.
fn nri(settings: &Settings, told: Option<&RuntimeStatus>) -> Finding {
    const NAME: &str = "nri";
    const BEFORE: &str = "a new sandbox of an isolated pod is cut before its containers start";
    const AFTER: &str = "the veth of a new sandbox of an isolated pod is cut when events tell of it, not before its \
                         first frame (its sockets are cut from the first packet)";
    const ENABLE: &str = "enable NRI in the runtime: containerd from 1.7 has [plugins.\"io.containerd.nri.v1.nri\"] with \
                          disable = false (from 2.0 by itself), CRI-O enable_nri = true in [crio.nri]; or run the daemon \
                          without --nri";
    let socket = &settings.nri_socket;
    let there = socket.metadata().is_ok_and(|file| file.file_type().is_socket());
    let place = socket.display();
    match told.map(|told| &told.nri) {
        Some(Some(daemon)) => {
            let place = daemon.socket.as_deref().unwrap_or_default();
            if daemon.up {
                return Finding::ok(NAME, format!("registered at {place}{}", since(daemon)), BEFORE);
            }
            let trouble = daemon.trouble.as_deref().unwrap_or("not registered yet");
            let fix = if trouble.contains("refused the plugin") {
                "allow the plugin `isolate` in the runtime's NRI configuration, or run the daemon without --nri"
            } else {
                ENABLE
            };
            Finding::warn(NAME, format!("not registered at {place}{}: {trouble}", since(daemon)), AFTER, fix)
        }
        Some(None) if there => Finding::ok(NAME, format!("{place} is there, the daemon runs without --nri"), AFTER),
        Some(None) => Finding::ok(NAME, "not asked for (--nri)", AFTER),
        None if settings.nri && !there => Finding::warn(NAME, format!("no socket at {place}"), AFTER, ENABLE),
        None if there => Finding::ok(NAME, format!("{place} is there; no daemon runs that could use it"), AFTER),
        None => Finding::ok(NAME, format!("no socket at {place}"), AFTER),
    }
}
