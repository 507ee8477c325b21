//! Releasing pods on request: the record first, so that a failure leaves the pod isolated.

use super::{Engine, resolve::Purpose};
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
            request.uids.iter().map(|text| (text.clone(), self.resolve(text, Purpose::Release))).collect()
        };
        let mut results: Vec<Outcome> = named
            .into_iter()
            .map(|(text, uid)| {
                uid.and_then(|uid| self.forget(&text, uid, Kind::Released, Some(by))).unwrap_or_else(|failed| failed)
            })
            .collect();

        let plan = self.view().plan();
        let errors: Vec<String> = self.apply(&plan.enforce).iter().map(ToString::to_string).collect();
        // What waited there may be for who is released.
        self.to_arm = plan.arm.into();
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
        Outcomes { results, verifications: Vec::new() }
    }

    /// Deletes the record of a pod, if it has one. What was isolated stays so where that fails.
    pub(super) fn forget(&mut self, text: &str, uid: PodUid, kind: Kind, by: Option<&str>) -> Result<Outcome, Outcome> {
        if !self.desired.contains_key(&uid) {
            let message = format!("pod {} was not isolated: nothing to do", self.called(&uid));
            return Ok(self.outcome(text, uid, Code::Done, message));
        }
        // While the record is there: it may be all that knows the name.
        let called = self.called(&uid);
        let released = self.outcome(text, uid, Code::Done, format!("pod {called} is released"));
        self.store.delete(&uid).map_err(|error| {
            let message = format!("pod {called} stays isolated: {error}. Mend that and run this again");
            self.outcome(text, uid, Code::Failed, message)
        })?;
        self.note(uid, kind, by, None);
        self.desired.remove(&uid);
        Ok(released)
    }
}
