//! One connection to a container runtime's CRI socket. Knows gRPC and sockets, nothing of pods.

use std::{
    marker::PhantomData,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use hyper::http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use thiserror::Error;
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder},
    transport::{Channel, Endpoint, Uri},
};
use tonic_prost::{ProstCodec, ProstEncoder};

use super::message::{VersionRequest, VersionResponse};

/// Largest answer, as kubelet takes it.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Largest one that is decoded at once: in memory a message can be some fifteen times as large as on the wire.
const MAX_DECODED_BYTES: usize = 1 << 20;
/// As much of what a runtime says about an error is kept.
const MAX_MESSAGE: usize = 300;
/// As much of what it calls itself.
const MAX_VERSION: usize = 100;

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
        after: Duration,
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
        Ok(Self { grpc: Grpc::new(channel), path: path.to_owned() })
    }

    /// One call of `runtime.v1.RuntimeService`.
    pub async fn call<Q, A>(&mut self, method: &'static str, request: Q) -> Result<A, CriError>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        self.attempt(method, request, ProstCodec::<Q, A>::default(), MAX_DECODED_BYTES).await
    }

    /// The same; the answer is the caller's to decode, and can be larger.
    pub(super) async fn call_undecoded<Q>(&mut self, method: &'static str, request: Q) -> Result<Bytes, CriError>
    where
        Q: Message + Default + 'static,
    {
        self.attempt(method, request, Undecoded(PhantomData), MAX_ANSWER_BYTES).await
    }

    async fn attempt<C: Codec>(
        &mut self,
        method: &'static str,
        request: C::Encode,
        codec: C,
        limit: usize,
    ) -> Result<C::Decode, CriError>
    where
        C::Encode: Send + Sync + 'static,
        C::Decode: Send + Sync + 'static,
    {
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}"));
        let path = path.map_err(|error| self.failed(method, &error.to_string()))?;
        let mut grpc = self.grpc.clone().max_decoding_message_size(limit);
        grpc.ready().await.map_err(|error| self.failed(method, &error.to_string()))?;
        let answer = grpc.unary(Request::new(request), path, codec).await;
        answer.map(tonic::Response::into_inner).map_err(|status: Status| {
            let (code, message) = (status.code(), status.message());
            self.failed(method, &format!("{code:?}: {message}"))
        })
    }

    /// What a runtime says is shown to people, and kept until it answers again.
    pub(super) fn failed(&self, method: &'static str, message: &str) -> CriError {
        let message = plain(message, MAX_MESSAGE);
        CriError::Call { path: self.path.clone(), method, message }
    }
}

/// The name and the version of the runtime at a socket.
pub(crate) async fn version(path: &Path, within: Duration) -> Result<String, CriError> {
    let ask = async {
        let mut client = Client::connect(path).await?;
        let VersionResponse { runtime_name, runtime_version } = client.call("Version", VersionRequest {}).await?;
        Ok(plain(&format!("{runtime_name} {runtime_version}"), MAX_VERSION))
    };
    let slow = |_elapsed| Err(CriError::Slow { path: path.to_owned(), after: within });
    timeout(within, ask).await.unwrap_or_else(slow)
}

/// The beginning of a text without control characters.
fn plain(text: &str, at_most: usize) -> String {
    text.chars().take(at_most).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Leaves an answer as it is.
struct Undecoded<Q>(PhantomData<Q>);

/// The decoder of [`Undecoded`].
struct Whole;

impl<Q: Message + 'static> Codec for Undecoded<Q> {
    type Encode = Q;
    type Decode = Bytes;
    type Encoder = ProstEncoder<Q>;
    type Decoder = Whole;

    fn encoder(&mut self) -> ProstEncoder<Q> {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Whole {
        Whole
    }
}

impl Decoder for Whole {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, answer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(answer.copy_to_bytes(answer.remaining())))
    }
}
