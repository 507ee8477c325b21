//! Which isolated pod a user means.

use thiserror::Error;

use super::protocol::{Code, Isolation, Status};
use crate::pod::{PodUid, UidQuery};

/// Why no one isolated pod is meant.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FindError {
    /// None fits.
    #[error("no isolated pod has the UID {query}: whatever runs under it has its network")]
    NotIsolated {
        /// What was asked for.
        query: String,
    },
    /// Several fit.
    #[error("{query} means several isolated pods, give more of the UID: {}", candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        query: String,
        /// What it may mean.
        candidates: Vec<String>,
    },
}

impl FindError {
    /// The code that says the same.
    pub const fn code(&self) -> Code {
        match self {
            Self::NotIsolated { .. } => Code::NoSuchPod,
            Self::Ambiguous { .. } => Code::Usage,
        }
    }
}

impl Status {
    /// Where the one isolated pod stands that `query` means, which was spelled `text`.
    pub fn find(&self, text: &str, query: &UidQuery) -> Result<usize, FindError> {
        let is_meant = |isolation: &Isolation| isolation.uid.parse::<PodUid>().is_ok_and(|uid| query.matches(&uid));
        let found: Vec<usize> =
            self.isolations.iter().enumerate().filter(|(_, i)| is_meant(i)).map(|(index, _)| index).collect();
        match found[..] {
            [] => Err(FindError::NotIsolated { query: text.to_owned() }),
            [index] => Ok(index),
            _ => Err(FindError::Ambiguous {
                query: text.to_owned(),
                candidates: found.into_iter().map(|index| self.isolations[index].uid.clone()).collect(),
            }),
        }
    }
}
