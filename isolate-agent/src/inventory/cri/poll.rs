//! Asks the runtime beside everything else, and keeps its last answer. Nobody waits for it longer than they choose to.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Cri, Known,
    client::{Client, CriError},
    endpoint,
    facts::{self, Detail, Sandbox},
    message::{ListPodSandboxRequest, PodSandboxStatusRequest, PodSandboxStatusResponse, each_sandbox},
};

/// How often the runtime is asked without a reason.
const EVERY: Duration = Duration::from_secs(10);
/// Least time between two looks for pods that nobody waits for.
const BREATH: Duration = Duration::from_secs(1);
/// Longest pause after failures: it doubles from [`BREATH`].
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Time for one answer.
pub(super) const DEADLINE: Duration = Duration::from_secs(2);
/// Time for the details of sandboxes in one look; the rest is asked for in the next.
const DETAILS: Duration = Duration::from_secs(5);
/// Requests that wait; what comes on top is served by the look that these cause.
const REQUESTS: usize = 16;

/// What the metrics tell about the runtime. Clones share their values.
#[derive(Clone, Debug, Default)]
pub struct CriCounters {
    /// 1 if it answered when last asked.
    pub up: Gauge,
    /// Looks that failed.
    pub failures: Counter,
    /// When it last answered, in seconds since 1970; 0 before it did.
    pub last_answer: Gauge<f64, std::sync::atomic::AtomicU64>,
}

/// One that waits for a look: it is dropped when that is over.
pub(super) type Waits = oneshot::Sender<()>;

/// What is known of one sandbox beyond the list.
#[derive(Debug, Default)]
struct Learned {
    detail: Detail,
    /// The state in which it was asked for; none if it did not answer.
    state: Option<i32>,
    /// How often it did not.
    failures: u32,
}

/// Asks one runtime, for as long as it is run.
#[derive(Debug)]
pub struct Poller {
    set: Option<PathBuf>,
    /// The socket that answered last.
    chosen: Option<PathBuf>,
    /// By the ids of sandboxes.
    learned: BTreeMap<String, Learned>,
    known: watch::Sender<Known>,
    soon: Arc<Notify>,
    now: mpsc::Receiver<Waits>,
    counters: CriCounters,
}

impl Poller {
    /// Asks the runtime at `set`, or the one that is found. Nothing is asked before it is run.
    pub fn new(set: Option<&Path>) -> (Cri, Self) {
        let (known_sender, known) = watch::channel(Known::default());
        let (sender, now) = mpsc::channel(REQUESTS);
        let soon = Arc::new(Notify::new());
        let poller = Self {
            set: set.map(Into::into),
            chosen: None,
            learned: BTreeMap::new(),
            known: known_sender,
            soon: Arc::clone(&soon),
            now,
            counters: CriCounters::default(),
        };
        (Cri { known, soon, now: sender }, poller)
    }

    /// The same, which counts there.
    #[must_use]
    pub fn counting(self, counters: CriCounters) -> Self {
        Self { counters, ..self }
    }

