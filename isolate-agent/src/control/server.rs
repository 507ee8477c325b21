//! Takes connections on the control socket: root's alone, so many at once, each with its time limits.
//!
//! Knows HTTP and the peers; what the routes do is in `routes`.

use std::{
    convert::Infallible,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::Service, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus_client::metrics::counter::Counter;
use rustix::net::{RecvFlags, recv};
use tokio::{io::Interest, net::UnixStream, sync::Semaphore, task::JoinSet, time::timeout};

use super::{
    Commands, Listener,
    protocol::Code,
    requester::Requester,
    routes::{self, Received},
};

/// Connections served at once; more wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 128;
/// Peers that are told that they are refused, at once; more are closed without a word.
const MAX_REFUSALS: usize = 8;
/// Time for a request's first byte, and then for its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for all of a connection: a large request on a slow node takes minutes, a peer that never reads, for ever.
const CONNECTION_TIMEOUT: Duration = Duration::from_mins(10);
/// Time for what is under way when the daemon stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest head of a request.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Pause after an error of accept(2), such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the socket counts, for the metrics.
#[derive(Clone, Debug, Default)]
pub struct SocketCounters {
    /// Peers that were refused because they are not root.
    pub refused_peers: Counter,
    /// Requests that made no sense: answered 4xx, other than 404 and 409.
    pub bad_requests: Counter,
}

/// Serves the control socket until `shutdown` completes, then lets the requests under way end.
pub async fn serve(
    listener: Listener,
    commands: Commands,
    counters: SocketCounters,
    shutdown: impl Future<Output = ()>,
) {
    let router = routes::router(commands, counters.clone());
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let mut connections = JoinSet::new();
    let (stop, stopped) = tokio::sync::watch::channel(());
    tokio::pin!(shutdown);
    loop {
        let slot = Arc::clone(&slots).acquire_owned();
        let (slot, stream) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection of the control socket failed");
                }
                continue;
            }
            Ok(slot) = slot => tokio::select! {
                () = &mut shutdown => break,
                accepted = listener.socket.accept() => match accepted {
                    Ok((stream, _address)) => (slot, stream),
                    Err(error) => {
                        tracing::warn!(%error, "the control socket cannot take a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            },
        };
        let requester = match Requester::of_peer(&stream) {
            Ok(requester) => requester,
            Err(error) => {
                tracing::warn!(%error, "the kernel does not say who is at the other end: closed");
                continue;
            }
        };
        if requester.uid == 0 {
            let (router, mut stopped) = (router.clone(), stopped.clone());
            connections.spawn(async move {
                let _slot = slot;
                answer(stream, router, requester, async move { _ = stopped.changed().await }).await;
            });
            continue;
        }
        counters.refused_peers.inc();
        tracing::warn!(peer = requester.describe(), "refused on the control socket: it is root's alone");
        if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
            connections.spawn(async move {
                let _permit = permit;
                refuse(stream, &requester).await;
            });
        }
    }
    // Gone first: whoever asks from now on finds no daemon and does the work directly.
    drop(listener);
    drop(stop);
    if timeout(DRAIN_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!(connections = connections.len(), "stopping with requests of the control socket under way");
    }
}

/// Serves one request of one peer.
async fn answer(stream: UnixStream, router: Router, requester: Requester, stopped: impl Future<Output = ()>) {
    tokio::pin!(stopped);
    let asked = tokio::select! {
        biased;
        asked = has_asked(&stream) => asked,
        () = stopped.as_mut() => false,
    };
    if !asked {
        return tracing::debug!("a connection of the control socket has asked for nothing: closed");
    }
    let requester = Arc::new(requester);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Received(Instant::now()));
        request.extensions_mut().insert(Arc::clone(&requester));
        router.call(request.map(Body::new))
    });
    let connection = http().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = timeout(CONNECTION_TIMEOUT, async {
        tokio::select! {
            served = connection.as_mut() => served,
            () = stopped => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    });
    match served.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection of the control socket ended early"),
        Err(_elapsed) => tracing::warn!("a connection of the control socket took too long: closed"),
    }
}

/// Waits for the first byte of a request. On a node that kept this process from running, what has arrived counts, however long ago:
/// the timer of an HTTP connection would be looked at before the socket, so that one begins after this.
async fn has_asked(stream: &UnixStream) -> bool {
    let peek = || recv(stream, &mut [0; 1], RecvFlags::PEEK).map(drop).map_err(io::Error::from);
    timeout(HEAD_TIMEOUT, stream.async_io(Interest::READABLE, peek)).await.is_ok() || peek().is_ok()
}

/// Tells a peer that it is not welcome, if it asks.
async fn refuse(stream: UnixStream, requester: &Requester) {
    let message = format!("the control socket answers root only; you are {}", requester.describe());
    let service = service_fn(|_request: Request<Incoming>| {
        let refusal = routes::error(StatusCode::FORBIDDEN, Code::Refused, message.clone());
        async { Ok::<Response, Infallible>(refusal.into_response()) }
    });
    let connection = http().serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = timeout(HEAD_TIMEOUT, connection).await {
        tracing::debug!(%error, "a refused peer went away");
    }
}

/// One request a connection: an idle peer never holds a slot.
fn http() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).keep_alive(false).max_buf_size(MAX_HEAD_BYTES);
    builder
}
