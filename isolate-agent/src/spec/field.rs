//! A value in a manifest and the way to it. Wrong types and ranges become problems that name that way, and are passed
//! over: one bad field must not hide the rest.

use std::{fmt, ops::RangeInclusive};

use serde_json::Value;

/// Longest text that is shown of a value.
const MAX_SHOWN: usize = 60;

/// What is wrong in a manifest, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The way to it: `spec.containers[0].livenessProbe.tcpSocket.port`.
    pub at: String,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

/// What was wrong so far.
pub(super) type Problems = Vec<Problem>;

/// A value that is there.
#[derive(Clone, Debug)]
pub(super) struct At<'v> {
    pub(super) value: &'v Value,
    pub(super) path: String,
}

impl<'v> At<'v> {
    /// The root of a document.
    pub(super) const fn root(value: &'v Value) -> Self {
        Self { value, path: String::new() }
    }

    /// A field, if it has a value. Kubernetes takes `null` for absent.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        let dot = if self.path.is_empty() { "" } else { "." };
        Some(Self { value, path: format!("{}{dot}{key}", self.path) })
    }

    /// A field below another one.
    pub(super) fn descend(&self, keys: &[&str]) -> Option<Self> {
        keys.iter().try_fold(self.clone(), |at, key| at.get(key))
    }

    /// The elements of a list field; none where it is absent.
    pub(super) fn items(&self, key: &str, problems: &mut Problems) -> Vec<Self> {
        let Some(list) = self.get(key) else { return Vec::new() };
        let Some(items) = list.value.as_array() else {
            list.expected("a list", problems);
            return Vec::new();
        };
        let at = |(index, value)| Self { value, path: format!("{}[{index}]", list.path) };
        items.iter().enumerate().map(at).collect()
    }

    pub(super) fn text(&self, key: &str, problems: &mut Problems) -> Option<String> {
        let field = self.get(key)?;
        let text = field.value.as_str().map(str::to_owned);
        if text.is_none() {
            field.expected("text", problems);
        }
        text
    }

    pub(super) fn flag(&self, key: &str, problems: &mut Problems) -> bool {
        let Some(field) = self.get(key) else { return false };
        field.value.as_bool().unwrap_or_else(|| {
            field.expected("true or false", problems);
            false
        })
    }

    pub(super) fn whole(&self, key: &str, range: RangeInclusive<u64>, problems: &mut Problems) -> Option<u64> {
        self.get(key)?.as_whole(range, problems)
    }

    /// This value as a number in `range`.
    pub(super) fn as_whole(&self, range: RangeInclusive<u64>, problems: &mut Problems) -> Option<u64> {
        if !self.value.is_i64() && !self.value.is_u64() {
            self.expected("a whole number", problems);
            return None;
        }
        let number = self.value.as_u64().filter(|number| range.contains(number));
        if number.is_none() {
            self.problem(format!("{} is not in {}..={}", self.value, range.start(), range.end()), problems);
        }
        number
    }

    pub(super) fn problem(&self, what: String, problems: &mut Problems) {
        problems.push(Problem { at: self.path.clone(), what });
    }

    pub(super) fn expected(&self, what: &str, problems: &mut Problems) {
        let shown: String = self.value.to_string().chars().take(MAX_SHOWN).collect();
        self.problem(format!("expected {what}, found {shown}"), problems);
    }

    /// The fields of this value, in the order of their names.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'v str> + use<'v> {
        self.value.as_object().into_iter().flat_map(|fields| fields.keys().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_problem_names_the_way_to_it() {
        let value = json!({"spec": {"containers": [{"name": 7}, {"port": -1}, {"port": 1.5}], "list": {}}});
        let (root, mut problems) = (At::root(&value), Problems::new());
        let spec = root.get("spec").expect("there");
        let containers = spec.items("containers", &mut problems);
        assert_eq!(containers[0].text("name", &mut problems), None);
        assert_eq!(containers[1].whole("port", 1..=65_535, &mut problems), None);
        assert_eq!(containers[2].whole("port", 1..=65_535, &mut problems), None);
        assert!(spec.items("list", &mut problems).is_empty());
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "spec.containers[0].name: expected text, found 7",
                "spec.containers[1].port: -1 is not in 1..=65535",
                "spec.containers[2].port: expected a whole number, found 1.5",
                "spec.list: expected a list, found {}",
            ]
        );
    }

    #[test]
    fn null_is_absent() {
        let value = json!({"a": null, "b": {"c": 1}});
        let (root, mut problems) = (At::root(&value), Problems::new());
        assert!(root.get("a").is_none() && root.descend(&["a", "b"]).is_none());
        assert_eq!(root.descend(&["b"]).expect("there").whole("c", 0..=1, &mut problems), Some(1));
        assert!(!root.flag("a", &mut problems) && problems.is_empty());
    }
}
