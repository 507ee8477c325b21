//! Direct mode: the engine for one command, when no daemon answers.

use std::time::Instant;

use super::{Engine, OpenError};
use crate::{
    control::protocol::{AddRequest, Outcomes, RemoveRequest, Status},
    settings::Settings,
};

/// Runs the engine in this process, under the lock, for one command.
#[derive(Debug)]
pub struct Direct(Engine);

impl Direct {
    /// Takes the lock and brings the kernel up to date with the records.
    pub async fn open(settings: &Settings) -> Result<Self, OpenError> {
        let mut engine = Engine::open(settings).await?;
        if let Err(error) = engine.pass().await {
            tracing::warn!(%error, "not everything that is to be isolated could be brought up to date");
        }
        Ok(Self(engine))
    }

    /// Isolates pods.
    pub async fn add(&mut self, request: &AddRequest, by: &str, received: Instant) -> Outcomes {
        self.0.add(request, by, received).await
    }

    /// Releases pods.
    pub async fn remove(&mut self, request: &RemoveRequest, by: &str) -> Outcomes {
        self.0.remove(request, by).await
    }

    /// Describes the node.
    pub fn status(&self) -> Status {
        self.0.status()
    }
}
