//! Asks the daemon over the control socket, and tells a daemon that is gone from one that hangs.

use std::{
    io,
    path::{Path, PathBuf},
    pin::pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{net::UnixStream, time::timeout};

use super::protocol::{AddRequest, Code, ErrorBody, Outcomes, RemoveRequest, Status, Verifications, VerifyRequest};

/// Time for the daemon to show that it is alive.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for an answer before a daemon that has not been heard of is asked whether it is alive.
const SOON: Duration = Duration::from_millis(500);
/// Largest answer: a status of 65,536 isolated pods with all their hooks takes half of it.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// Why the daemon did not do as asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No daemon: no socket, or one that nobody listens on.
    #[error("no daemon answers on {} ({source})", path.display())]
    NoDaemon {
        /// The socket.
        path: PathBuf,
        /// What connect(2) said.
        source: io::Error,
    },
    /// The socket cannot be reached.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A daemon has the socket and does not answer.
    #[error(
        "the daemon on {} ({}) has not answered for {} s: what is isolated stays isolated{}. If it does not recover, \
         end it with `kill -9 {}` and run this command again: it then does the work itself",
        path.display(),
        pid.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}")),
        HELLO_TIMEOUT.as_secs(),
        if *asked { ", and what it was asked to do it may do once it goes on" } else { "" },
        pid.map_or_else(|| "<its pid>".to_owned(), |pid| pid.to_string()),
    )]
    Hangs {
        /// The socket.
        path: PathBuf,
        /// Who listens on it, where its pid namespace can be seen.
        pid: Option<i32>,
        /// Whether a request waits for it.
        asked: bool,
    },
    /// It went away before it answered.
    #[error("the daemon on {} went away before it answered", path.display())]
    Lost {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: hyper::Error,
    },
    /// It ends, and takes no more work.
    #[error("the daemon on {} is shutting down", path.display())]
    Leaving {
        /// The socket.
        path: PathBuf,
    },
    /// It would not do it.
    #[error("{message}")]
    Refused {
        /// Its code.
        code: Code,
        /// Its words.
        message: String,
    },
    /// It answered something else than this version understands.
    #[error(
        "the daemon on {} answered {status} with what this version ({}) does not understand: is it another version?",
        path.display(),
        env!("CARGO_PKG_VERSION")
    )]
    NotUnderstood {
        /// The socket.
        path: PathBuf,
        /// The HTTP status.
        status: StatusCode,
        /// Where it is not what was expected.
        source: serde_json::Error,
    },
    /// It could not be read to its end.
    #[error("the answer of the daemon on {} cannot be read", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The daemon on a socket.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    on_wait: fn(Duration),
}

impl Client {
    /// The daemon that may answer on this socket. `on_wait` is called every few seconds while it works.
    pub fn new(path: &Path, on_wait: fn(Duration)) -> Self {
        Self { path: path.to_owned(), on_wait }
    }

    /// The same, if it answers now. What is asked of a process that was stopped lies in its socket, and is carried out once it goes
    /// on, whatever its sender has done meanwhile.
    pub async fn open(path: &Path, on_wait: fn(Duration)) -> Result<Self, ClientError> {
        let client = Self::new(path, on_wait);
        client.hello().await?;
        Ok(client)
    }

    /// Isolates pods.
    pub async fn add(&self, request: &AddRequest) -> Result<Outcomes, ClientError> {
        self.ask(Method::POST, "/v1/isolations", body(request)).await
    }

    /// Releases pods.
    pub async fn remove(&self, request: &RemoveRequest) -> Result<Outcomes, ClientError> {
        self.ask(Method::POST, "/v1/isolations/remove", body(request)).await
    }

    /// Proves by probes that pods are cut off.
    pub async fn verify(&self, request: &VerifyRequest) -> Result<Verifications, ClientError> {
        self.ask(Method::POST, "/v1/verify", body(request)).await
    }

    /// Describes the node.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.ask(Method::GET, "/v1/status", Bytes::new()).await
    }

    /// Waits for the answer as long as the daemon shows that it is alive.
    async fn ask<T: DeserializeOwned>(&self, method: Method, uri: &str, body: Bytes) -> Result<T, ClientError> {
        let started = Instant::now();
        let mut answer = pin!(self.exchange(method, uri, body));
        let mut patience = SOON;
        let (status, bytes) = loop {
            if let Ok(answer) = timeout(patience, answer.as_mut()).await {
                break answer?;
            }
            // What comes meanwhile is taken.
            tokio::select! {
                biased;
                answer = answer.as_mut() => break answer?,
                alive = self.hello() => alive.map_err(|error| match error {
                    ClientError::Hangs { path, pid, .. } => ClientError::Hangs { path, pid, asked: true },
                    other => other,
                })?,
            }
            if patience == HELLO_TIMEOUT {
                (self.on_wait)(started.elapsed());
            }
            patience = HELLO_TIMEOUT;
        };
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return Err(ClientError::Leaving { path: self.path.clone() });
        }
        // A request that was carried out has its type of answer whatever the status says.
        serde_json::from_slice(&bytes).map_err(|source| match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(refusal) => ClientError::Refused { code: refusal.code, message: refusal.message },
            Err(_not_ours) => ClientError::NotUnderstood { path: self.path.clone(), status, source },
        })
    }

    /// Asks for something that the daemon answers without its loop.
    async fn hello(&self) -> Result<(), ClientError> {
        let stream = self.connect().await?;
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0);
        let greeting = self.send(stream, Method::HEAD, "/v1/openapi.json", Bytes::new());
        match timeout(HELLO_TIMEOUT, greeting).await {
            Ok(answer) => answer.map(drop),
            Err(_elapsed) => Err(ClientError::Hangs { path: self.path.clone(), pid, asked: false }),
        }
    }

    async fn exchange(&self, method: Method, uri: &str, body: Bytes) -> Result<(StatusCode, Bytes), ClientError> {
        let response = self.send(self.connect().await?, method, uri, body).await?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let answer = answer.map_err(|source| ClientError::Answer { path: self.path.clone(), source })?;
        Ok((status, answer.to_bytes()))
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        UnixStream::connect(&self.path).await.map_err(|source| {
            let path = self.path.clone();
            match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoDaemon { path, source },
                // So many connections wait that the kernel takes no more: nobody accepts them.
                io::ErrorKind::WouldBlock => ClientError::Hangs { path, pid: None, asked: false },
                _ => ClientError::Connect { path, source },
            }
        })
    }

    async fn send(
        &self,
        stream: UnixStream,
        method: Method,
        uri: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let lost = |source| ClientError::Lost { path: self.path.clone(), source };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        // Its errors reach `sender` as well.
        drop(tokio::spawn(connection));
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("a request made of literals is well-formed");
        sender.send_request(request).await.map_err(lost)
    }
}

fn body(request: &impl Serialize) -> Bytes {
    serde_json::to_vec(request).expect("the protocol's types have string keys and no failing serializer").into()
}
