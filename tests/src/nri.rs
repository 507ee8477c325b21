//! The runtime's side of NRI, written from the protocol: frames of a multiplexer, ttrpc messages in them, protobuf in those.
//!
//! Shares nothing with the agent's plugin, so that a mistake in one is not made up for by the same in the other.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
};

use crate::{
    protobuf::{bytes, field, fields, number, text},
    wait,
};

/// The connection on which the runtime calls the plugin, and the one on which the plugin calls the runtime.
const PLUGIN: u32 = 1;
const RUNTIME: u32 = 2;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// A runtime that waits for a plugin.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// A runtime with its socket there; one that was there before is replaced, as when a runtime restarts.
    pub fn new(path: &Path) -> Self {
        if path.exists() {
            fs::remove_file(path).expect("the node's folder is writable");
        }
        let socket = UnixListener::bind(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { socket, path: path.to_owned() }
    }

    /// Waits for a plugin, and does with it what a runtime does: takes its registration, configures it, and tells it of no pod.
    pub fn plugin(&self) -> Plugin {
        let (mut plugin, stream) = self.registering();
        plugin.send(RUNTIME, stream, RESPONSE, &field(2, &[]));

        let configuration = [field(2, b"containerd"), field(3, b"v2.1.0")].concat();
        let answer = plugin.call("Configure", &configuration).expect("it is configured");
        let events = number(&fields(&answer), 2);
        assert_eq!(events & 1, 1, "it asks for RunPodSandbox");
        let answer = plugin.call("Synchronize", &[]).expect("it takes what is there");
        assert_eq!(answer, [0; 0]);
        plugin
    }

    /// Waits for a plugin, and refuses it in these words.
    pub fn refuse(&self, message: &str) {
        const PERMISSION_DENIED: u8 = 7;
        let (mut plugin, stream) = self.registering();
        let status = [&[0x08, PERMISSION_DENIED][..], &field(2, message.as_bytes())].concat();
        plugin.send(RUNTIME, stream, RESPONSE, &field(1, &status));
    }

    /// A plugin that has asked to be registered, and the stream on which it waits for the answer.
    fn registering(&self) -> (Plugin, u32) {
        self.socket.set_nonblocking(true).expect("a socket can be made non-blocking");
        let mut accepted = None;
        wait::until("the plugin connects", || {
            accepted = self.socket.accept().ok();
            accepted.is_some()
        });
        let (stream, _) = accepted.expect("it was waited for");
        stream.set_nonblocking(false).expect("a socket can be made blocking");
        stream.set_read_timeout(Some(wait::DEADLINE)).expect("a socket can have a time limit");
        let mut plugin = Plugin { stream, last: 0 };
        let (connection, stream, kind, request) = plugin.receive();
        assert_eq!((connection, kind, stream % 2), (RUNTIME, REQUEST, 1), "a client's streams are odd");
        let request = fields(&request);
        assert_eq!(text(&request, 1), "nri.pkg.api.v1alpha1.Runtime");
        assert_eq!(text(&request, 2), "RegisterPlugin");
        let registration = fields(bytes(&request, 3));
        assert_eq!(text(&registration, 1), "isolate");
        let index = text(&registration, 2);
        assert!(index.len() == 2 && index.bytes().all(|byte| byte.is_ascii_digit()), "{index:?}");
        (plugin, stream)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            eprintln!("clean-up: {}: {error}", self.path.display());
        }
    }
}

/// A plugin that has registered. Dropping it ends its connection.
#[derive(Debug)]
pub struct Plugin {
    stream: UnixStream,
    last: u32,
}

impl Plugin {
    /// Tells of a new sandbox, and waits for the plugin as a runtime does.
    pub fn run_pod_sandbox(&mut self, uid: &str, netns: &Path) {
        let answer = self.call("RunPodSandbox", &field(1, &pod(uid, netns))).expect("the plugin refuses no sandbox");
        assert_eq!(answer, [0; 0]);
    }

    /// The same as runtimes before NRI 0.10 tell it.
    pub fn state_change(&mut self, event: u8, uid: &str, netns: &Path) {
        let change = [&[0x08, event][..], &field(2, &pod(uid, netns))].concat();
        self.call("StateChange", &change).expect("the plugin refuses no sandbox");
    }

    /// One call; the error is the status that the plugin answered.
    pub fn call(&mut self, method: &str, payload: &[u8]) -> Result<Vec<u8>, u64> {
        self.last += 2;
        let stream = self.last - 1;
        let request =
            [field(1, b"nri.pkg.api.v1alpha1.Plugin"), field(2, method.as_bytes()), field(3, payload)].concat();
        self.send(PLUGIN, stream, REQUEST, &request);
        let (connection, answered, kind, answer) = self.receive();
        assert_eq!((connection, answered, kind), (PLUGIN, stream, RESPONSE), "to this call");
        let answer = fields(&answer);
        match number(&fields(bytes(&answer, 1)), 1) {
            0 => Ok(bytes(&answer, 2).to_vec()),
            code => Err(code),
        }
    }

    /// The header and the data in frames of their own, as a writer with a small buffer sends them.
    fn send(&mut self, connection: u32, stream: u32, kind: u8, data: &[u8]) {
        let length = u32::try_from(data.len()).expect("a message is short");
        let header = [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0]].concat();
        for part in [&header[..], data] {
            let length = u32::try_from(part.len()).expect("a message is short");
            let frame = [&connection.to_be_bytes()[..], &length.to_be_bytes(), part].concat();
            self.stream.write_all(&frame).expect("the plugin reads");
        }
    }

    fn receive(&mut self) -> (u32, u32, u8, Vec<u8>) {
        let connection = self.word();
        let length = self.word();
        let mut message = vec![0; length as usize];
        self.stream.read_exact(&mut message).expect("the plugin writes whole frames");
        let word = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().expect("four bytes"));
        assert_eq!(word(0) + 10, length, "one message in one frame: runtimes read no parts");
        (connection, word(4), message[8], message[10..].to_vec())
    }

    fn word(&mut self) -> u32 {
        let mut word = [0; 4];
        self.stream.read_exact(&mut word).expect("the plugin writes");
        u32::from_be_bytes(word)
    }
}

/// A `PodSandbox`.
fn pod(uid: &str, netns: &Path) -> Vec<u8> {
    let path = netns.to_str().expect("names of tests are ASCII");
    let namespace = [field(1, b"network"), field(2, path.as_bytes())].concat();
    let linux = field(5, &namespace);
    [field(1, b"4d7a1cbd"), field(2, b"web"), field(3, uid.as_bytes()), field(4, b"default"), field(8, &linux)].concat()
}
