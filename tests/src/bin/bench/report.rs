//! What a run gives: figures by name, tables and plots by section, targets. Written as JSON, Markdown and SVG.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use serde::Serialize;

use crate::{
    machine::Machine,
    plot::Plot,
    stats::{Series, Summary},
    targets::Target,
};

/// One measured thing.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// Unit of the figures; `1` for a ratio.
    pub(crate) unit: &'static str,
    /// The figures.
    #[serde(flatten)]
    pub(crate) summary: Summary,
}

/// Everything that a run gives.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    figures: BTreeMap<String, Figure>,
    targets: Vec<Target>,
    #[serde(skip)]
    sections: Vec<Section>,
}

/// A chapter of the document.
#[derive(Debug, Default)]
pub(crate) struct Section {
    /// Its heading.
    pub(crate) title: &'static str,
    /// What was measured and how.
    pub(crate) text: String,
    /// Its tables.
    pub(crate) tables: Vec<Table>,
    /// Its plots.
    pub(crate) plots: Vec<Plot>,
    /// What the results mean, below them.
    pub(crate) after: String,
}

/// A table.
#[derive(Debug)]
pub(crate) struct Table {
    /// Names of the columns; the first one names the rows.
    pub(crate) head: Vec<String>,
    /// The rows.
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(|&name| name.to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule: Vec<String> =
            (0..self.head.len()).map(|at| if at == 0 { "---" } else { "---:" }.to_owned()).collect();
        line(&self.head) + &line(&rule).replace(' ', "") + &self.rows.iter().map(|row| line(row)).collect::<String>()
    }
}

impl Report {
    /// An empty one.
    pub(crate) const fn new(machine: Machine) -> Self {
        Self { machine, figures: BTreeMap::new(), targets: Vec::new(), sections: Vec::new() }
    }

    /// Adds a figure.
    pub(crate) fn figure(&mut self, name: &str, unit: &'static str, series: &Series) {
        self.figures.insert(name.to_owned(), Figure { unit, summary: series.summary() });
    }

    /// The summary of a figure, if it was measured.
    pub(crate) fn summary(&self, name: &str) -> Option<Summary> {
        self.figures.get(name).map(|figure| figure.summary)
    }

    /// Adds a chapter.
    pub(crate) fn section(&mut self, section: Section) {
        self.sections.push(section);
    }

    /// Compares with what is to be reached.
    pub(crate) fn compare(&mut self, targets: Vec<Target>) {
        self.targets = targets;
    }

    /// Writes `<folder>/performance.md`, `<folder>/performance.json` and the plots beside them.
    pub(crate) fn write(&self, folder: &Path) -> std::io::Result<()> {
        let plots = folder.join("performance");
        if plots.exists() {
            fs::remove_dir_all(&plots)?;
        }
        fs::create_dir_all(&plots)?;
        for plot in self.sections.iter().flat_map(|section| &section.plots) {
            fs::write(plots.join(format!("{}.svg", plot.name)), plot.svg())?;
        }
        let json = serde_json::to_string_pretty(self).map_err(std::io::Error::other)?;
        fs::write(folder.join("performance.json"), json + "\n")?;
        fs::write(folder.join("performance.md"), self.markdown())
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "<!-- Written by `cargo xtask bench`; change tests/src/bin/bench and run it again. -->\n# Performance\n\n\
             Measured on {}, with isolate-agent {} (release build), on {}. Everything in one run of `cargo xtask bench`, in \
             interleaved rounds (A B C A B C …): compare within a table, and rather the ratios than the absolute times, \
             which are another machine's elsewhere. Figures are medians over the rounds; *spread* is the range from the \
             lower to the upper quartile; a ratio is the median of the ratios within each round. All figures are in \
             [performance.json](performance.json).\n\n## Targets\n\n",
            self.machine.describe(),
            self.machine.agent,
            self.machine.date,
        );
        let mut table = Table::new(&["figure", "target", "measured", "reached"]);
        for target in &self.targets {
            table.row([target.figure.clone(), target.bound.clone(), target.measured.clone(), target.verdict()]);
        }
        text.push_str(&table.markdown());
        if self.targets.iter().any(|target| !target.note.is_empty()) {
            text.push_str("\nWhat bounds those that are not reached:\n\n");
        }
        for target in self.targets.iter().filter(|target| !target.note.is_empty()) {
            writeln!(text, "- *{}*: {}", target.figure, target.note).expect("a String takes every write");
        }
        for section in &self.sections {
            write!(text, "\n## {}\n\n{}\n", section.title, section.text.trim()).expect("a String takes every write");
            for table in &section.tables {
                write!(text, "\n{}", table.markdown()).expect("a String takes every write");
            }
            for plot in &section.plots {
                write!(text, "\n![{}](performance/{}.svg)\n", plot.title, plot.name)
                    .expect("a String takes every write");
            }
            if !section.after.is_empty() {
                write!(text, "\n{}\n", section.after.trim()).expect("a String takes every write");
            }
        }
        text
    }
}

/// A figure with about three digits.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// From the lower to the upper quartile.
pub(crate) fn spread(summary: Summary) -> String {
    format!("{} – {}", figure(summary.p25), figure(summary.p75))
}
