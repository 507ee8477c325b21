//! `/metrics`, `/healthz` and `/readyz` over TCP, for Prometheus and the kubelet. Reads only; anyone may call it.
//!
//! Every connection has a bound on its time and all together on their number: a slow or hostile caller costs no more
//! than its place, and never the reconcile loop.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::Metrics;
use crate::{control::Commands, status::Figures};

/// What prometheus-client writes.
pub const CONTENT_TYPE_OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const MAX_CONNECTIONS: usize = 32;
/// For the head of a request to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For the reconcile loop to answer.
const LOOP_TIMEOUT: Duration = Duration::from_secs(5);
/// For a connection altogether.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);
/// After an address that could not be had.
const BIND_PAUSE: Duration = Duration::from_secs(5);
/// How long figures serve all who ask: what they ask for keeps the reconcile loop from its work.
const FIGURES_AGE: Duration = Duration::from_millis(200);
/// After an accept that failed: the usual cause (no file descriptor left) does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves metrics on `addr` until `shutdown` ends, from when the address can be had. Nothing else waits for that: a pod
/// on the node's network may sit on the address, and must not keep others from being isolated with it.
pub async fn run(
    addr: SocketAddr,
    metrics: Metrics,
    commands: Commands,
    ready: watch::Receiver<bool>,
    shutdown: impl Future<Output = ()>,
) {
    tokio::pin!(shutdown);
    let listener = tokio::select! {
        () = &mut shutdown => return,
        listener = listen(addr) => listener,
    };
    serve(listener, metrics, commands, ready, shutdown).await;
}

async fn listen(addr: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(addr).await {
            Ok(listener) => return listener,
            Err(error) => warn!(
                %addr, %error,
                "cannot serve metrics there; pods are isolated all the same. End what listens there, or choose another \
                 --metrics-addr; it is tried again"
            ),
        }
        sleep(BIND_PAUSE).await;
    }
}

/// Answers on `listener` until `shutdown` ends. `ready` is true once the first pass is done and every recorded
/// isolation is enforced.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    commands: Commands,
    ready: watch::Receiver<bool>,
    shutdown: impl Future<Output = ()>,
) {
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(Answers { metrics, commands, ready, last: Arc::default() });
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accept = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => return,
            Some(_ended) = connections.join_next() => {}
            (place, accepted) = accept => match accepted {
                Ok((stream, peer)) => {
                    let router = router.clone();
                    connections.spawn(async move {
                        answer(stream, peer, router).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection for metrics");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// One request: Prometheus' next scrape is longer away than a connection should be held for it.
async fn answer(stream: TcpStream, peer: SocketAddr, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%peer, %error, "a connection for metrics broke"),
        Err(_elapsed) => debug!(%peer, "a connection for metrics took too long"),
    }
}

/// Figures, and when they were taken.
type Taken = (Instant, Arc<Figures>);

#[derive(Clone)]
struct Answers {
    metrics: Metrics,
    commands: Commands,
    ready: watch::Receiver<bool>,
    last: Arc<Mutex<Option<Taken>>>,
}

impl Answers {
    /// Whoever comes while the loop is asked waits for that one answer.
    async fn figures(&self) -> Result<Arc<Figures>, Unavailable> {
        let mut last = self.last.lock().await;
        if let Some((_, figures)) = last.as_ref().filter(|(taken, _)| taken.elapsed() < FIGURES_AGE) {
            return Ok(Arc::clone(figures));
        }
        match timeout(LOOP_TIMEOUT, self.commands.figures()).await {
            Ok(Ok(figures)) => {
                let figures = Arc::new(figures);
                *last = Some((Instant::now(), Arc::clone(&figures)));
                Ok(figures)
            }
            Ok(Err(_gone)) => Err(Unavailable("the agent is shutting down; what is isolated stays isolated\n")),
            Err(_elapsed) => Err(Unavailable("the reconcile loop does not answer; what is isolated stays isolated\n")),
        }
    }
}

struct Unavailable(&'static str);

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, self.0).into_response()
    }
}

async fn scrape(State(answers): State<Answers>) -> Result<impl IntoResponse, Unavailable> {
    let figures = answers.figures().await?;
    Ok(([(CONTENT_TYPE, CONTENT_TYPE_OPENMETRICS)], answers.metrics.encode(&figures)))
}

async fn healthz(State(answers): State<Answers>) -> Result<&'static str, Unavailable> {
    let _figures = answers.figures().await?;
    Ok("ok\n")
}

async fn readyz(State(answers): State<Answers>) -> Result<&'static str, Unavailable> {
    if *answers.ready.borrow() {
        Ok("ok\n")
    } else {
        Err(Unavailable("not every recorded isolation is enforced yet\n"))
    }
}

#[cfg(test)]
mod tests;
