//! One connection to a container runtime's CRI socket. Knows gRPC and sockets, nothing of pods.

use std::path::{Path, PathBuf};

use hyper::http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use thiserror::Error;
use tokio::net::UnixStream;
use tonic::{
    Request, Status,
    client::Grpc,
    transport::{Channel, Endpoint, Uri},
};
use tonic_prost::ProstCodec;

/// Largest answer, as kubelet takes it.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Why a runtime did not answer.
#[derive(Debug, Error)]
pub enum CriError {
    /// Nobody listens, or nobody who speaks HTTP/2.
    #[error("cannot connect to the container runtime at {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// It refused, or what it answered is not CRI.
    #[error("{method} failed at the container runtime at {}: {message}", path.display())]
    Call {
        /// The socket.
        path: PathBuf,
        /// The call.
        method: &'static str,
        /// What it or the transport said.
        message: String,
    },
    /// It took too long.
    #[error("the container runtime at {} has not answered for {} ms", path.display(), after.as_millis())]
    Slow {
        /// The socket.
        path: PathBuf,
        /// How long it was given.
        after: std::time::Duration,
    },
    /// There is no socket.
    #[error("no container runtime has a socket in the usual places; --cri-endpoint names another")]
    NoSocket,
}

/// A connection to one runtime.
#[derive(Debug)]
pub struct Client {
    grpc: Grpc<Channel>,
    path: PathBuf,
}

impl Client {
    /// Connects. Has no deadline of its own: whoever calls has one for the whole.
    pub async fn connect(path: &Path) -> Result<Self, CriError> {
        let socket = path.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://cri").connect_with_connector(connector).await;
        let channel = channel.map_err(|source| CriError::Connect { path: path.to_owned(), source })?;
        let grpc = Grpc::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(Self { grpc, path: path.to_owned() })
    }

    /// One call of `runtime.v1.RuntimeService`.
    pub async fn call<Q, A>(&mut self, method: &'static str, request: Q) -> Result<A, CriError>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let failed = |message| CriError::Call { path: self.path.clone(), method, message };
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}"));
        let path = path.map_err(|error| failed(error.to_string()))?;
        self.grpc.ready().await.map_err(|error| failed(error.to_string()))?;
        let answer = self.grpc.unary(Request::new(request), path, ProstCodec::<Q, A>::default()).await;
        answer.map(tonic::Response::into_inner).map_err(|status: Status| {
            let (code, message) = (status.code(), status.message());
            CriError::Call { path: self.path.clone(), method, message: format!("{code:?}: {message}") }
        })
    }
}
