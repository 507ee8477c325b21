//! `doctor`: what this node offers, what that means and what to fix.

use std::io::{self, Write};

use isolate_agent::{
    control::protocol::Code,
    doctor::{self, Finding, Report, State},
    settings::Settings,
};

use super::{
    CliError,
    output::{self, Style},
};
use crate::args::{Doctor, Form};

/// Fails when something keeps pods from being isolated.
pub(crate) async fn run(args: &Doctor, settings: &Settings) -> Result<Code, CliError> {
    let report = doctor::examine(settings).await;
    let text = match args.output {
        Form::Text => {
            let mut text = Vec::new();
            write_text(&mut text, &report, Style::of_stdout().colour)?;
            String::from_utf8_lossy(&text).into_owned()
        }
        form => output::document(&report, form)?,
    };
    output::print(&text)?;
    Ok(if report.state == State::Fail { Code::Failed } else { Code::Done })
}

fn write_text(out: &mut impl Write, report: &Report, colour: bool) -> io::Result<()> {
    let width = report.findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    for finding in &report.findings {
        let Finding { name, state, value, meaning, fix } = finding;
        let (word, code) = word(*state);
        let (on, off) = if colour { (code, "\x1b[0m") } else { ("", "") };
        writeln!(out, "{on}{word:4}{off}  {name:width$}  {value}")?;
        let indent = width + 8;
        if *state != State::Ok {
            writeln!(out, "{:indent$}means: {meaning}", "")?;
        }
        if let Some(fix) = fix {
            writeln!(out, "{:indent$}fix:   {fix}", "")?;
        }
    }
    let count = |state: State| report.findings.iter().filter(|finding| finding.state == state).count();
    let verdict = match report.state {
        State::Ok => "pods on this node can be isolated",
        State::Warn => "pods on this node can be isolated; the warnings say what falls short",
        State::Fail => "pods on this node cannot be isolated, or not fully, before this is fixed",
    };
    let (ok, warn, fail) = (count(State::Ok), count(State::Warn), count(State::Fail));
    writeln!(out, "\n{ok} ok, {warn} to look at, {fail} in the way: {verdict}")
}

const fn word(state: State) -> (&'static str, &'static str) {
    match state {
        State::Ok => ("ok", "\x1b[32m"),
        State::Warn => ("warn", "\x1b[33m"),
        State::Fail => ("FAIL", "\x1b[1;31m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_finding(name: &'static str, state: State, fix: Option<&str>) -> Finding {
        let fix = fix.map(ToOwned::to_owned);
        Finding { name, state, value: "value".to_owned(), meaning: "meaning".to_owned(), fix }
    }

    #[test]
    fn a_pipe_gets_every_finding_and_no_colour() {
        let findings =
            vec![mk_finding("tcx", State::Ok, None), mk_finding("cap-bpf", State::Fail, Some("run as root"))];
        let report = Report { version: "1", state: State::Fail, findings };
        let mut text = Vec::new();
        write_text(&mut text, &report, false).expect("a Vec takes every write");
        let text = String::from_utf8(text).expect("text");
        assert_eq!(
            text,
            "ok    tcx      value\n\
             FAIL  cap-bpf  value\n               means: meaning\n               fix:   run as root\n\n\
             1 ok, 0 to look at, 1 in the way: pods on this node cannot be isolated, or not fully, before this is fixed\n"
        );
        let mut coloured = Vec::new();
        write_text(&mut coloured, &report, true).expect("a Vec takes every write");
        assert!(String::from_utf8_lossy(&coloured).contains("\x1b[1;31mFAIL\x1b[0m"));
    }
}
