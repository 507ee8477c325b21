//! A real listener, a real client, a loop that answers or does not.

use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{mpsc, oneshot},
};

use super::{super::tests::mk_figures, *};
use crate::control::Command;

struct Served {
    addr: SocketAddr,
    ready: watch::Sender<bool>,
    /// Dropping it ends the server.
    _shutdown: oneshot::Sender<()>,
}

async fn mk_server(commands: Commands) -> Served {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let addr = listener.local_addr().expect("it has an address");
    let (ready, readiness) = watch::channel(false);
    let (shutdown, ended) = oneshot::channel::<()>();
    tokio::spawn(serve(
        listener,
        Metrics::new(crate::control::SocketCounters::default()),
        commands,
        readiness,
        async {
            let _ended = ended.await;
        },
    ));
    Served { addr, ready, _shutdown: shutdown }
}

fn mk_loop(isolated: u32) -> Commands {
    let (sender, mut commands) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            if let Command::Figures { reply } = command {
                reply.send(mk_figures(isolated)).expect("the server waits for it");
            }
        }
    });
    Commands::ordinary(sender)
}

async fn fetch(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it takes the request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers and closes");
    answer
}

#[tokio::test]
async fn serves_metrics_and_the_two_probes() {
    let served = mk_server(mk_loop(2)).await;
    let answer = fetch(served.addr, "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(&format!("content-type: {CONTENT_TYPE_OPENMETRICS}\r\n")), "{answer}");
    assert!(answer.contains("\nisolate_isolated_pods 2\n") && answer.ends_with("# EOF\n"), "{answer}");
    assert!(fetch(served.addr, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(fetch(served.addr, "/readyz").await.starts_with("HTTP/1.1 503"));
    served.ready.send(true).expect("the server watches");
    assert!(fetch(served.addr, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(fetch(served.addr, "/v1/status").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_loop_that_has_ended_or_hangs_is_unhealthy() {
    let (sender, gone) = mpsc::channel(1);
    drop(gone);
    let served = mk_server(Commands::ordinary(sender)).await;
    assert!(fetch(served.addr, "/healthz").await.starts_with("HTTP/1.1 503"));
    assert!(fetch(served.addr, "/metrics").await.starts_with("HTTP/1.1 503"));

    let (sender, _never_read) = mpsc::channel(1);
    let served = mk_server(Commands::ordinary(sender)).await;
    let answer = fetch(served.addr, "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("does not answer"), "{answer}");
}

#[tokio::test]
async fn callers_that_say_nothing_do_not_keep_others_out() {
    let served = mk_server(mk_loop(1)).await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(served.addr).await.expect("it listens"));
    }
    let answer = timeout(2 * HEAD_TIMEOUT, fetch(served.addr, "/metrics")).await.expect("a place becomes free");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn an_address_in_use_is_waited_for() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let addr = taken.local_addr().expect("it has an address");
    let (_ready, readiness) = watch::channel(false);
    let metrics = Metrics::new(crate::control::SocketCounters::default());
    let server = tokio::spawn(run(addr, metrics, mk_loop(1), readiness, std::future::pending()));
    sleep(Duration::from_millis(50)).await;
    assert!(!server.is_finished(), "it gave up");
    drop(taken);
    let connected = async {
        while TcpStream::connect(addr).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(3 * BIND_PAUSE, connected).await.expect("it serves as soon as it can");
    server.abort();
}
