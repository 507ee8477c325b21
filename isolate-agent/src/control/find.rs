//! Which isolated pod a user means.

use thiserror::Error;

use super::protocol::{Code, Isolation, Status};
use crate::pod::{PodQuery, PodUid};

/// Why no one isolated pod is meant.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FindError {
    /// None fits.
    #[error("no isolated pod is {query}: whatever runs under that has its network")]
    NotIsolated {
        /// What was asked for.
        query: String,
    },
    /// Several fit.
    #[error("{query} means several isolated pods, give one of their UIDs: {}", candidates.join(", "))]
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
    pub fn find(&self, text: &str, query: &PodQuery) -> Result<usize, FindError> {
        let is_meant = |isolation: &Isolation| match query {
            PodQuery::Uid(query) => isolation.uid.parse::<PodUid>().is_ok_and(|uid| query.matches(&uid)),
            PodQuery::Name(name) => isolation.pod().is_some_and(|pod| pod == name.to_string()),
        };
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
