//! `list`: one line for each isolated pod.

use isolate_agent::{
    control::protocol::{Code, Coverage, Isolation},
    settings::Settings,
};
use jiff::Timestamp;

use super::{
    CliError,
    backend::Backend,
    output::{self, Cell, Style, Tint},
};
use crate::args::{Form, List, Listing};

pub(crate) async fn run(args: &List, settings: Settings) -> Result<Code, CliError> {
    let status = Backend::open(settings).await?.status().await?;
    let text = match args.output {
        Listing::Table | Listing::Wide => {
            let style = Style::of_stdout();
            table(&status.isolations, status.taken_at, args.output == Listing::Wide, style)
        }
        Listing::Json => output::document(&status.isolations, Form::Json)?,
        Listing::Yaml => output::document(&status.isolations, Form::Yaml)?,
        Listing::Name => output::lines(status.isolations.iter().map(|isolation| isolation.uid.as_str())),
    };
    output::print(&text)?;
    for warning in &status.warnings {
        output::warn(warning);
    }
    Ok(Code::Done)
}

fn table(isolations: &[Isolation], now: Timestamp, wide: bool, style: Style) -> String {
    if isolations.is_empty() && style.terminal {
        return "No pod is isolated.\n".to_owned();
    }
    let mut header = vec!["UID", "POD", "SINCE", "UNTIL", "BY", "COVERAGE", "DROPPED", "REASON"];
    if wide {
        header.extend(["IN", "OUT", "LOOPBACK", "PROBES", "ALLOWED", "RECORD", "ADDRESSES", "HOOKS", "OPEN"]);
    }
    let rows = isolations.iter().map(|isolation| row(isolation, now, wide)).collect();
    output::table(&header, rows, style)
}

fn row(isolation: &Isolation, now: Timestamp, wide: bool) -> Vec<Cell> {
    let dropped = |direction: Option<&str>| -> u64 {
        let counted = isolation.drops.iter().filter(|drops| direction.is_none_or(|wanted| drops.direction == wanted));
        counted.map(|drops| drops.packets).sum()
    };
    let mut row = vec![
        Cell::from(isolation.uid.as_str()),
        Cell::from(isolation.pod().unwrap_or_else(|| "-".to_owned())),
        Cell::from(output::age(isolation.since, now)),
        Cell::from(isolation.until.map_or_else(|| "-".to_owned(), |until| left(until, now))),
        Cell::from(isolation.by.as_str()),
        coverage(isolation.coverage),
        Cell::from(dropped(None).to_string()),
        Cell::from(isolation.reason.as_deref().unwrap_or("-")),
    ];
    if wide {
        let hooks = isolation
            .hooks
            .iter()
            .map(|hook| format!("{}/{}@{}={}", hook.hook, hook.direction, hook.place, output::word(&hook.state)));
        let hooks: Vec<String> = hooks.collect();
        let ports: Vec<String> = isolation.probe_ports.iter().map(ToString::to_string).collect();
        row.extend([
            Cell::from(dropped(Some("in")).to_string()),
            Cell::from(dropped(Some("out")).to_string()),
            Cell::from(if isolation.keep_loopback { "kept" } else { "cut" }),
            Cell::from(output::or_dash(ports.join(","))),
            Cell::from(output::or_dash(isolation.allow.join(" "))),
            Cell::from(output::word(&isolation.record)),
            Cell::from(output::or_dash(isolation.ips.join(" "))),
            Cell::from(output::or_dash(hooks.join(" "))),
            Cell::from(output::or_dash(isolation.open.join("; "))),
        ]);
    }
    row
}

/// How long an isolation still lasts.
pub(crate) fn left(until: Timestamp, now: Timestamp) -> String {
    // The daemon releases within a pass; without one it waits for the next.
    if until <= now { "ended".to_owned() } else { format!("in {}", output::age(now, until)) }
}

/// How far a pod is covered, in its colour.
pub(crate) fn coverage(coverage: Coverage) -> Cell {
    let tint = match coverage {
        Coverage::Full => Tint::Good,
        Coverage::Partial => Tint::Bad,
        Coverage::Absent => Tint::Faint,
    };
    Cell::tinted(output::word(&coverage), tint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;

    const PIPE: Style = Style { terminal: false, colour: false, width: None };

    #[test]
    fn a_pipe_gets_whole_fields_between_tabs() {
        let status = sample::status();
        let text = table(&status.isolations, status.taken_at, false, PIPE);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!(lines[0], ["UID", "POD", "SINCE", "UNTIL", "BY", "COVERAGE", "DROPPED", "REASON"]);
        let by = "alice (uid 0) with isolate-agent, pid 123";
        let reason = sample::LONG_REASON;
        assert_eq!(
            lines[1],
            ["0f0e0d0c-1234-4000-8000-0123456789ab", "default/web-0", "1h2m", "in 1h", by, "partial", "42", reason]
        );
        assert_eq!(lines.len(), 2);
        let wide = table(&status.isolations, status.taken_at, true, PIPE);
        assert!(wide.lines().all(|line| line.split('\t').count() == 17), "{wide}");
        assert!(!wide.contains('\x1b'));
    }

    #[test]
    fn a_terminal_gets_columns_and_colour() {
        let status = sample::status();
        let style = Style { terminal: true, colour: true, width: Some(200) };
        let text = table(&status.isolations, status.taken_at, false, style);
        assert!(!text.contains('\t'), "{text:?}");
        assert!(text.contains("\x1b["), "{text:?}");
        let plain = table(&status.isolations, status.taken_at, false, Style { colour: false, ..style });
        assert!(!plain.contains('\x1b'), "NO_COLOR: {plain:?}");
        let column = |line: &str, word: &str| line.find(word).expect("the word stands in the line");
        let mut lines = plain.lines();
        let (header, row) = (lines.next().expect("a header"), lines.next().expect("a row"));
        assert_eq!(column(header, "COVERAGE"), column(row, "partial"), "{plain}");
    }

    #[test]
    fn a_narrow_terminal_keeps_the_uid_whole() {
        let status = sample::status();
        let style = Style { terminal: true, colour: true, width: Some(80) };
        let text = table(&status.isolations, status.taken_at, false, style);
        assert!(text.contains("0f0e0d0c-1234-4000-8000-0123456789ab"), "{text}");
        let plain = table(&status.isolations, status.taken_at, false, Style { colour: false, ..style });
        assert!(plain.lines().all(|line| line.chars().count() <= 80), "{plain}");
    }

    #[test]
    fn an_empty_list_is_said_to_a_person_only() {
        let now = sample::status().taken_at;
        assert_eq!(table(&[], now, false, PIPE), "UID\tPOD\tSINCE\tUNTIL\tBY\tCOVERAGE\tDROPPED\tREASON\n");
        let person = table(&[], now, false, Style { terminal: true, ..PIPE });
        assert_eq!(person, "No pod is isolated.\n");
    }
}
