//! The journal of what happened to isolations: one JSON object a line, bounded. History for people; decides nothing.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::pod::{PodName, PodUid};

/// A journal of this size becomes the old one, and the old one goes: some thousand events each.
const MAX_BYTES: u64 = 1 << 20;

/// What happened to an isolation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It was asked for, and the pod was cut.
    Isolated,
    /// It was asked for again, with other options or another reason.
    Updated,
    /// Somebody released the pod.
    Released,
    /// Its time was over, and the agent released the pod.
    Expired,
    /// The kernel held it and no record did.
    Recovered,
    /// A hook that has to hold does not.
    HookLost,
    /// A hook that did not hold was put back.
    HookRepaired,
    /// The pod left the node so long ago that its record was deleted.
    RecordExpired,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// To which pod.
    pub uid: PodUid,
    /// Its name, where that was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// What.
    pub kind: Kind,
    /// Who asked for it; none for what the agent does by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// More, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The journal: `events.jsonl` and `events.old.jsonl` in the state folder.
#[derive(Clone, Debug)]
pub struct Journal {
    current: PathBuf,
    old: PathBuf,
}

impl Journal {
    /// The journal of the agent with this state folder. Opens nothing yet.
    pub fn new(state_dir: &Path) -> Self {
        Self { current: state_dir.join("events.jsonl"), old: state_dir.join("events.old.jsonl") }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.current
    }

    /// Its files.
    pub fn files(&self) -> [PathBuf; 2] {
        [self.current.clone(), self.old.clone()]
    }

    /// Adds an event. Not synced: no promise hangs on it, and no cut waits for it.
    pub fn append(&self, event: &Event) -> io::Result<()> {
        if fs::metadata(&self.current).is_ok_and(|file| file.len() >= MAX_BYTES) {
            fs::rename(&self.current, &self.old)?;
        }
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        File::options().append(true).create(true).mode(0o600).open(&self.current)?.write_all(&line)
    }

    /// All events, oldest first. Lines that are no event (one that a crash cut short) are passed over.
    pub fn read(&self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        for path in [&self.old, &self.current] {
            match fs::read(path) {
                Ok(bytes) => {
                    let lines = bytes.split(|&byte| byte == b'\n');
                    events.extend(lines.filter_map(|line| serde_json::from_slice::<Event>(line).ok()));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(detail: &str) -> Event {
        Event {
            at: "2026-01-02T03:04:05Z".parse().expect("a time"),
            uid: "0f0e0d0c-1234-4000-8000-0123456789ab".parse().expect("a UID"),
            pod: None,
            kind: Kind::Isolated,
            by: Some("alice".to_owned()),
            detail: Some(detail.to_owned()),
        }
    }

    fn journal() -> (tempfile::TempDir, Journal) {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = Journal::new(dir.path());
        (dir, journal)
    }

    #[test]
    fn what_is_added_is_read_in_order() {
        let (_dir, journal) = journal();
        assert_eq!(journal.read().expect("an absent journal is empty"), []);
        let events = ["first", "second\nline", "third"].map(event);
        for event in &events {
            journal.append(event).expect("added");
        }
        assert_eq!(journal.read().expect("read"), events);
    }

    #[test]
    fn a_line_that_was_cut_short_hides_no_other() {
        let (_dir, journal) = journal();
        journal.append(&event("whole")).expect("added");
        let text = fs::read_to_string(journal.path()).expect("read");
        let half: String = text.chars().take(text.len() / 2).collect();
        fs::write(journal.path(), format!("{half}\n{text}")).expect("written");
        assert_eq!(journal.read().expect("read"), [event("whole")]);
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let (dir, journal) = journal();
        let long = event(&"x".repeat(100 << 10));
        for _ in 0..40 {
            journal.append(&long).expect("added");
        }
        let bytes: u64 = fs::read_dir(dir.path())
            .expect("listed")
            .map(|file| file.expect("listed").metadata().expect("there").len())
            .sum();
        assert!(bytes < 3 * MAX_BYTES, "{bytes}");
        journal.append(&event("last")).expect("added");
        assert_eq!(journal.read().expect("read").last(), Some(&event("last")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (_dir, journal) = journal();
            fs::write(journal.path(), bytes).expect("written");
            journal.read().expect("read");
        }
    }
}
