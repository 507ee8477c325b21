//! How results look: columns and colour for a terminal, tabs and neither for a pipe, JSON and YAML for programs.

use std::io::{self, IsTerminal, Write};

use comfy_table::{Color, ColumnConstraint, ContentArrangement, Table, presets};
use isolate_agent::control::protocol::{Code, Outcomes};
use jiff::Timestamp;
use serde::Serialize;

use super::{CliError, verify};
use crate::args::Form;

/// What the reader of a text can show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// Aligned columns, made for a person.
    pub terminal: bool,
    /// Colour; only on a terminal.
    pub colour: bool,
    /// Columns; the terminal's own if not set.
    pub width: Option<u16>,
}

impl Style {
    /// What standard output can show; `NO_COLOR` is honoured (<https://no-color.org>).
    pub(crate) fn of_stdout() -> Self {
        let terminal = io::stdout().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        // A terminal that nobody has told its size yet (`kubectl exec -t`) says 0.
        let sized = rustix::termios::tcgetwinsize(io::stdout()).is_ok_and(|size| size.ws_col > 0);
        Self { terminal, colour: terminal && !no_colour, width: (!sized).then_some(u16::MAX) }
    }
}

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tint {
    Plain,
    Good,
    Bad,
    Faint,
}

impl Tint {
    const fn colour(self) -> Option<Color> {
        match self {
            Self::Plain => None,
            Self::Good => Some(Color::Green),
            Self::Bad => Some(Color::Red),
            Self::Faint => Some(Color::DarkGrey),
        }
    }

    const fn escape(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "\x1b[32m",
            Self::Bad => "\x1b[31m",
            Self::Faint => "\x1b[90m",
        }
    }
}

/// One field: text without control characters, and what its colour says.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tint: Tint,
}

impl Cell {
    pub(crate) fn tinted(text: impl AsRef<str>, tint: Tint) -> Self {
        Self { text: printable(text.as_ref()), tint }
    }

    pub(crate) fn render(&self, style: Style) -> String {
        if style.colour && self.tint != Tint::Plain {
            format!("{}{}\x1b[0m", self.tint.escape(), self.text)
        } else {
            self.text.clone()
        }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::tinted(text, Tint::Plain)
    }
}

/// Columns for a terminal, fields between tabs for a pipe.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<Cell>>, style: Style) -> String {
    if !style.terminal {
        let rows = rows.iter().map(|row| row.iter().map(|cell| cell.text.as_str()).collect::<Vec<_>>().join("\t"));
        return lines(std::iter::once(header.join("\t")).chain(rows));
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if style.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    if let Some(width) = style.width {
        table.set_width(width);
    }
    table.set_header(header);
    for row in rows {
        table.add_row(row.into_iter().map(|cell| {
            let styled = comfy_table::Cell::new(cell.text);
            match cell.tint.colour() {
                Some(colour) => styled.fg(colour),
                None => styled,
            }
        }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    // A UID that is broken in two cannot be copied.
    if let Some(first) = table.column_mut(0) {
        first.set_constraint(ColumnConstraint::ContentWidth);
    }
    lines(table.lines().map(|line| line.trim_end().to_owned()))
}

/// Each with its end, the last one too.
pub(crate) fn lines<T: AsRef<str>>(lines: impl Iterator<Item = T>) -> String {
    lines.fold(String::new(), |text, line| text + line.as_ref() + "\n")
}

/// A value of the protocol, whole.
pub(crate) fn document(value: &impl Serialize, form: Form) -> Result<String, CliError> {
    Ok(match form {
        Form::Yaml => serde_yaml_ng::to_string(value)?,
        Form::Json | Form::Text => serde_json::to_string_pretty(value)? + "\n",
    })
}

/// What became of each pod: successes to standard output, the others to standard error.
pub(crate) fn outcomes(outcomes: &Outcomes, form: Form) -> Result<(), CliError> {
    if form != Form::Text {
        return print(&document(outcomes, form)?);
    }
    let mut done = String::new();
    for outcome in &outcomes.results {
        let message = printable(&outcome.message);
        match outcome.code {
            Code::Done | Code::PartlyCovered => {
                done = done + &message + "\n";
                for open in &outcome.open {
                    done = done + "  still open: " + &printable(open) + "\n";
                }
            }
            Code::Failed | Code::Usage | Code::NoSuchPod | Code::Refused => warn(&message),
        }
    }
    let style = Style::of_stdout();
    done.extend(outcomes.verifications.iter().map(|verification| verify::text(verification, style)));
    print(&done)
}

pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Says to a person what is no result.
pub(crate) fn note(message: &str) {
    // Nobody may be left to hear it; that is no reason to fail.
    drop(writeln!(io::stderr(), "isolate-agent: {message}"));
}

/// The same for text with parts from elsewhere.
pub(crate) fn warn(message: &str) {
    note(&printable(message));
}

/// The word that JSON has for a unit variant.
pub(crate) fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

pub(crate) fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// Text that names of processes, files and interfaces are part of must not steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// How long ago, in the two largest units.
pub(crate) fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = u64::try_from(now.as_second() - since.as_second()).unwrap_or_default();
    let whole = humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string();
    whole.split(' ').take(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;

    #[test]
    fn ages_have_two_units() {
        let now: Timestamp = "2026-03-03T12:00:00Z".parse().expect("a time");
        for (since, expected) in [
            ("2026-03-03T12:00:00Z", "0s"),
            ("2026-03-03T11:59:18Z", "42s"),
            ("2026-03-03T10:57:55Z", "1h2m"),
            ("2026-03-01T09:00:00Z", "2days3h"),
            ("2026-03-03T12:00:01Z", "0s"),
        ] {
            assert_eq!(age(since.parse().expect("a time"), now), expected, "{since}");
        }
    }

    #[test]
    fn documents_are_the_protocol() {
        let status = sample::status();
        let json = document(&status, Form::Json).expect("JSON");
        let read: isolate_agent::control::protocol::Status = serde_json::from_str(&json).expect("the same type");
        assert_eq!(read.isolations[0].hooks, status.isolations[0].hooks);
        let yaml = document(&status, Form::Yaml).expect("YAML");
        assert!(yaml.contains("coverage: partial\n"), "{yaml}");
        assert_eq!(word(&isolate_agent::control::protocol::HookState::NotApplicable), "not_applicable");
    }
}
