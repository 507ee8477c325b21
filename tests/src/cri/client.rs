//! CRI for a test: one call after the other, and a panic for what fails.

use std::{path::Path, time::Duration};

use isolate_agent::inventory::cri::Client;
use prost::Message;
use tokio::runtime::Runtime as Tokio;

use crate::wait;

/// A connection to a node's runtime.
#[derive(Debug)]
pub struct Runtime {
    tokio: Tokio,
    client: std::sync::Mutex<Client>,
}

impl Runtime {
    /// Connects, once somebody answers.
    pub(super) fn connect(socket: &Path, mut alive: impl FnMut()) -> Self {
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let tokio = tokio.expect("a thread can be had");
        let mut client = None;
        wait::until("the container runtime answers", || {
            alive();
            client = tokio.block_on(async {
                let connected = tokio::time::timeout(Duration::from_secs(5), Client::connect(socket)).await;
                let mut client = connected.ok()?.ok()?;
                let version = isolate_agent::inventory::cri::message::VersionRequest {};
                let answer = client.call::<_, super::message::Empty>("Status", version).await;
                answer.ok().map(|_| client)
            });
            client.is_some()
        });
        Self { tokio, client: std::sync::Mutex::new(client.expect("it was waited for")) }
    }

    /// One call.
    #[track_caller]
    pub(super) fn call<Q, A>(&self, method: &'static str, request: Q) -> A
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        self.attempt(method, request).unwrap_or_else(|error| panic!("{error}"))
    }

    /// One call that may fail.
    pub(super) fn attempt<Q, A>(&self, method: &'static str, request: Q) -> Result<A, String>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let mut client = self.client.lock().expect("no call panicked half-way");
        self.tokio.block_on(client.call(method, request)).map_err(|error| error.to_string())
    }
}
