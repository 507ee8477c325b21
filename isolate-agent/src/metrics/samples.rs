//! The text of one family's samples.
//!
//! A thousand isolated pods have 26,000 of them: each is put together from pieces that are the same for the whole family.

use std::fmt::Write as _;

use super::family::{Descriptor, Family};

/// Takes the samples of one family.
pub(super) struct Samples<'a> {
    text: &'a mut String,
    name: String,
    /// What stands before the value of each label. No value has a character that would have to be escaped.
    before: Vec<String>,
}

/// What the samples of all pods share in one series of each.
pub(super) struct SeriesOfPods {
    before: String,
    after: String,
}

impl<'a> Samples<'a> {
    /// Writes what is told of the family itself.
    pub(super) fn of(family: Family, text: &'a mut String) -> Self {
        let Descriptor { kind, unit, labels, help, .. } = family.descriptor();
        let name = family.name();
        let mut line = |what: &str, told: &str| {
            writeln!(text, "# {what} {name} {told}").expect("a String takes every write");
        };
        line("HELP", help);
        line("TYPE", kind.name());
        if let Some(unit) = unit {
            line("UNIT", unit);
        }
        let opening = |index: usize| if index == 0 { "{" } else { "\"," };
        let before = labels.iter().enumerate().map(|(index, label)| format!("{}{label}=\"", opening(index)));
        Self { text, name: family.sample_name(), before: before.collect() }
    }

    /// A sample with these values of the family's labels.
    pub(super) fn put<const N: usize>(&mut self, values: [&str; N], sample: impl itoa::Integer) {
        self.series(values);
        self.text.push_str(itoa::Buffer::new().format(sample));
        self.text.push('\n');
    }

    /// The series of all pods that have these values of the family's labels but the first, which is the pod.
    pub(super) fn series_of_pods<const N: usize>(&self, others: [&str; N]) -> SeriesOfPods {
        assert_eq!(self.before.len(), 1 + N, "as many values as the family has labels");
        let mut after: String =
            self.before[1..].iter().zip(others).flat_map(|(before, value)| [before.as_str(), value]).collect();
        after.push_str("\"} ");
        SeriesOfPods { before: format!("{}{}", self.name, self.before[0]), after }
    }

    /// The sample of one pod.
    pub(super) fn put_of_pod(&mut self, series: &SeriesOfPods, uid: &str, sample: impl itoa::Integer) {
        let mut digits = itoa::Buffer::new();
        for piece in [&series.before, uid, &series.after, digits.format(sample), "\n"] {
            self.text.push_str(piece);
        }
    }

    /// A point in time, in seconds.
    pub(super) fn put_secs(&mut self, sample: f64) {
        self.series([]);
        writeln!(self.text, "{sample}").expect("a String takes every write");
    }

    fn series<const N: usize>(&mut self, values: [&str; N]) {
        assert_eq!(self.before.len(), N, "as many values as the family has labels");
        self.text.push_str(&self.name);
        for (before, value) in self.before.iter().zip(values) {
            self.text.push_str(before);
            self.text.push_str(value);
        }
        self.text.push_str(if N == 0 { " " } else { "\"} " });
    }
}
