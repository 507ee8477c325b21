//! Names of pods, `namespace/name`, and what a user may type for a pod: that, or a UID.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{UidError, UidQuery};

/// Longest namespace: a DNS label (RFC 1123).
const MAX_NAMESPACE: usize = 63;
/// Longest name of a pod: a DNS subdomain.
const MAX_NAME: usize = 253;

/// Why a text names no pod.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum QueryError {
    /// No UID, nor the beginning of one.
    #[error(transparent)]
    Uid(#[from] UidError),
    /// A name without its namespace, most likely.
    #[error("{0:?} is no pod UID; a pod's name is given with its namespace: namespace/{0}")]
    NoNamespace(String),
    /// Not two names that Kubernetes would take.
    #[error(
        "{0:?} is no namespace/name of a pod: both are lower-case letters, digits and `-`, a pod's name `.` as well"
    )]
    Name(String),
}

/// Namespace and name of a pod. Both are what Kubernetes takes for such, and nothing else: plain ASCII.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodName {
    namespace: String,
    name: String,
}

impl PodName {
    /// The name, if it is one that Kubernetes would take.
    pub fn new(namespace: &str, name: &str) -> Option<Self> {
        let fits = is_label(namespace)
            && namespace.len() <= MAX_NAMESPACE
            && name.len() <= MAX_NAME
            && name.split('.').all(is_label);
        fits.then(|| Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name within it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for PodName {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        let parts = text.split_once('/').and_then(|(namespace, name)| Self::new(namespace, name));
        parts.ok_or_else(|| QueryError::Name(text.to_owned()))
    }
}

impl TryFrom<String> for PodName {
    type Error = QueryError;

    fn try_from(text: String) -> Result<Self, QueryError> {
        text.parse()
    }
}

impl From<PodName> for String {
    fn from(name: PodName) -> Self {
        name.to_string()
    }
}

fn is_label(text: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    !text.is_empty() && text.bytes().all(|byte| inner(&byte)) && !text.starts_with('-') && !text.ends_with('-')
}

/// What a user typed for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodQuery {
    /// A UID in any spelling, or the beginning of one.
    Uid(UidQuery),
    /// `namespace/name`.
    Name(PodName),
}

impl FromStr for PodQuery {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        if text.contains('/') {
            return text.parse().map(Self::Name);
        }
        match text.parse() {
            Ok(query) => Ok(Self::Uid(query)),
            Err(UidError::NotHex(text)) if PodName::new("default", &text).is_some() => {
                Err(QueryError::NoNamespace(text))
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_kubernetes_takes() {
        for text in ["default/web-0", "kube-system/kube-apiserver-node.example.com", "a/b", "1/2"] {
            let name: PodName = text.parse().expect(text);
            assert_eq!(name.to_string(), text);
            assert_eq!(text.parse(), Ok(PodQuery::Name(name)));
        }
    }

    #[test]
    fn names_that_it_does_not_take() {
        let (long, longest) = (format!("{}/web", "n".repeat(64)), format!("default/{}", "w".repeat(254)));
        for text in [
            "/",
            "default/",
            "/web",
            "default/Web",
            "default/-web",
            "default/web-",
            "default/web..0",
            "default/web/0",
            "de.fault/web",
            "../etc",
            "default/web\n",
            "default/w\u{202e}eb",
            "default/web 0",
            &long,
            &longest,
        ] {
            assert_eq!(text.parse::<PodQuery>(), Err(QueryError::Name(text.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn what_has_no_slash_is_a_uid_or_lacks_its_namespace() {
        assert!(matches!("0f0e0d0c".parse(), Ok(PodQuery::Uid(_))));
        assert_eq!("web-0".parse::<PodQuery>(), Err(QueryError::NoNamespace("web-0".to_owned())));
        assert!(matches!("0f0e0d".parse::<PodQuery>(), Err(QueryError::Uid(UidError::Length { .. }))));
        assert!(matches!("Web_0".parse::<PodQuery>(), Err(QueryError::Uid(UidError::NotHex(_)))));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_a_name_is_plain(text in "\\PC*(/\\PC*)?") {
            if let Ok(PodQuery::Name(name)) = text.parse() {
                prop_assert!(name.to_string().bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
