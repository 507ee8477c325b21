//! The plugin's side of the conversation: registers, is configured, and answers for each sandbox once it is seen to.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use prost::Message as _;
use thiserror::Error;
use tokio::{
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    message::{
        ConfigureRequest, ConfigureResponse, INVALID_ARGUMENT, PodSandbox, REMOVE_POD_SANDBOX, RUN_POD_SANDBOX,
        RegisterPluginRequest, Request, Response, STOP_POD_SANDBOX, SandboxRequest, StateChangeEvent, Status,
        SynchronizeRequest, SynchronizeResponse, UNIMPLEMENTED,
    },
    wire::{self, Message, PLUGIN, REQUEST, RESPONSE, RUNTIME, Reader, WireError},
};
use crate::{
    control::{Commands, protocol::Connection},
    inventory::cri::{self, Cri},
    pod::PodUid,
};

/// Time in which a sandbox is armed or cut before its containers start; the runtime gives a plugin 2 s unless set otherwise.
const DEADLINE: Duration = Duration::from_secs(1);
/// Time for the runtime to take the registration; its own limit is 5 s.
const REGISTRATION: Duration = Duration::from_secs(5);
/// Pause before the first new attempt to connect, doubled up to the longest.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
const EVENTS: i32 = 1 << (RUN_POD_SANDBOX - 1) | 1 << (STOP_POD_SANDBOX - 1) | 1 << (REMOVE_POD_SANDBOX - 1);

/// What the metrics tell about it. Clones share their values.
#[derive(Clone, Debug, Default)]
pub struct NriCounters {
    /// 1 while the runtime has the plugin.
    pub up: Gauge,
    /// Sandboxes that were seen to before their containers started.
    pub sandboxes: Counter,
    /// Sandboxes for which that took longer than the deadline.
    pub late: Counter,
}

#[derive(Debug, Error)]
enum NriError {
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the runtime refused the plugin: {0}")]
    Refused(String),
    #[error("the runtime did not take the registration in time")]
    Slow,
    #[error("what it sent is no message of NRI")]
    NotNri(#[from] prost::DecodeError),
}

/// The plugin of one runtime.
#[derive(Debug)]
pub struct Plugin {
    state: watch::Sender<Connection>,
    socket: PathBuf,
    commands: Commands,
    cri: Cri,
    counters: NriCounters,
}

impl Plugin {
    /// A plugin of the runtime at this socket, which hands what happens to the loop.
    pub fn new(socket: &Path, commands: Commands, cri: Cri, counters: NriCounters) -> Self {
        let known = Connection { socket: Some(socket.display().to_string()), ..Connection::default() };
        Self { state: watch::Sender::new(known), socket: socket.to_owned(), commands, cri, counters }
    }

    /// How it stands with the runtime, now and later.
    pub fn state(&self) -> watch::Receiver<Connection> {
        self.state.subscribe()
    }

    /// Notes whether the runtime has it, and since when.
    fn stands(&self, trouble: Option<String>) {
        self.state.send_modify(|state| {
            let up = trouble.is_none();
            if state.up != up || state.since.is_none() {
                state.since = Some(Timestamp::now());
            }
            (state.up, state.trouble) = (up, trouble);
        });
    }

    /// Registers again and again, whenever the runtime is there, until `stop` completes.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut pause = PAUSE;
        loop {
            let ended = tokio::select! {
                biased;
                () = &mut stop => return,
                Err(ended) = self.serve() => ended,
            };
            // It was in use: the runtime restarts, and is soon back.
            if self.counters.up.set(0) == 1 {
                pause = PAUSE;
            }
            let cause = std::error::Error::source(&ended).map(|cause| format!(": {cause}")).unwrap_or_default();
            self.stands(Some(plain(&format!("{ended}{cause}"))));
            tracing::warn!(
                socket = %self.socket.display(),
                "no NRI: {}; new sandboxes are cut as events tell of them. Tried again in {pause:?}",
                self.state.borrow().trouble.as_deref().unwrap_or_default()
            );
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One connection, from registration to its end.
    async fn serve(&self) -> Result<std::convert::Infallible, NriError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(NriError::Connect)?;
        let (from, mut to) = stream.into_split();
        let mut reader = Reader::new(from);
        timeout(REGISTRATION, self.register(&mut reader, &mut to)).await.map_err(|_elapsed| NriError::Slow)??;
        self.counters.up.set(1);
        self.stands(None);
        tracing::info!(socket = %self.socket.display(), "registered with NRI: sandboxes are seen to before their containers start");
        loop {
            let message = reader.next().await?;
            self.take(&message, &mut to).await?;
        }
    }

