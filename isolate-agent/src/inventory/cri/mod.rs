//! What the container runtime tells about the node's pods, over CRI: names, labels, addresses, where their namespaces are.
//!
//! A second source that only adds. It is asked beside the loop; its last answer is a cache. That a pod is absent from it, or
//! not ready, means nothing, and what it claims releases nobody.

mod client;
pub(crate) mod endpoint;
mod facts;
pub mod message;
mod poll;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};

use self::poll::Waits;
pub(crate) use self::{client::version, facts::is_safe_to_open, poll::with_cause};
pub use self::{
    client::{Client, CriError},
    facts::PodFacts,
    poll::{CriCounters, Poller},
};
use crate::{
    control::protocol::Connection,
    pod::{PodName, PodUid},
};

/// What the runtime said last, and how it is.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Pods, by UID. Kept when the runtime does not answer any more.
    pub pods: Arc<BTreeMap<PodUid, PodFacts>>,
    /// When it last answered.
    pub answered: Option<Instant>,
    /// Why it did not when it was last asked, if it did not.
    pub trouble: Option<Arc<str>>,
    /// The socket that answered last.
    pub socket: Option<PathBuf>,
    /// Since when it answers, or does not.
    pub since: Option<Timestamp>,
}

impl Known {
    /// How the runtime is.
    pub fn connection(&self) -> Connection {
        Connection {
            socket: self.socket.as_ref().map(|socket| socket.display().to_string()),
            up: self.answered.is_some() && self.trouble.is_none(),
            since: self.since,
            trouble: self.trouble.as_deref().map(str::to_owned),
        }
    }
}

/// The last answer of the container runtime, and the way to ask for another. Clones share it.
#[derive(Clone, Debug)]
pub struct Cri {
    known: watch::Receiver<Known>,
    soon: Arc<Notify>,
    now: mpsc::Sender<Waits>,
}

/// One question, under way.
#[derive(Debug)]
pub struct Asked {
    /// Ends with it.
    over: Option<oneshot::Receiver<()>>,
    since: Instant,
}

impl Asked {
    /// Waits until it is over, or until it was asked so long ago.
    pub async fn over(&mut self, patience: Duration) {
        let Some(over) = &mut self.over else { return };
        if timeout_at(self.since + patience, over).await.is_ok() {
            self.over = None;
        }
    }
}

impl Default for Cri {
    /// A runtime that is never asked.
    fn default() -> Self {
        Poller::new(None).0
    }
}

impl Cri {
    /// What one question told, within a time. For a process that does one thing and ends.
    pub async fn asked_once(set: Option<&Path>, within: Duration) -> Self {
        let (cri, poller) = Poller::new(set);
        poller.once(within).await;
        cri
    }

    /// The same beside what the caller does, in a thread of its own.
    pub fn asked_beside(set: Option<&Path>, within: Duration) -> (Self, Asked) {
        let (cri, poller) = Poller::new(set);
        let (asking, over) = oneshot::channel::<()>();
        let since = Instant::now();
        let ask = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(poller.once(within)),
                Err(error) => tracing::warn!(%error, "the container runtime cannot be asked"),
            }
            drop(asking);
        };
        // Without a thread nobody asks, and pods are known by their UIDs.
        if let Err(error) = std::thread::Builder::new().spawn(ask) {
            tracing::warn!(%error, "the container runtime cannot be asked");
        }
        (cri, Asked { over: Some(over), since })
    }

    /// What is known now.
    pub fn known(&self) -> Known {
        self.known.borrow().clone()
    }

    /// The name of a pod, where it is known.
    pub fn name(&self, uid: &PodUid) -> Option<PodName> {
        self.known.borrow().pods.get(uid).and_then(|facts| facts.name().cloned())
    }

    /// What is known of one pod.
    pub fn facts(&self, uid: &PodUid) -> Option<PodFacts> {
        self.known.borrow().pods.get(uid).cloned()
    }

    /// Waits until something else is known. For ever, if nobody asks any more.
    pub async fn changed(&mut self) {
        if self.known.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Asks for a look some time soon: there are pods that it has not named.
    pub fn look_soon(&self) {
        self.soon.notify_one();
    }

    /// Waits for a look that begins now, as long as one answer may take and a little longer: that there was none is told too.
    pub async fn look_now(&self) {
        let (waits, over) = oneshot::channel();
        let look = async {
            if self.now.send(waits).await.is_ok() {
                drop(over.await);
            }
        };
        drop(timeout(poll::DEADLINE + Duration::from_millis(500), look).await);
    }
}
