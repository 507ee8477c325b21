//! The few messages and fields of CRI v1 that are asked for. Declared by hand: no protoc when the agent is built.
//!
//! Numbers and types are those of `runtime.v1` in `k8s.io/cri-api`; fields that are not listed are skipped.

use std::collections::HashMap;

use bytes::{Buf as _, Bytes};
use prost::Message as _;

/// `PodSandboxMetadata`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PodSandboxMetadata {
    /// Name of the pod.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its UID.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// Its namespace.
    #[prost(string, tag = "3")]
    pub namespace: String,
    /// How many sandboxes it had before this one.
    #[prost(uint32, tag = "4")]
    pub attempt: u32,
}

/// `PodSandbox`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PodSandbox {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Whose it is.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<PodSandboxMetadata>,
    /// [`READY`] or not.
    #[prost(int32, tag = "3")]
    pub state: i32,
    /// The pod's labels.
    #[prost(map = "string, string", tag = "5")]
    pub labels: HashMap<String, String>,
    /// The pod's annotations.
    #[prost(map = "string, string", tag = "6")]
    pub annotations: HashMap<String, String>,
}

/// `SANDBOX_READY`. Any other state does not mean that the pod is gone: containers may run on.
pub const READY: i32 = 0;

/// `ListPodSandboxRequest`, without a filter.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListPodSandboxRequest {}

/// `ListPodSandboxResponse`, whole. The agent takes it apart with [`each_sandbox`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListPodSandboxResponse {
    /// All sandboxes, ready or not.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<PodSandbox>,
}

/// Sandboxes that are taken from one answer; a node has a few hundred pods.
const MAX_SANDBOXES: usize = 4096;
/// Largest one that is looked at. Kubernetes takes 256 KiB of annotations, and not much of anything else.
const MAX_SANDBOX_BYTES: usize = 1 << 20;

/// Hands over the sandboxes of a `ListPodSandboxResponse` one after the other: sixteen megabytes of empty ones would be
/// gigabytes if they were all there at once. Gives why it is none, if so.
pub(super) fn each_sandbox(mut answer: Bytes, mut take: impl FnMut(&PodSandbox)) -> Result<(), &'static str> {
    const ITEMS: usize = 1;
    let (mut taken, mut bad) = (0, 0);
    while answer.has_remaining() && taken + bad < MAX_SANDBOXES {
        let number =
            |from: &mut Bytes| prost::decode_length_delimiter(from).map_err(|_other| "no number where one must be");
        let key = number(&mut answer)?;
        let length = match key & 7 {
            0 => {
                number(&mut answer)?;
                0
            }
            1 => size_of::<u64>(),
            2 => number(&mut answer)?,
            5 => size_of::<u32>(),
            _ => return Err("a field of an unknown kind"),
        };
        if length > answer.len() {
            return Err("a field ends beyond the answer");
        }
        let field = answer.split_to(length);
        if (key >> 3, key & 7) == (ITEMS, 2) && length <= MAX_SANDBOX_BYTES {
            // One that cannot be read keeps nobody from the others.
            match PodSandbox::decode(field) {
                Ok(sandbox) => {
                    taken += 1;
                    take(&sandbox);
                }
                Err(_) => bad += 1,
            }
        }
    }
    if taken == 0 && bad > 0 { Err("none of its sandboxes can be read") } else { Ok(()) }
}

/// `PodSandboxStatusRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PodSandboxStatusRequest {
    /// Which.
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
    /// Whether `info` is wanted.
    #[prost(bool, tag = "2")]
    pub verbose: bool,
}

/// `PodIP`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PodIp {
    /// An address.
    #[prost(string, tag = "1")]
    pub ip: String,
}

/// `PodSandboxNetworkStatus`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PodSandboxNetworkStatus {
    /// The first address; empty for a pod on the node's network.
    #[prost(string, tag = "1")]
    pub ip: String,
    /// The others.
    #[prost(message, repeated, tag = "2")]
    pub additional_ips: Vec<PodIp>,
}

/// `PodSandboxStatus`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PodSandboxStatus {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its network.
    #[prost(message, optional, tag = "5")]
    pub network: Option<PodSandboxNetworkStatus>,
}

/// `PodSandboxStatusResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PodSandboxStatusResponse {
    /// What every runtime tells.
    #[prost(message, optional, tag = "1")]
    pub status: Option<PodSandboxStatus>,
    /// What this runtime tells; `info` holds JSON.
    #[prost(map = "string, string", tag = "2")]
    pub info: HashMap<String, String>,
}

/// `VersionRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct VersionRequest {}

/// `VersionResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct VersionResponse {
    /// Name of the runtime.
    #[prost(string, tag = "2")]
    pub runtime_name: String,
    /// Its version.
    #[prost(string, tag = "3")]
    pub runtime_version: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(answer: Vec<u8>) -> Result<Vec<PodSandbox>, &'static str> {
        let mut taken = Vec::new();
        each_sandbox(answer.into(), |sandbox| taken.push(sandbox.clone())).map(|()| taken)
    }

    fn sandbox(id: &str) -> PodSandbox {
        PodSandbox { id: id.to_owned(), ..PodSandbox::default() }
    }

    #[test]
    fn more_than_a_node_can_have_are_left_out() {
        let items = vec![sandbox("a"); MAX_SANDBOXES + 1];
        let answer = ListPodSandboxResponse { items }.encode_to_vec();
        assert_eq!(taken(answer).map(|taken| taken.len()), Ok(MAX_SANDBOXES));
        // On the wire an empty one has two bytes.
        assert_eq!(taken([10, 0].repeat(8 << 20)).map(|taken| taken.len()), Ok(MAX_SANDBOXES));
    }

    #[test]
    fn what_is_too_large_or_cannot_be_read_is_left_out() {
        let large = sandbox(&"x".repeat(MAX_SANDBOX_BYTES));
        let mut answer = ListPodSandboxResponse { items: vec![large, sandbox("a")] }.encode_to_vec();
        // A name that is no UTF-8, and a field of a later version of CRI.
        answer.extend([10, 3, 10, 1, 0xff, 0x7a, 1, 0]);
        assert_eq!(taken(answer), Ok(vec![sandbox("a")]));
        assert!(taken(vec![10, 3, 10, 1, 0xff]).is_err());
        assert!(taken(vec![10, 3, 10]).is_err());
    }

    proptest! {
        #[test]
        fn any_answer_is_taken_apart_or_refused(answer in prop::collection::vec(any::<u8>(), 0..256)) {
            let _sandboxes = taken(answer);
        }

        #[test]
        fn what_the_library_decodes_is_taken(ids in prop::collection::vec("[a-z]{0,300}", 0..9)) {
            let items: Vec<_> = ids.iter().map(|id| sandbox(id)).collect();
            prop_assert_eq!(taken(ListPodSandboxResponse { items: items.clone() }.encode_to_vec()), Ok(items));
        }
    }
}