    /// The runtime may configure the plugin before it confirms that it has it.
    async fn register(
        &self,
        reader: &mut Reader<tokio::net::unix::OwnedReadHalf>,
        to: &mut OwnedWriteHalf,
    ) -> Result<(), NriError> {
        let plugin = RegisterPluginRequest { plugin_name: "isolate".to_owned(), plugin_idx: "00".to_owned() };
        let request = Request {
            service: "nri.pkg.api.v1alpha1.Runtime".to_owned(),
            method: "RegisterPlugin".to_owned(),
            payload: plugin.encode_to_vec(),
            timeout_nano: i64::try_from(REGISTRATION.as_nanos()).unwrap_or(i64::MAX),
        };
        let request = Message { connection: RUNTIME, stream: 1, kind: REQUEST, data: request.encode_to_vec() };
        wire::send(to, &request).await?;
        loop {
            let message = reader.next().await?;
            if (message.connection, message.kind) == (RUNTIME, RESPONSE) {
                let answer = Response::decode(&message.data[..])?;
                return match answer.status.filter(|status| status.code != 0) {
                    None => Ok(()),
                    Some(status) => Err(NriError::Refused(status.message)),
                };
            }
            self.take(&message, to).await?;
        }
    }

    /// Answers one request; anything else needs no answer.
    async fn take(&self, message: &Message, to: &mut OwnedWriteHalf) -> Result<(), NriError> {
        if (message.connection, message.kind) != (PLUGIN, REQUEST) {
            return Ok(());
        }
        let request = Request::decode(&message.data[..])?;
        let answer = match self.answer(&request).await {
            Ok(payload) => Response { status: None, payload },
            Err(status) => Response { status: Some(status), payload: Vec::new() },
        };
        let data = answer.encode_to_vec();
        Ok(wire::send(to, &Message { connection: PLUGIN, stream: message.stream, kind: RESPONSE, data }).await?)
    }

    async fn answer(&self, request: &Request) -> Result<Vec<u8>, Status> {
        let payload = &request.payload[..];
        let malformed = |error: prost::DecodeError| Status { code: INVALID_ARGUMENT, message: error.to_string() };
        let unknown = || {
            let message = format!("{}/{} is not implemented", request.service, request.method);
            Status { code: UNIMPLEMENTED, message }
        };
        if request.service != SERVICE {
            return Err(unknown());
        }
        let sandbox = || SandboxRequest::decode(payload).map(|request| request.pod).map_err(malformed);
        match request.method.as_str() {
            "Configure" => {
                let runtime = ConfigureRequest::decode(payload).map_err(malformed)?;
                tracing::info!(runtime = runtime.runtime_name, version = runtime.runtime_version, "configured by NRI");
                return Ok(ConfigureResponse { events: EVENTS }.encode_to_vec());
            }
            // What is there already is found by the loop itself.
            "Synchronize" => {
                let more = SynchronizeRequest::decode(payload).map_err(malformed)?.more;
                return Ok(SynchronizeResponse { more }.encode_to_vec());
            }
            "RunPodSandbox" => self.sandbox_runs(sandbox()?).await,
            "StopPodSandbox" | "RemovePodSandbox" => self.cri.look_soon(),
            "StateChange" => {
                let change = StateChangeEvent::decode(payload).map_err(malformed)?;
                match change.event {
                    RUN_POD_SANDBOX => self.sandbox_runs(change.pod).await,
                    _ => self.cri.look_soon(),
                }
            }
            "Shutdown" => {}
            _ => return Err(unknown()),
        }
        // The answers to these have no fields.
        Ok(Vec::new())
    }

    /// Waits until the sandbox is armed or cut, but not for ever: the loop does it then as soon as it can.
    async fn sandbox_runs(&self, sandbox: Option<PodSandbox>) {
        let Some(sandbox) = sandbox else { return };
        let Ok(uid) = sandbox.uid.parse::<PodUid>() else {
            tracing::debug!(id = sandbox.id, uid = sandbox.uid, "a sandbox that is no pod's");
            return;
        };
        let namespaces = sandbox.linux.into_iter().flat_map(|linux| linux.namespaces);
        let netns = namespaces.into_iter().find(|namespace| namespace.r#type == "network");
        let netns = netns.map(|namespace| PathBuf::from(namespace.path)).filter(|path| cri::is_safe_to_open(path));
        if timeout(DEADLINE, self.commands.sandbox(uid, netns)).await.is_ok() {
            self.counters.sandboxes.inc();
        } else {
            self.counters.late.inc();
            tracing::warn!(%uid, "the sandbox was not seen to within {DEADLINE:?}; its containers start, and the loop goes on");
        }
        self.cri.look_soon();
    }
}

/// The beginning of what a runtime said, without control characters.
fn plain(text: &str) -> String {
    const LONGEST: usize = 300;
    text.chars().take(LONGEST).map(|c| if c.is_control() { '?' } else { c }).collect()
}
