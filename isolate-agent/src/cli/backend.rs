//! Who does the work: the daemon, or this process when no daemon answers.

use std::time::{Duration, Instant};

use isolate_agent::{
    control::{
        client::{Client, ClientError},
        protocol::{AddRequest, Outcomes, RemoveRequest, Status, Verifications, VerifyRequest},
        requester::Requester,
    },
    reconcile::Direct,
    settings::Settings,
};

use super::{CliError, output};

/// Who does the work of one command.
#[derive(Debug)]
pub(crate) enum Backend {
    /// The daemon, if there is one; and where this process would find what it needs if the daemon went away.
    Daemon(Client, Box<Settings>),
    /// This process.
    Direct(Box<Direct>),
}

impl Backend {
    /// The daemon if one answers, else this process.
    pub(crate) async fn open(settings: Settings) -> Result<Self, CliError> {
        match Client::open(&settings.socket(), say_waiting).await {
            Ok(client) => Ok(Self::Daemon(client, Box::new(settings))),
            Err(cause) => Ok(Self::Direct(direct(&settings, cause).await?)),
        }
    }

    /// The same for this request: where it only cuts, and may come true late, the daemon is found with it, and the pod is cut
    /// the sooner.
    pub(crate) async fn for_add(settings: Settings, request: &AddRequest) -> Result<Self, CliError> {
        if request.only_cuts() {
            return Ok(Self::Daemon(Client::new(&settings.socket(), say_waiting), Box::new(settings)));
        }
        Self::open(settings).await
    }

    /// Isolates pods.
    pub(crate) async fn add(self, request: AddRequest) -> Result<Outcomes, CliError> {
        let received = Instant::now();
        let mut direct = match self {
            Self::Direct(direct) => direct,
            Self::Daemon(client, settings) => match client.add(&request).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(cause) => direct(&settings, cause).await?,
            },
        };
        Ok(direct.add(&request, async { myself() }, received).await)
    }

    /// Releases pods.
    pub(crate) async fn remove(self, request: RemoveRequest) -> Result<Outcomes, CliError> {
        let mut direct = match self {
            Self::Direct(direct) => direct,
            Self::Daemon(client, settings) => match client.remove(&request).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(cause) => direct(&settings, cause).await?,
            },
        };
        Ok(direct.remove(&request, &myself()).await)
    }

    /// Proves by probes that pods are cut off.
    pub(crate) async fn verify(self, request: VerifyRequest) -> Result<Verifications, CliError> {
        let mut direct = match self {
            Self::Direct(direct) => direct,
            Self::Daemon(client, settings) => match client.verify(&request).await {
                Ok(verifications) => return Ok(verifications),
                Err(cause) => direct(&settings, cause).await?,
            },
        };
        Ok(direct.verify(&request).await)
    }

    /// Describes the node.
    pub(crate) async fn status(self) -> Result<Status, CliError> {
        let mut direct = match self {
            Self::Direct(direct) => direct,
            Self::Daemon(client, settings) => match client.status().await {
                Ok(status) => return Ok(status),
                Err(cause) => direct(&settings, cause).await?,
            },
        };
        Ok(direct.status().await)
    }
}

/// This process, if the failure means that there is no daemon (any more); that failure otherwise.
///
/// Adding or removing again what a daemon began before it died ends where it would have ended.
async fn direct(settings: &Settings, cause: ClientError) -> Result<Box<Direct>, CliError> {
    match cause {
        ClientError::NoDaemon { .. }
        | ClientError::Leaving { .. }
        | ClientError::Lost { .. }
        | ClientError::Answer { .. } => {
            output::note(&format!("{cause}: doing the work in this process"));
            Ok(Box::new(Direct::open(settings).await?))
        }
        other => Err(other.into()),
    }
}

fn myself() -> String {
    Requester::of_this_process().describe()
}

fn say_waiting(elapsed: Duration) {
    output::note(&format!("the daemon is alive and still at work after {} s", elapsed.as_secs()));
}
