//! Direct mode: the engine for one command, when no daemon answers.

use std::time::{Duration, Instant};

use super::{Engine, OpenError};
use crate::{
    control::protocol::{AddRequest, Code, Outcome, Outcomes, RemoveRequest, Status, Verifications, VerifyRequest},
    inventory::cri::{Asked, Cri},
    settings::Settings,
    verify,
};

/// Time, since it was asked, that the container runtime has to tell what a cut by UIDs alone can do without: whether the
/// cluster needs the pod, and namespaces in which none of its processes lives.
const UID_PATIENCE: Duration = Duration::from_millis(100);

/// Runs the engine in this process, under the lock, for one command.
#[derive(Debug)]
pub struct Direct {
    pub(super) engine: Engine,
    asked: Asked,
}

impl Direct {
    /// How long the container runtime may take to tell names; without them pods are known by their UIDs.
    pub const CRI_PATIENCE: Duration = Duration::from_millis(500);

    /// Takes the lock and looks at the node. The container runtime is asked meanwhile.
    pub async fn open(settings: &Settings) -> Result<Self, OpenError> {
        let (cri, asked) = Cri::asked_beside(settings.cri_endpoint.as_deref(), Self::CRI_PATIENCE);
        let engine = Engine::open(settings, cri).await?;
        Ok(Self { engine: Engine { lingers: false, ..engine }, asked })
    }

    /// Waits for the container runtime, where one of these is a name.
    async fn names(&mut self, of: &[String]) {
        let is_name = |text: &String| text.contains('/');
        self.asked.over(if of.iter().any(is_name) { Self::CRI_PATIENCE } else { UID_PATIENCE }).await;
    }

    /// Brings the kernel up to date with the records.
    async fn pass(&mut self) {
        let (_, scanned) = self.engine.look_at_node().await;
        if let Err(error) = self.engine.pass(scanned) {
            tracing::warn!(%error, "not everything that is to be isolated could be brought up to date");
        }
    }

    /// Isolates pods.
    pub async fn add(&mut self, request: &AddRequest, by: impl Future<Output = String>, received: Instant) -> Outcomes {
        self.names(&request.uids).await;
        let mut outcomes = self.engine.add(request, by, received).await;
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
        self.names(&request.uids).await;
        let outcomes = self.engine.remove(request, by).await;
        self.pass().await;
        outcomes
    }

    /// Proves by probes that pods are cut off, or finds that they are not. Repairs nothing first.
    pub async fn verify(&mut self, request: &VerifyRequest) -> Verifications {
        self.names(&request.uids).await;
        let Ok(verifications) = verify::verify(&request.uids, &mut self.engine).await;
        verifications
    }

    /// Describes the node.
    pub async fn status(&mut self) -> Status {
        self.asked.over(Self::CRI_PATIENCE).await;
        self.pass().await;
        self.engine.status()
    }
}
