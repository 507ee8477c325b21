//! The daemon: builds the parts, runs them side by side, and ends as soon as one of them does.
//!
//! Ending changes nothing for isolated pods: what enforces is pinned.

mod urgent;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};

use self::urgent::Urgent;
use crate::{
    control::{self, Command, Commands, SocketCounters, protocol::Connection},
    inventory::{
        Inventory, InventoryError,
        cri::{Cri, Poller},
    },
    metrics::{self, Metrics},
    nri::Plugin,
    priority::{self, RealTime},
    reconcile::{Engine, Looked, PassError},
    settings::Settings,
    watch::{Sign, Watch},
};

/// How often everything is looked at without a reason: the net under the events.
const FULL_PASS: Duration = Duration::from_secs(10);
/// Requests that wait for the loop; more make their senders wait.
const COMMANDS: usize = 64;

/// Before ordinary processes of the same cgroup: a pod must not delay its own isolation. The loop uses little of a core.
const NICENESS: i32 = -10;

/// Runs until SIGTERM or SIGINT, or until a part fails.
pub fn run(settings: &Settings) -> anyhow::Result<()> {
    // Of this thread; those that it starts inherit it.
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "runs with ordinary priority: no CAP_SYS_NICE");
    }
    // The main thread has the loop, which blocks for milliseconds while it attaches, to itself.
    let [listener, others] = [one_thread("control")?, one_thread("others")?];
    let runtime = Builder::new_current_thread().enable_all().on_thread_start(priority::ordinary).build()?;
    runtime.block_on(serve(settings, listener.handle(), others.handle()))
}

/// A thread with a runtime. What blocks gets threads beside it, of ordinary priority.
fn one_thread(name: &str) -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(name)
        .on_thread_start(priority::ordinary)
        .enable_all()
        .build()
}

/// Requests are taken in on `listener`, where nothing else runs.
async fn serve(settings: &Settings, listener: &Handle, others: &Handle) -> anyhow::Result<()> {
    // First, so that a second daemon ends here and not with a wait for the lock.
    let socket = {
        let _runtime = listener.enter();
        control::bind(settings)?
    };
    let (cri, poller) = Poller::new(settings.cri_endpoint.as_deref());
    let engine = Engine::open(settings, cri.clone()).await?;
    let counters = SocketCounters::default();
    let metrics = Metrics::new(counters.clone());
    let (sender, commands) = mpsc::channel(COMMANDS);
    let (ready_sender, ready) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let told_to_stop = || {
        let mut stopped = stopped.clone();
        // The sender lives in this function, which outlasts all parts.
        async move { drop(stopped.wait_for(|stop| *stop).await) }
    };

    let (watch, kernel_log, root) = (engine.watch(), engine.kernel_log(), engine.cgroup_root());
    let plugin = settings
        .nri
        .then(|| Plugin::new(&settings.nri_socket, Commands::ordinary(sender.clone()), cri.clone(), metrics.nri()));
    let nri = plugin.as_ref().map(Plugin::state);
    let reconcile = Loop {
        engine,
        cri,
        nri,
        commands,
        metrics: metrics.clone(),
        ready: ready_sender,
        started: false,
        urgent: Urgent::default(),
    };
    let real_time = RealTime::default();
    drop(listener.spawn(take_real_time(real_time.clone(), root)));
    let mut parts = JoinSet::new();
    parts.spawn(reconcile.run(watch, told_to_stop()));
    parts.spawn_on(poller.counting(metrics.cri()).run(told_to_stop()), others);
    if let Some(plugin) = plugin {
        parts.spawn_on(plugin.run(told_to_stop()), others);
    }
    let urgent = Commands::urgent(sender.clone(), real_time);
    parts.spawn_on(control::serve(socket, urgent, counters, told_to_stop()), listener);
    let scrapes = Commands::ordinary(sender);
    parts.spawn_on(metrics::server::run(settings.metrics_addr, metrics, scrapes, ready, told_to_stop()), others);
    // No part: the agent goes on without it.
    if let Some(kernel_log) = kernel_log {
        drop(tokio::spawn(kernel_log.run()));
    }

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        ended = parts.join_next() => Err(match ended.and_then(Result::err) {
            Some(failed) => anyhow::Error::from(failed).context("a part of the agent failed"),
            None => anyhow::anyhow!("a part of the agent ended by itself"),
        }),
    };
    tracing::info!("stopping; what is isolated stays isolated");
    stop.send_replace(true);
    while parts.join_next().await.is_some() {}
    ended
}

