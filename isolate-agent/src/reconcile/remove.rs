//! Releasing pods on request: the record first, so that a failure leaves the pod isolated.

use super::Engine;
use crate::{
    control::protocol::{Code, Outcome, Outcomes, RemoveRequest},
    events::Kind,
    pod::PodUid,
};

impl Engine {
    /// Releases pods.
    pub async fn remove(&mut self, request: &RemoveRequest, by: &str) -> Outcomes {
        self.look_for(&request.uids).await;
        let named: Vec<(String, Result<PodUid, Outcome>)> = if request.all {
            self.desired.keys().map(|uid| (uid.to_string(), Ok(*uid))).collect()
        } else {
            request.uids.iter().map(|text| (text.clone(), self.resolve(text))).collect()
        };
        let mut results: Vec<Outcome> = named
            .into_iter()
            .map(|(text, uid)| {
                uid.and_then(|uid| self.forget(&text, uid, Kind::Released, Some(by))).unwrap_or_else(|failed| failed)
            })
            .collect();

        let plan = self.view().plan();
        let errors: Vec<String> = self.apply(&plan.enforce).iter().map(ToString::to_string).collect();
        for outcome in &mut results {
            if outcome.code == Code::Done && !errors.is_empty() {
                outcome.code = Code::Failed;
                outcome.message = format!(
                    "{}, but not everything in the kernel could be undone, and the network may still be cut: {}. It is \
                     tried again at every pass, and by running this again",
                    outcome.message,
                    errors.join("; ")
                );
            }
            tracing::info!(uid = outcome.uid, code = ?outcome.code, by, "remove: {}", outcome.message);
        }
        Outcomes { results }
    }

    /// Deletes the record of a pod, if it has one. What was isolated stays so where that fails.
    pub(super) fn forget(&mut self, text: &str, uid: PodUid, kind: Kind, by: Option<&str>) -> Result<Outcome, Outcome> {
        if !self.desired.contains_key(&uid) {
            return Ok(Outcome::of(text, uid, Code::Done, format!("pod {uid} was not isolated: nothing to do")));
        }
        self.store.delete(&uid).map_err(|error| {
            let message = format!("pod {uid} stays isolated: {error}. Mend that and run this again");
            Outcome::of(text, uid, Code::Failed, message)
        })?;
        self.desired.remove(&uid);
        self.note(uid, kind, by, None);
        Ok(Outcome::of(text, uid, Code::Done, format!("pod {uid} is released")))
    }
}