    /// Asks until `stop` completes.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut next = Instant::now();
        let mut pause = BREATH;
        loop {
            let last = Instant::now();
            let mut waiting = Vec::new();
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = sleep_until(next) => {}
                // A runtime that fails is left alone until its pause is over.
                () = self.soon.notified(), if pause == BREATH => {
                    next = next.min(last + BREATH);
                    continue;
                }
                Some(waits) = self.now.recv() => waiting.push(waits),
            }
            while let Ok(waits) = self.now.try_recv() {
                waiting.push(waits);
            }
            let outcome = tokio::select! {
                biased;
                () = &mut stop => return,
                outcome = self.look(waiting) => outcome,
            };
            let wait = match outcome {
                Ok(()) => {
                    pause = BREATH;
                    EVERY
                }
                Err(_told) => {
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    wait
                }
            };
            next = Instant::now() + wait;
        }
    }

    /// Asks once, for at most `within`.
    pub async fn once(mut self, within: Duration) {
        // What was published until then stands.
        drop(timeout(within, self.look(Vec::new())).await);
    }

    /// One look: the list first, for which somebody may be waiting, then the details of what is new in it.
    async fn look(&mut self, waiting: Vec<Waits>) -> Result<(), CriError> {
        match self.list().await {
            Ok((mut client, sandboxes)) => {
                self.counters.up.set(1);
                self.counters.last_answer.set(crate::metrics::unix_now_secs());
                let ids: BTreeSet<&String> = sandboxes.iter().map(|sandbox| &sandbox.id).collect();
                self.learned.retain(|id, _| ids.contains(id));
                self.publish(&sandboxes);
                drop(waiting);
                if self.learn(&mut client, &sandboxes).await {
                    self.publish(&sandboxes);
                }
                Ok(())
            }
            Err(error) => {
                self.counters.up.set(0);
                if !matches!(error, CriError::NoSocket) {
                    self.counters.failures.inc();
                }
                let text: Arc<str> = with_cause(&error).into();
                let is_news = self.known.borrow().trouble.is_none();
                if is_news && !matches!(error, CriError::NoSocket) {
                    tracing::warn!(error = %text, "pods are known by their UIDs only, or by what the runtime said last");
                }
                self.known.send_if_modified(|known| {
                    if known.trouble.replace(text).is_none() {
                        known.since = Some(Timestamp::now());
                    }
                    known.socket = known.socket.take().or_else(|| self.set.clone());
                    false
                });
                Err(error)
            }
        }
    }

    /// The sandboxes of the first runtime that has any; of those that answer, the first.
    async fn list(&mut self) -> Result<(Client, Vec<Sandbox>), CriError> {
        let mut candidates = endpoint::candidates(self.set.as_deref());
        candidates.sort_by_key(|path| self.chosen.as_ref() != Some(path));
        let mut best = Err(CriError::NoSocket);
        for path in candidates {
            let slow = || CriError::Slow { path: path.clone(), after: DEADLINE };
            let answer = timeout(DEADLINE, list(&path)).await.unwrap_or_else(|_elapsed| Err(slow()));
            let has_pods = answer.as_ref().is_ok_and(|(_, sandboxes)| !sandboxes.is_empty());
            if has_pods || (best.is_err() && (answer.is_ok() || matches!(best, Err(CriError::NoSocket)))) {
                if answer.is_ok() {
                    self.chosen = Some(path);
                }
                best = answer;
            }
            if has_pods {
                break;
            }
        }
        best
    }

    /// Asks for the sandboxes that are new or in another state than before; whether anything was learned. One that does not
    /// answer is asked for again by the next look, after the others: it must not keep them from being asked for.
    async fn learn(&mut self, client: &mut Client, sandboxes: &[Sandbox]) -> bool {
        let end = Instant::now() + DETAILS;
        let mut learned = false;
        let known = |sandbox: &&Sandbox| self.learned.get(&sandbox.id);
        let is_new = |sandbox: &&Sandbox| known(sandbox).is_none_or(|known| known.state != Some(sandbox.state));
        let mut new: Vec<&Sandbox> = sandboxes.iter().filter(is_new).collect();
        new.sort_by_key(|sandbox| known(sandbox).map_or(0, |known| known.failures));
        for sandbox in new {
            // Whoever waits for names is not kept waiting.
            if Instant::now() > end || !self.now.is_empty() {
                break;
            }
            let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.id.clone(), verbose: true };
            let call = client.call::<_, PodSandboxStatusResponse>("PodSandboxStatus", request);
            let answer = timeout(DEADLINE, call).await;
            let known = self.learned.entry(sandbox.id.clone()).or_default();
            match answer {
                Ok(Ok(answer)) => {
                    let detail = facts::detail(&answer);
                    // One that is not ready any more may not say where its namespace was, and containers may live there.
                    let netns = detail.netns.or_else(|| known.detail.netns.take());
                    *known = Learned { detail: Detail { netns, ..detail }, state: Some(sandbox.state), failures: 0 };
                    learned = true;
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a sandbox without details");
                    self.counters.failures.inc();
                    known.failures += 1;
                }
                Err(_elapsed) => {
                    self.counters.failures.inc();
                    known.failures += 1;
                    break;
                }
            }
        }
        learned
    }

    /// Wakes those who wait for changes only if there are any.
    fn publish(&self, sandboxes: &[Sandbox]) {
        let pods = facts::pods(sandboxes, |id| self.learned.get(id).map(|known| &known.detail));
        self.known.send_if_modified(|known| {
            if known.trouble.take().is_some() || known.answered.is_none() {
                known.since = Some(Timestamp::now());
            }
            known.answered = Some(Instant::now());
            known.socket.clone_from(&self.chosen);
            let changed = *known.pods != pods;
            if changed {
                known.pods = Arc::new(pods);
            }
            changed
        });
    }
}

async fn list(path: &Path) -> Result<(Client, Vec<Sandbox>), CriError> {
    const METHOD: &str = "ListPodSandbox";
    let mut client = Client::connect(path).await?;
    let answer = client.call_undecoded(METHOD, ListPodSandboxRequest {}).await?;
    let mut sandboxes = Vec::new();
    each_sandbox(answer, |sandbox| sandboxes.extend(Sandbox::new(sandbox)))
        .map_err(|why| client.failed(METHOD, &format!("its answer is not CRI's: {why}")))?;
    Ok((client, sandboxes))
}

/// An error and its causes.
pub(crate) fn with_cause(error: &CriError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { text + ": " + &cause }
    })
}