/// Takes real-time priority for the thread that this runs on, as soon as it may.
async fn take_real_time(real_time: RealTime, root: Option<PathBuf>) {
    while !priority::spares_controller(root.as_deref()) {
        tokio::time::sleep(FULL_PASS).await;
    }
    match real_time.take() {
        Ok(()) => tracing::info!("requests to isolate have real-time priority"),
        Err(error) => {
            tracing::info!(%error, "requests to isolate have ordinary priority: they wait where all cores are in use");
        }
    }
}

struct Loop {
    engine: Engine,
    cri: Cri,
    /// How it stands with NRI, where that is asked for.
    nri: Option<watch::Receiver<Connection>>,
    commands: mpsc::Receiver<Command>,
    metrics: Metrics,
    ready: watch::Sender<bool>,
    /// Whether a pass has come to its end.
    started: bool,
    urgent: Urgent,
}

impl Loop {
    async fn run(mut self, mut watch: Watch, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut tick = tokio::time::interval(FULL_PASS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The node is looked at beside the loop: how long that takes is for the pods on it to say.
        let mut scan = JoinSet::new();
        // So is, one at a time, an isolated pod that something has just come to.
        let mut look = JoinSet::new();
        // What names a pod by its name waits for the container runtime, and what does not passes it by.
        let mut named = JoinSet::new();
        // Whether something has changed since the look that is under way began.
        let mut again = false;
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return self.engine.finish(),
                command = self.commands.recv() => match command {
                    Some(command) if command.names_pods() => {
                        let cri = self.cri.clone();
                        named.spawn(async move {
                            cri.look_now().await;
                            command
                        });
                    }
                    Some(command) => self.carry_out(command).await,
                    None => return,
                },
                Some(Ok(command)) = named.join_next() => self.carry_out(command).await,
                Some(Ok(looked)) = look.join_next() => self.cut_at_once(looked),
                () = at(self.urgent.due()), if look.is_empty() => {
                    if let Some(uid) = self.urgent.take(Instant::now()) {
                        drop(look.spawn(self.engine.look_at_pod(uid)));
                    }
                }
                Some(scanned) = scan.join_next() => match scanned {
                    Ok((started, inventory)) => self.pass(started, inventory),
                    Err(error) => tracing::error!(%error, "the look at the node failed"),
                },
                _ = tick.tick(), if scan.is_empty() => drop(scan.spawn(self.engine.look_at_node())),
                () = ended(self.engine.next_end()), if self.started => self.expire(),
                () = self.cri.changed(), if scan.is_empty() => drop(scan.spawn(self.engine.look_at_node())),
                () = std::future::ready(()), if again && scan.is_empty() => {
                    again = false;
                    drop(scan.spawn(self.engine.look_at_node()));
                }
                woken = watch.changed(|sign| !self.engine.concerned(sign).is_empty()) => match woken {
                    Some(sign) => self.ask_for_looks(sign),
                    None => again = true,
                },
                () = std::future::ready(()), if self.engine.wants_to_arm() => {
                    // What has happened meanwhile is taken in first.
                    tokio::task::yield_now().await;
                    self.engine.arm_next();
                }
            }
        }
    }

    fn ask_for_looks(&mut self, sign: Sign) {
        for uid in self.engine.concerned(sign) {
            self.urgent.ask(uid, matches!(sign, Sign::Pod(_)), Instant::now());
        }
    }

    fn cut_at_once(&mut self, looked: Looked) {
        let (uid, started) = (looked.uid, looked.started);
        self.engine.cut_at_once(looked);
        self.urgent.took(uid, started.elapsed(), Instant::now());
        self.count_repairs();
    }

    fn count_repairs(&mut self) {
        for what in self.engine.take_repairs() {
            self.metrics.repaired(what);
        }
    }

    fn pass(&mut self, started: Instant, scanned: Result<Inventory, InventoryError>) {
        let outcome = self.engine.pass(scanned);
        self.metrics.pass_finished(started.elapsed(), &outcome);
        self.count_repairs();
        self.urgent.keep(|uid| self.engine.isolates(uid));
        // One that could not do all that it had to is an end as well: the node must not wait for what cannot be had.
        let ended = matches!(outcome, Ok(()) | Err(PassError::Apply(_)));
        match outcome {
            Ok(()) => {
                if !self.ready.send_replace(true) {
                    tracing::info!(after = ?started.elapsed(), "every recorded isolation is enforced");
                }
            }
            Err(error) => tracing::error!(%error, "the pass failed; what is isolated stays isolated"),
        }
        if self.engine.has_strangers() {
            self.cri.look_soon();
        }
        if ended {
            self.expire();
            if let Err(error) = self.engine.retire() {
                tracing::error!(%error, "not all of a pod that left the node is cleared away; it is tried again");
            }
        }
        if ended && !self.started {
            self.started = true;
            notify_ready();
        }
    }

    /// Ends what has lasted as long as it was to: not before a pass has enforced everything.
    fn expire(&mut self) {
        if let Err(error) = self.engine.expire() {
            tracing::error!(%error, "not all that a release needs was done; it is tried again with the next pass");
        }
    }

    async fn carry_out(&mut self, command: Command) {
        // A requester that has gone away wants no answer.
        match command {
            Command::Add { request, by, received, real_time: _lent, reply } => {
                let by = async { by.await.unwrap_or_else(|_gone| "unknown".to_owned()) };
                let outcomes = self.engine.add(&request, by, received).await;
                for outcome in &outcomes.results {
                    if let Some(micros) = outcome.enforced_after_us {
                        self.metrics.enforced(Duration::from_micros(micros));
                    }
                }
                drop(reply.send(outcomes));
            }
            Command::Remove { request, by, reply } => drop(reply.send(self.engine.remove(&request, &by).await)),
            Command::Examine { text, reply } => drop(reply.send(self.engine.examine(&text).await)),
            Command::Sandbox { uid, netns, reply } => {
                self.engine.sandbox(uid, netns).await;
                // Who waited in vain wants no answer.
                let _told = reply.send(());
            }
            Command::Figures { reply } => drop(reply.send(self.engine.figures())),
            Command::Status { reply } => {
                self.engine.look();
                let mut status = self.engine.status();
                if let Some(runtime) = &mut status.runtime {
                    runtime.nri = self.nri.as_ref().map(|nri| nri.borrow().clone());
                }
                drop(reply.send(status));
            }
        }
    }
}

/// Ends at that time. Without one, never.
async fn at(due: Option<Instant>) {
    match due {
        // A timer is some time late.
        Some(due) if due <= Instant::now() => {}
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Ends when a time limit may have. Without one, never.
async fn ended(left: Option<Duration>) {
    match left {
        // What could not be released when it should have been must not keep the loop busy.
        Some(left) => tokio::time::sleep(left.max(Duration::from_secs(1))).await,
        None => std::future::pending().await,
    }
}

/// Tells the service manager, where there is one, that recorded isolations are enforced as far as they can be.
fn notify_ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "cannot tell the service manager that the agent is ready");
    }
}
