//! What the container runtime tells about the node's pods, over CRI: names, labels, addresses, where their namespaces are.
//!
//! A second source that only adds. It is asked beside the loop; its last answer is a cache. That a pod is absent from it, or
//! not ready, means nothing, and what it claims releases nobody.

mod client;
pub(crate) mod endpoint;
mod facts;
pub mod message;
mod poll;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, timeout},
};

pub(crate) use self::facts::is_safe_to_open;
use self::poll::Waits;
pub use self::{
    client::{Client, CriError},
    facts::PodFacts,
    poll::{CriCounters, Poller},
};
use crate::pod::{PodName, PodUid};

/// What the runtime said last, and how it is.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Pods, by UID. Kept when the runtime does not answer any more.
    pub pods: Arc<BTreeMap<PodUid, PodFacts>>,
    /// When it last answered.
    pub answered: Option<Instant>,
    /// Why it did not when it was last asked, if it did not.
    pub trouble: Option<Arc<str>>,
}

/// The last answer of the container runtime, and the way to ask for another. Clones share it.
#[derive(Clone, Debug)]
pub struct Cri {
    known: watch::Receiver<Known>,
    soon: Arc<Notify>,
    now: mpsc::Sender<Waits>,
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

    /// What is known now.
    pub fn known(&self) -> Known {
        self.known.borrow().clone()
    }

    /// The name of a pod, where it is known.
    pub fn name(&self, uid: &PodUid) -> Option<PodName> {
        self.known.borrow().pods.get(uid).and_then(|facts| facts.name.clone())
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

    /// Waits for a look that begins now, as long as one answer may take.
    pub async fn look_now(&self) {
        let (waits, over) = oneshot::channel();
        let look = async {
            if self.now.send(waits).await.is_ok() {
                drop(over.await);
            }
        };
        drop(timeout(poll::DEADLINE, look).await);
    }
}
