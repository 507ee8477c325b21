//! What a pod's specification says that isolation needs: probes and their ports, what a restart costs, ways round the
//! network. Reads manifests, static pods and kubelet's read API; decides nothing.
//!
//! The types are the project's own and the reader is lenient: a field that is not read may hold anything, and a bad one
//! costs only itself. Every problem names the way to it in the manifest.

mod document;
mod field;
mod kubelet;
mod kubelet_trust;
mod node;
mod pod;
mod probe;
mod read;
mod sources;
#[cfg(test)]
mod tests;

use std::{io, path::PathBuf};

use thiserror::Error;

pub use self::{
    document::Wanted,
    field::Problem,
    kubelet::{DEADLINE, Kubelet, KubeletError},
    node::NodeFolders,
    pod::{Container, ContainerState, Owner, PodSpec, RestartPolicy, Role, Volume, VolumeKind},
    probe::{Action, Network, Port, Probe, ProbeKind, Protocol, Timing},
    sources::{Found, Search, Siblings, Sources},
};
use crate::pod::PodUid;

/// Why there is no specification.
#[derive(Debug, Error)]
pub enum SpecError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a manifest's size.
    #[error("{} is larger than {limit} bytes, which no manifest is", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Most that is read.
        limit: u64,
    },
    /// Neither YAML nor JSON.
    #[error("{} is neither YAML nor JSON", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_yaml_ng::Error,
    },
    /// No pod in it.
    #[error("{} has no pod and nothing that makes pods", path.display())]
    NoPod {
        /// The file.
        path: PathBuf,
    },
    /// Pods with other UIDs.
    #[error("{} does not have pod {uid}, but {}", path.display(), found.join(", "))]
    OtherPods {
        /// The file.
        path: PathBuf,
        /// The pod.
        uid: PodUid,
        /// What it has.
        found: Vec<String>,
    },
    /// Pods with other names.
    #[error("{} has nothing for pod {pod} alone, but {}", path.display(), found.join(", "))]
    OtherNames {
        /// The file.
        path: PathBuf,
        /// Namespace and name of the pod.
        pod: String,
        /// What it has.
        found: Vec<String>,
    },
    /// More than one that it may be.
    #[error(
        "{} has several that may be pod {uid} ({}); give a manifest with its UID: kubectl get pod NAME -o yaml",
        path.display(),
        found.join(", ")
    )]
    Several {
        /// The file.
        path: PathBuf,
        /// The pod.
        uid: PodUid,
        /// Which.
        found: Vec<String>,
    },
}
