//! Direct mode: the engine for one command, when no daemon answers.

use std::time::{Duration, Instant};

use super::{Engine, OpenError};
use crate::{
    control::protocol::{AddRequest, Code, Outcome, Outcomes, RemoveRequest, Status, Verifications, VerifyRequest},
    inventory::cri::Cri,
    settings::Settings,
    verify,
};

/// Runs the engine in this process, under the lock, for one command.
#[derive(Debug)]
pub struct Direct(pub(super) Engine);

impl Direct {
    /// How long the container runtime may take to tell names; without them pods are known by their UIDs.
    pub const CRI_PATIENCE: Duration = Duration::from_millis(500);

    /// Takes the lock and looks at the node.
    pub async fn open(settings: &Settings) -> Result<Self, OpenError> {
        let cri = Cri::asked_once(settings.cri_endpoint.as_deref(), Self::CRI_PATIENCE).await;
        Engine::open(settings, cri).await.map(Self)
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

    /// Proves by probes that pods are cut off, or finds that they are not. Repairs nothing first.
    pub async fn verify(&mut self, request: &VerifyRequest) -> Verifications {
        let Ok(verifications) = verify::verify(&request.uids, &mut self.0).await;
        verifications
    }

    /// Describes the node.
    pub async fn status(&mut self) -> Status {
        self.pass().await;
        self.0.status()
    }
}
