//! The control socket: HTTP/JSON for root on this node, and the commands that it hands to the one loop.

pub mod client;
mod find;
mod limits;
mod listener;
pub mod openapi;
pub mod protocol;
pub mod requester;
mod routes;
mod server;

use std::{path::PathBuf, time::Instant};

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use self::protocol::{AddRequest, Outcomes, RemoveRequest, Status, Verifications, VerifyRequest};
pub use self::{
    find::FindError,
    limits::{MAX_REASON_BYTES, MAX_UIDS, RequestError},
    listener::{ControlError, Listener, bind},
    server::{SocketCounters, serve},
};
use crate::{
    pod::PodUid,
    priority::{Lent, RealTime},
    status::Figures,
    verify::{self, Examine, Examined},
};

/// What the reconcile loop is asked, and where it answers.
#[derive(Debug)]
pub enum Command {
    /// Isolate pods.
    Add {
        /// Which and how.
        request: AddRequest,
        /// Who asks, for the record: told while the pods are being cut off.
        by: oneshot::Receiver<String>,
        /// When the request arrived.
        received: Instant,
        /// Lent to the loop until the request is carried out.
        real_time: Lent,
        /// Takes what became of it.
        reply: oneshot::Sender<Outcomes>,
    },
    /// Release pods.
    Remove {
        /// Which.
        request: RemoveRequest,
        /// Who asks, for the log.
        by: String,
        /// Takes what became of it.
        reply: oneshot::Sender<Outcomes>,
    },
    /// Look at one pod, for a verification.
    Examine {
        /// Which.
        text: String,
        /// Takes what was seen.
        reply: oneshot::Sender<Examined>,
    },
    /// See to a sandbox that was just made, before its containers start.
    Sandbox {
        /// Whose it is.
        uid: PodUid,
        /// The file by which the runtime keeps its network namespace, if it told.
        netns: Option<PathBuf>,
        /// Told when it is armed or cut.
        reply: oneshot::Sender<()>,
    },
    /// Describe the node, looked at anew.
    Status {
        /// Takes the description.
        reply: oneshot::Sender<Status>,
    },
    /// Tell what metrics say of the node, as the last pass saw it.
    Figures {
        /// Takes them.
        reply: oneshot::Sender<Figures>,
    },
}

impl Command {
    /// Whether it names a pod as the container runtime does.
    pub fn names_pods(&self) -> bool {
        let uids = match self {
            Self::Add { request, .. } => &request.uids,
            Self::Remove { request, .. } => &request.uids,
            Self::Examine { text, .. } => return text.contains('/'),
            Self::Sandbox { .. } | Self::Status { .. } | Self::Figures { .. } => return false,
        };
        uids.iter().any(|text| text.contains('/'))
    }
}

/// The reconcile loop has ended: the process is about to end too.
#[derive(Clone, Copy, Debug, Error)]
#[error("the agent is shutting down; what is isolated stays isolated: ask again in a moment")]
pub struct Gone;

/// The way to the reconcile loop.
#[derive(Clone, Debug)]
pub struct Commands {
    sender: mpsc::Sender<Command>,
    /// For requests to isolate.
    real_time: RealTime,
}

impl Commands {
    /// For who has time.
    pub fn ordinary(sender: mpsc::Sender<Command>) -> Self {
        Self::urgent(sender, RealTime::default())
    }

    /// For who must not wait for a core when it isolates pods.
    pub const fn urgent(sender: mpsc::Sender<Command>, real_time: RealTime) -> Self {
        Self { sender, real_time }
    }

    /// Isolates pods. `by` looks up who asks, while the loop is at work. Errors when the loop has ended.
    pub async fn add(
        &self,
        request: AddRequest,
        by: impl FnOnce() -> String,
        received: Instant,
    ) -> Result<Outcomes, Gone> {
        let (real_time, (teller, told)) = (self.real_time.lend(), oneshot::channel());
        let answer = self.send(|reply| Command::Add { request, by: told, received, real_time, reply }).await?;
        // A request that is refused wants no name.
        let _wanted = teller.send(by());
        answer.await.map_err(|_dropped| Gone)
    }

    /// Releases pods. Errors when the loop has ended.
    pub async fn remove(&self, request: RemoveRequest, by: String) -> Result<Outcomes, Gone> {
        self.ask(|reply| Command::Remove { request, by, reply }).await
    }

    /// Sees to a sandbox that was just made. Errors when the loop has ended.
    pub async fn sandbox(&self, uid: PodUid, netns: Option<PathBuf>) -> Result<(), Gone> {
        self.ask(|reply| Command::Sandbox { uid, netns, reply }).await
    }

    /// Describes the node as it is now. Errors when the loop has ended.
    pub async fn status(&self) -> Result<Status, Gone> {
        self.ask(|reply| Command::Status { reply }).await
    }

    /// The node's figures as the last pass saw it, with counters read now. Errors when the loop has ended.
    pub async fn figures(&self) -> Result<Figures, Gone> {
        self.ask(|reply| Command::Figures { reply }).await
    }

    /// Proves by probes that pods are cut off, beside the loop. Errors when the loop has ended.
    pub async fn verify(&mut self, request: &VerifyRequest) -> Result<Verifications, Gone> {
        verify::verify(&request.uids, self).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Gone> {
        self.send(command).await?.await.map_err(|_dropped| Gone)
    }

    async fn send<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<oneshot::Receiver<T>, Gone> {
        let (reply, answer) = oneshot::channel();
        self.sender.send(command(reply)).await.map_err(|_closed| Gone)?;
        Ok(answer)
    }
}

impl Examine for Commands {
    type Error = Gone;

    async fn examine(&mut self, text: &str) -> Result<Examined, Gone> {
        let text = text.to_owned();
        self.ask(|reply| Command::Examine { text, reply }).await
    }
}
