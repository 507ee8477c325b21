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
