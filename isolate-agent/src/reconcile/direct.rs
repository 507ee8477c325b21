//! Direct mode: the engine for one command, when no daemon answers.

use std::time::Instant;

use super::{Engine, OpenError};
use crate::{
    control::protocol::{AddRequest, Code, Outcome, Outcomes, RemoveRequest, Status},
    settings::Settings,
};

/// Runs the engine in this process, under the lock, for one command.
#[derive(Debug)]
pub struct Direct(pub(super) Engine);

impl Direct {
    /// Takes the lock and looks at the node.
    pub async fn open(settings: &Settings) -> Result<Self, OpenError> {
        Engine::open(settings).await.map(Self)
    }

    /// Brings the kernel up to date with the records.
    async fn pass(&mut self) {
        let (_, scanned) = self.0.look_at_node().await;
        if let Err(error) = self.0.pass(scanned) {
            tracing::warn!(%error, "not everything that is to be isolated could be brought up to date");
        }
    }

    /// Isolates pods.
    pub async fn add(&mut self, request: &AddRequest, by: &str, received: Instant) -> Outcomes {
        let mut outcomes = self.0.add(request, by, received).await;
        if request.for_secs.is_some() || request.until.is_some() {
            let isolated = |outcome: &&mut Outcome| matches!(outcome.code, Code::Done | Code::PartlyCovered);
            for outcome in outcomes.results.iter_mut().filter(isolated) {
                outcome.message += " by the daemon, which does not run now: without one it stays isolated";
            }
        }
        if !request.dry_run {
            self.pass().await;
        }
        outcomes
    }

    /// Releases pods.
    pub async fn remove(&mut self, request: &RemoveRequest, by: &str) -> Outcomes {
        let outcomes = self.0.remove(request, by).await;
        self.pass().await;
        outcomes
    }

    /// Describes the node.
    pub async fn status(&mut self) -> Status {
        self.pass().await;
        self.0.status()
    }
}
