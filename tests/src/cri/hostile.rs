//! A container runtime of which anything must be expected: a real HTTP/2 server on a real socket that answers as it is told.
//!
//! Its messages are put together by hand, so that they can be wrong.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    server::{self, SendResponse},
};
use hyper::http::{HeaderMap, HeaderValue, Request, Response};
use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixListener, UnixStream},
    sync::{oneshot, watch},
};

use crate::protobuf::{self, field};

/// What it does with whoever connects.
#[derive(Clone, Debug)]
pub enum Manner {
    /// Takes the connection and says nothing.
    Silent,
    /// Sends these bytes, whatever it is asked, and then nothing.
    Bytes(Vec<u8>),
    /// Speaks gRPC.
    Talks(Talk),
}

/// How it answers calls.
#[derive(Clone, Debug)]
pub struct Talk {
    /// To the call for the list of sandboxes.
    pub list: Reply,
    /// To the call for one sandbox, by its id; to others it answers that there is none.
    pub each: BTreeMap<String, Reply>,
}

/// One answer.
#[derive(Clone, Debug)]
pub enum Reply {
    /// This message.
    Message(Vec<u8>),
    /// None, ever.
    Nothing,
    /// This much of a message that is said to be longer, and then nothing.
    Part {
        /// What comes.
        bytes: Vec<u8>,
        /// How long it is said to be.
        of: u32,
    },
    /// This message again and again, for as long as somebody reads.
    Forever(Vec<u8>),
    /// An error in these words, percent-encoded as gRPC has it.
    Error(&'static str),
    /// The end of the connection.
    Gone,
}

/// A sandbox as it is told of.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Its id.
    pub id: String,
    /// The UID of its pod.
    pub uid: String,
    /// Its namespace.
    pub namespace: Vec<u8>,
    /// Its name.
    pub name: Vec<u8>,
    /// Its labels.
    pub labels: Vec<(Vec<u8>, Vec<u8>)>,
    /// Its annotations.
    pub annotations: Vec<(Vec<u8>, Vec<u8>)>,
    /// The file that is said to keep its network namespace.
    pub netns: Option<PathBuf>,
    /// Its address.
    pub ip: String,
}

impl Told {
    /// An ordinary one, of the pod with this UID.
    pub fn of(uid: &str, name: &str) -> Self {
        Self {
            id: format!("{:0>64}", uid.replace('-', "")),
            uid: uid.to_owned(),
            namespace: b"default".to_vec(),
            name: name.into(),
            ..Self::default()
        }
    }

    fn item(&self) -> Vec<u8> {
        let metadata = [field(1, &self.name), field(2, self.uid.as_bytes()), field(3, &self.namespace)].concat();
        let pairs = |number: u8, pairs: &[(Vec<u8>, Vec<u8>)]| {
            pairs.iter().flat_map(|(key, value)| field(number, &[field(1, key), field(2, value)].concat())).collect()
        };
        let (labels, annotations): (Vec<u8>, Vec<u8>) = (pairs(5, &self.labels), pairs(6, &self.annotations));
        field(1, &[field(1, self.id.as_bytes()), field(2, &metadata), labels, annotations].concat())
    }

    /// The answer to who asks for it alone.
    pub fn detail(&self) -> Vec<u8> {
        let network = field(5, &field(1, self.ip.as_bytes()));
        let status = field(1, &[field(1, self.id.as_bytes()), network].concat());
        let Some(netns) = &self.netns else { return status };
        let namespaces = serde_json::json!([{ "type": "pid" }, { "type": "network", "path": netns }]);
        let info = serde_json::json!({ "runtimeSpec": { "linux": { "namespaces": namespaces } } }).to_string();
        [status, field(2, &[field(1, b"info"), field(2, info.as_bytes())].concat())].concat()
    }
}

/// A `ListPodSandboxResponse` of these.
pub fn list(sandboxes: &[Told]) -> Vec<u8> {
    sandboxes.iter().flat_map(Told::item).collect()
}

impl Talk {
    /// Answers with what it is told, in good form.
    pub fn of(sandboxes: &[Told]) -> Self {
        let each = sandboxes.iter().map(|sandbox| (sandbox.id.clone(), Reply::Message(sandbox.detail())));
        Self { list: Reply::Message(list(sandboxes)), each: each.collect() }
    }
}

/// What was done to it.
#[derive(Debug, Default)]
struct Seen {
    connected: Mutex<Vec<Instant>>,
    lists: AtomicUsize,
    details: AtomicUsize,
    /// Calls for the list that it has taken and the other side has not given up.
    waiting: AtomicUsize,
}

