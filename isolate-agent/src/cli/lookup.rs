//! The one pod that a text means, for the commands that look at the node themselves.

use std::collections::BTreeSet;

use isolate_agent::{
    control::protocol::Code,
    inventory::cri::Cri,
    pod::{PodQuery, PodUid, QueryError},
};
use thiserror::Error;

/// Why it means none.
#[derive(Debug, Error)]
pub(crate) enum LookupError {
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("no pod {0} on this node; `kubectl get pod -A -o wide` says on which node it runs")]
    NoSuchPod(String),
    #[error("{text} means several pods of this node: {candidates}")]
    Ambiguous { text: String, candidates: String },
}

impl LookupError {
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::Query(_) | Self::Ambiguous { .. } => Code::Usage,
            Self::NoSuchPod(_) => Code::NoSuchPod,
        }
    }
}

/// The pod among those that are known, some of them by name.
pub(super) fn pod<'a>(
    text: &str,
    known: impl IntoIterator<Item = &'a PodUid>,
    names: &Cri,
) -> Result<PodUid, LookupError> {
    let query: PodQuery = text.parse()?;
    let is_meant = |uid: &&PodUid| match &query {
        PodQuery::Uid(query) => query.matches(uid),
        PodQuery::Name(name) => names.name(uid).as_ref() == Some(name),
    };
    let meant: BTreeSet<&PodUid> = known.into_iter().filter(is_meant).collect();
    match meant.into_iter().collect::<Vec<_>>()[..] {
        [] => Err(LookupError::NoSuchPod(text.to_owned())),
        [uid] => Ok(*uid),
        ref several => {
            let candidates: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(LookupError::Ambiguous { text: text.to_owned(), candidates: candidates.join(", ") })
        }
    }
}
