//! Events that wake the reconciler: cgroups that come, go and fill, links that change. They carry no facts; what has just come
//! is told as a sign of where to look first.
//!
//! Nothing here ends the daemon. Where the kernel gives no more events the slow full pass still finds every change,
//! and a warning says so once.

mod links;
mod pins;
mod tree;

use std::{future, path::Path, time::Duration};

use tokio::time::{self, Instant};

use self::{links::Links, pins::Pins, tree::Tree};
use crate::{inventory::Scanner, pod::PodUid};

/// A burst of events is over after this long without one…
const QUIET: Duration = Duration::from_millis(20);
/// …or after this long in all.
const LONGEST: Duration = Duration::from_millis(200);
/// A container's first process is in its cgroup before it joins the pod's namespaces, and joining makes no event:
/// so one more wake-up follows the last event of the tree.
const ECHO: Duration = Duration::from_millis(500);

/// Something has come. Whose it is and what it is, a look tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// This pod's cgroup directory, one of a container in it, or a first process.
    Pod(PodUid),
    /// An interface in the network namespace that has this id in the node's, or with its other end there.
    Namespace(i32),
}

/// Wakes whoever works from the inventory.
#[derive(Debug)]
pub struct Watch {
    tree: Option<Tree>,
    links: Option<Links>,
    pins: Option<Pins>,
    pending: bool,
    echo: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// Something happened that concerns no pod.
    Nothing,
    /// A cgroup of a pod came, went, filled or emptied.
    Tree,
    /// A link or a namespace came, went or changed.
    Links,
    /// A pin was removed.
    Pins,
}

impl Watch {
    /// Watches the cgroup tree of `scanner`, the links of the calling thread's network namespace, and the folder of pins.
    /// Needs a tokio runtime with I/O and time.
    pub fn new(scanner: &Scanner, pins: &Path) -> Self {
        let roots = scanner.hierarchies().roots().map(Into::into).collect();
        let tree = Tree::new(roots).inspect_err(|error| {
            tracing::warn!(%error, "no inotify: new pods are found by the full pass only; look at fs.inotify.max_user_instances");
        });
        let links = Links::new().inspect_err(|error| {
            tracing::warn!(%error, "no netlink events: new interfaces are found by the full pass only");
        });
        let pins = Pins::new(pins).inspect_err(|error| {
            tracing::warn!(%error, "no inotify on the pins: what is removed of them is found by the full pass only");
        });
        Self { tree: tree.ok(), links: links.ok(), pins: pins.ok(), pending: false, echo: None }
    }

    /// Waits until something changed, and until the burst of events that it belongs to is over. A sign that is `urgent` ends
    /// the wait at once, and is told; the rest of the burst is waited for by the next call.
    ///
    /// Nothing is lost when it is dropped early: the next call goes on where it was. What changes between two calls
    /// is kept by the kernel, so the first of them returns at once.
    pub async fn changed(&mut self, urgent: impl Fn(Sign) -> bool) -> Option<Sign> {
        if let Some(pins) = &mut self.pins {
            // Folders that were removed are there again after a pass.
            pins.watch();
        }
        let mut end: Option<Instant> = None;
        loop {
            while let Some(sign) = self.sign() {
                if urgent(sign) {
                    return Some(sign);
                }
            }
            if self.pending {
                let end = *end.get_or_insert_with(|| Instant::now() + LONGEST);
                if Instant::now() >= end || !self.wait(Some(end.min(Instant::now() + QUIET))).await {
                    self.pending = false;
                    return None;
                }
            } else {
                self.wait(self.echo).await;
            }
        }
    }

    fn sign(&mut self) -> Option<Sign> {
        let pod = self.tree.as_mut().and_then(|tree| tree.new.pop()).map(Sign::Pod);
        pod.or_else(|| self.links.as_mut().and_then(|links| links.new.take()).map(Sign::Namespace))
    }

    /// Takes in one event, unless `until` comes first; a past echo counts as an event to wake for.
    async fn wait(&mut self, until: Option<Instant>) -> bool {
        let event = tokio::select! {
            event = next(&mut self.tree, Tree::next) => event,
            event = next(&mut self.links, Links::next) => event,
            event = next(&mut self.pins, Pins::next) => event,
            () = sleep_until(until) => {
                if self.echo.is_some_and(|echo| echo <= Instant::now()) {
                    self.echo = None;
                    self.pending = true;
                }
                return false;
            }
        };
        self.pending |= event != Event::Nothing;
        if event == Event::Tree {
            self.echo = Some(Instant::now() + ECHO);
        }
        true
    }
}

/// The next event of a source; a source that failed is given up.
async fn next<S>(source: &mut Option<S>, take: impl AsyncFn(&mut S) -> std::io::Result<Event>) -> Event {
    let Some(open) = source else { return future::pending().await };
    match take(open).await {
        Ok(event) => event,
        Err(error) => {
            tracing::warn!(%error, "no more events; changes are found by the full pass only until the agent restarts");
            *source = None;
            Event::Links
        }
    }
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => time::sleep_until(until).await,
        None => future::pending().await,
    }
}