/// A runtime at a socket. Dropping it ends it and removes the socket.
#[derive(Debug)]
pub struct Hostile {
    path: PathBuf,
    manner: watch::Sender<Manner>,
    seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Hostile {
    /// Listens there.
    pub fn new(path: &Path, manner: Manner) -> Self {
        let (manner, told) = watch::channel(manner);
        let (stop, stopped) = oneshot::channel();
        let seen = Arc::new(Seen::default());
        let listener =
            std::os::unix::net::UnixListener::bind(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let server = Arc::clone(&seen);
        let thread = thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            tokio.block_on(async {
                let listener = UnixListener::from_std(listener).expect("it is a socket");
                tokio::select! {
                    () = serve(&listener, told, &server) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { path: path.to_owned(), manner, seen, stop: Some(stop), thread: Some(thread) }
    }

    /// From now on it behaves so, also to those that have connected and not asked yet.
    pub fn behave(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    /// When somebody connected.
    pub fn connected(&self) -> Vec<Instant> {
        self.seen.connected.lock().expect("noting does not panic").clone()
    }

    /// How many calls for the list there were.
    pub fn lists(&self) -> usize {
        self.seen.lists.load(Ordering::Relaxed)
    }

    /// How many calls for one sandbox there were.
    pub fn details(&self) -> usize {
        self.seen.details.load(Ordering::Relaxed)
    }

    /// How many callers wait for an answer that does not come.
    pub fn waiting(&self) -> usize {
        self.seen.waiting.load(Ordering::Relaxed)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("clean-up: the runtime at {} has panicked", self.path.display());
        }
        if let Err(error) = fs::remove_file(&self.path) {
            eprintln!("clean-up: {}: {error}", self.path.display());
        }
    }
}

async fn serve(listener: &UnixListener, manner: watch::Receiver<Manner>, seen: &Arc<Seen>) {
    loop {
        let (stream, _) = listener.accept().await.expect("it listens");
        seen.connected.lock().expect("noting does not panic").push(Instant::now());
        tokio::spawn(attend(stream, manner.clone(), Arc::clone(seen)));
    }
}

async fn attend(mut stream: UnixStream, mut manner: watch::Receiver<Manner>, seen: Arc<Seen>) {
    let now = manner.borrow_and_update().clone();
    match now {
        Manner::Silent => drop(manner.changed().await),
        Manner::Bytes(bytes) => {
            // Whoever has heard enough goes.
            if stream.write_all(&bytes).await.is_ok() {
                drop(manner.changed().await);
            }
        }
        Manner::Talks(talk) => {
            let Ok(mut connection) = server::handshake(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                let is_list = is_list(&request);
                let calls = if is_list { &seen.lists } else { &seen.details };
                calls.fetch_add(1, Ordering::Relaxed);
                if is_list && matches!(talk.list, Reply::Gone) {
                    return;
                }
                tokio::spawn(answer(request, respond, talk.clone(), Arc::clone(&seen)));
            }
        }
    }
}

fn is_list(request: &Request<RecvStream>) -> bool {
    request.uri().path().ends_with("/ListPodSandbox")
}

async fn answer(mut request: Request<RecvStream>, respond: SendResponse<Bytes>, talk: Talk, seen: Arc<Seen>) {
    let is_list = is_list(&request);
    let mut asked = Vec::new();
    while let Some(Ok(data)) = request.body_mut().data().await {
        asked.extend(data);
    }
    let reply = if is_list {
        talk.list
    } else if request.uri().path().ends_with("/Version") {
        Reply::Message([field(1, b"0.1.0"), field(2, b"hostile\x1b[2J"), field(3, b"v6.6.6\n")].concat())
    } else {
        // Behind the length of the message.
        let id = protobuf::text(&protobuf::fields(&asked[5..]), 1);
        talk.each.get(&id).cloned().unwrap_or(Reply::Error("no such sandbox"))
    };
    seen.waiting.fetch_add(usize::from(is_list), Ordering::Relaxed);
    // Whoever does not want the answer is gone.
    let _sent = give(respond, reply).await;
    seen.waiting.fetch_sub(usize::from(is_list), Ordering::Relaxed);
}

async fn give(mut respond: SendResponse<Bytes>, reply: Reply) -> Result<(), h2::Error> {
    let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a response");
    if matches!(reply, Reply::Nothing) {
        // Until the other side gives up.
        std::future::poll_fn(|context| respond.poll_reset(context)).await?;
        return Ok(());
    }
    let mut body = respond.send_response(head, false)?;
    let (code, message) = match reply {
        Reply::Error(message) => (13, message),
        Reply::Message(message) => {
            send(&mut body, framed(&message)).await?;
            (0, "")
        }
        Reply::Part { bytes, of } => {
            send(&mut body, [&[0][..], &of.to_be_bytes(), &bytes].concat()).await?;
            std::future::poll_fn(|context| body.poll_reset(context)).await?;
            return Ok(());
        }
        Reply::Forever(message) => loop {
            send(&mut body, framed(&message)).await?;
        },
        Reply::Nothing | Reply::Gone => return Ok(()),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    body.send_trailers(trailers)
}

/// A message as gRPC puts it onto the wire.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a message is short enough");
    [&[0][..], &length.to_be_bytes(), message].concat()
}

/// Sends as fast as the other side reads.
async fn send(body: &mut SendStream<Bytes>, bytes: Vec<u8>) -> Result<(), h2::Error> {
    let mut bytes = Bytes::from(bytes);
    while !bytes.is_empty() {
        body.reserve_capacity(bytes.len());
        let granted = std::future::poll_fn(|context| body.poll_capacity(context)).await;
        let granted = granted.unwrap_or(Err(h2::Reason::CANCEL.into()))?;
        body.send_data(bytes.split_to(granted.min(bytes.len())), false)?;
    }
    Ok(())
}
