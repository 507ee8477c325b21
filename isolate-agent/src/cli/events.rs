//! `events`: what happened to isolations. Reads the journal itself: it takes neither a daemon nor the lock.

use isolate_agent::{
    control::protocol::Code,
    events::{Event, Journal},
    pod::PodQuery,
    settings::Settings,
};

use super::{
    CliError,
    output::{self, Cell, Style},
};
use crate::args::{EventsOf, Form};

pub(crate) fn run(args: &EventsOf, settings: &Settings) -> Result<Code, CliError> {
    let query = args.uid.as_ref().map(|text| text.parse::<PodQuery>()).transpose()?;
    let journal = Journal::new(&settings.state_dir);
    let mut events = journal.read().map_err(|source| CliError::Journal { path: journal.path().to_owned(), source })?;
    events.retain(|event| match &query {
        None => true,
        Some(PodQuery::Uid(query)) => query.matches(&event.uid),
        Some(PodQuery::Name(name)) => event.pod.as_ref() == Some(name),
    });
    let text = match args.output {
        Form::Text => table(&events, Style::of_stdout()),
        form => output::document(&events, form)?,
    };
    output::print(&text)?;
    Ok(Code::Done)
}

fn table(events: &[Event], style: Style) -> String {
    let rows = events.iter().map(|event| {
        vec![
            Cell::from(event.uid.to_string()),
            Cell::from(event.pod.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)),
            Cell::from(format!("{:.0}", event.at)),
            Cell::from(output::word(&event.kind)),
            Cell::from(event.by.as_deref().unwrap_or("-")),
            Cell::from(event.detail.as_deref().unwrap_or("-")),
        ]
    });
    output::table(&["UID", "POD", "TIME", "EVENT", "BY", "DETAIL"], rows.collect(), style)
}

#[cfg(test)]
mod tests {
    use isolate_agent::events::Kind;

    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let event = Event {
            at: "2026-01-02T03:04:05Z".parse().expect("a time"),
            uid: "0f0e0d0c-1234-4000-8000-0123456789ab".parse().expect("a UID"),
            pod: "default/web-0".parse().ok(),
            kind: Kind::HookLost,
            by: None,
            detail: Some("veth\nx\x1b[31m".to_owned()),
        };
        let text = table(&[event], Style { terminal: false, colour: false, width: None });
        let row =
            "0f0e0d0c-1234-4000-8000-0123456789ab\tdefault/web-0\t2026-01-02T03:04:05Z\thook_lost\t-\tveth?x?[31m\n";
        assert_eq!(text, format!("UID\tPOD\tTIME\tEVENT\tBY\tDETAIL\n{row}"));
    }
}
