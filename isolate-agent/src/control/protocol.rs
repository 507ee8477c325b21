//! The versioned types of the control socket, which `-o json` prints as well: requests and what became of them, and `status`.
//! Additions only, within `/v1`.

mod status;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::status::{
    Connection, Coverage, Drops, Exempted, HookState, HookStatus, Isolation, KernelErrorCount, Record, RuntimeStatus,
    Status, Unarmed, UnarmedReason,
};

/// Asks for pods to be isolated.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag of the command")]
pub struct AddRequest {
    /// Pods: UIDs in any spelling, unique prefixes of 8 hex digits or more, or `namespace/name`. At most 4096.
    pub uids: Vec<String>,
    /// Why, in the responder's words. At most 1024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Lets the pod's own loopback traffic pass.
    #[serde(default)]
    pub keep_loopback: bool,
    /// Lets kubelet's own probe connections to `probe_ports` pass.
    #[serde(default, skip_serializing_if = "is_false")]
    pub keep_probes: bool,
    /// TCP ports that the pods' probes call, with `keep_probes`: at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probe_ports: Vec<u16>,
    /// Addresses that the pods may still talk to, as `[in:|out:]CIDR[:PORT[/tcp|udp]]`: at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Releases the pods after so many seconds, by the daemon. Not with `until`. Without either the isolation lasts until
    /// somebody ends it, also one that had a limit before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_secs: Option<u64>,
    /// Releases the pods at this time, by the daemon. Not with `for_secs`.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Isolates what is refused otherwise: the agent's own pod, processes of the node, static pods, `kube-system`.
    #[serde(default)]
    pub force: bool,
    /// Resolves and checks, changes nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Asks for pods to be released.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// Pods: UIDs in any spelling, unique prefixes, or `namespace/name`. Empty with `all`.
    #[serde(default)]
    pub uids: Vec<String>,
    /// Every isolated pod.
    #[serde(default)]
    pub all: bool,
}

/// Asks for proof that pods are cut off.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// Pod UIDs in any spelling, or unique prefixes of 8 hex digits or more. At most 4096.
    pub uids: Vec<String>,
}

/// What probes found, pod by pod, in the order in which they were given.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Verifications {
    /// One per pod.
    pub results: Vec<Verification>,
}

/// What probes found of one pod.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Verification {
    /// What was asked for, as it was spelled.
    pub query: String,
    /// The pod's UID, where one was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// `done` if all is proved, `partly_covered` if not, `failed` if something leaks or nothing could be tried.
    pub code: Code,
    /// The same for a person.
    pub message: String,
    /// Every hook and direction that the pod needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proofs: Vec<Proof>,
    /// What stays open beside that, as in `Isolation`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<String>,
}

/// What probes found of one hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Proof {
    /// As in `HookStatus`.
    pub hook: String,
    /// `in` (into the pod) or `out`.
    pub direction: String,
    /// The cgroup directory or the interface.
    pub place: String,
    /// What is proved.
    pub finding: Finding,
    /// By what, or why not.
    pub evidence: String,
}

/// What is proved of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Every probe came to it, and none got through.
    ProvedCut,
    /// It holds, and every probe is one that the pod's `--allow` rules let pass.
    Allowed,
    /// It does not hold, or could not be shown to.
    NotCovered,
    /// A probe got through.
    Leak,
}

/// What became of a request, pod by pod, in the order in which they were given.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Outcomes {
    /// One per pod.
    pub results: Vec<Outcome>,
    /// What probes found right after, for `add --verify`: one for each pod that was isolated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verifications: Vec<Verification>,
}

/// What became of one pod.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    /// What was asked for, as it was spelled.
    pub query: String,
    /// The pod's UID, where one was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Its `namespace/name`, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// How it ended.
    pub code: Code,
    /// What happened, what is still enforced and what to do next, for a person.
    pub message: String,
    /// What stays open, for `partly_covered`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<String>,
    /// From the request's arrival to the last kernel object that the cut needs, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforced_after_us: Option<u64>,
}

/// How a request for one pod ended; each has its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Done. Exit code 0.
    Done,
    /// Failed; the message says what is enforced. Exit code 1.
    Failed,
    /// The request makes no sense as it is. Exit code 2.
    Usage,
    /// No such pod on this node. Exit code 3.
    NoSuchPod,
    /// Refused without `force`. Exit code 4.
    Refused,
    /// Done, but a hook is missing. Exit code 5.
    PartlyCovered,
}

impl Code {
    /// The exit code of a command that ends so.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NoSuchPod => 3,
            Self::Refused => 4,
            Self::PartlyCovered => 5,
        }
    }

    /// How much it needs a person: of several outcomes the gravest decides on the exit code and the HTTP status.
    const fn gravity(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::PartlyCovered => 1,
            Self::Refused => 2,
            Self::NoSuchPod => 3,
            Self::Usage => 4,
            Self::Failed => 5,
        }
    }
}

/// The gravest code: failed, usage, no such pod, refused, partly covered, done. None is done.
fn gravest(codes: impl Iterator<Item = Code>) -> Code {
    codes.max_by_key(|code| code.gravity()).unwrap_or(Code::Done)
}

impl Outcomes {
    /// The gravest outcome, with what was verified. Nothing asked is done.
    pub fn worst(&self) -> Code {
        let verified = self.verifications.iter().map(|verification| verification.code);
        gravest(self.results.iter().map(|outcome| outcome.code).chain(verified))
    }
}

impl Verifications {
    /// The gravest finding. Nothing asked is done.
    pub fn worst(&self) -> Code {
        gravest(self.results.iter().map(|verification| verification.code))
    }
}

/// A request that was not carried out at all.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What kind of error.
    pub code: Code,
    /// What is wrong and what to do, for a person.
    pub message: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(codes: &[Code]) -> Outcomes {
        let outcome = |&code| Outcome {
            query: String::new(),
            uid: None,
            pod: None,
            code,
            message: String::new(),
            open: Vec::new(),
            enforced_after_us: None,
        };
        Outcomes { results: codes.iter().map(outcome).collect(), verifications: Vec::new() }
    }

    #[test]
    fn the_gravest_outcome_decides() {
        use Code::{Done, Failed, NoSuchPod, PartlyCovered, Refused, Usage};
        let ascending = [Done, PartlyCovered, Refused, NoSuchPod, Usage, Failed];
        for end in 1..=ascending.len() {
            assert_eq!(outcomes(&ascending[..end]).worst(), ascending[end - 1]);
        }
        assert_eq!(outcomes(&[Failed, Done, Usage]).worst(), Failed, "in any order");
        assert_eq!(outcomes(&[]).worst(), Done);
    }

    #[test]
    fn exit_codes_are_the_contract() {
        use Code::{Done, Failed, NoSuchPod, PartlyCovered, Refused, Usage};
        let codes = [Done, Failed, Usage, NoSuchPod, Refused, PartlyCovered].map(Code::exit_code);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5]);
    }
}
