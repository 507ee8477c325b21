//! Records are written whole, read or isolate strictly.

use std::collections::BTreeSet;

use isolate_common::PolicyFlags;
use proptest::prelude::*;

use super::*;

fn record(uid: &str) -> Record {
    Record {
        version: RECORD_VERSION,
        uid: uid.parse().expect("a UID"),
        pod: "default/web-0".parse().ok(),
        since: "2026-01-02T03:04:05Z".parse().expect("a time"),
        by: "alice".into(),
        reason: Some("beacons".into()),
        keep_loopback: true,
        probe_ports: BTreeSet::new(),
        allow: Vec::new(),
        limit: None,
    }
}

const UID: &str = "0f0e0d0c-1234-4000-8000-0123456789ab";

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, made) = Store::open(dir.path());
    made.expect("made");
    (dir, store)
}

#[test]
fn what_is_saved_is_loaded_and_what_is_deleted_is_not() {
    let (dir, store) = store();
    let record = record(UID);
    store.save(&record).expect("saved");
    assert_eq!(store.load().expect("loaded"), Desired::from([(record.uid, Entry::Saved(record.clone()))]));
    assert_eq!(Store::recorded(dir.path()), [record.uid]);
    store.delete(&record.uid).expect("deleted");
    store.delete(&record.uid).expect("absent is fine");
    assert_eq!(store.load().expect("loaded"), Desired::new());
}

#[test]
fn many_are_saved_at_once_and_each_failure_is_told() {
    let (_dir, store) = store();
    let uid = |number: usize| format!("{number:08x}-1234-4000-8000-0123456789ab");
    let records: Vec<Record> = (0..21).map(|number| record(&uid(number))).collect();
    fs::create_dir(store.path(&records[17].uid)).expect("a folder in the place of a record");
    let saved = store.save_all(&records);
    let failed: Vec<usize> = (0..21).filter(|number| saved[*number].is_err()).collect();
    assert_eq!((saved.len(), failed), (21, vec![17]));
    let loaded = store.load().expect("loaded");
    assert_eq!(loaded.values().filter(|entry| matches!(entry, Entry::Saved(_))).count(), 20);
    assert!(store.save_all(&[]).is_empty());
}

#[test]
fn a_record_that_cannot_be_read_isolates_strictly() {
    let (_dir, store) = store();
    let mut whole = record(UID);
    let uid = whole.uid;
    let text = serde_json::to_string(&whole).expect("JSON");
    whole.version = RECORD_VERSION + 1;
    let future = serde_json::to_string(&whole).expect("JSON");
    let other = text.replace("0f0e0d0c-", "0f0e0d0d-");
    let unknown = text.replace("\"by\"", "\"shade\":1,\"by\"");
    let half: String = text.chars().take(text.len() / 2).collect();
    for broken in ["", "{", &half, &future, &other, &unknown, "[1]", "\0\0\0\0"] {
        fs::write(store.path(&uid), broken).expect("written");
        let entry = &store.load().expect("loaded")[&uid];
        assert!(matches!(entry, Entry::Unreadable { .. }), "{broken:?} is {entry:?}");
        assert!(!entry.policy(&uid).flags.contains(PolicyFlags::KEEP_LOOPBACK));
        assert!(entry.policy(&uid).is_in_use());
    }
}

#[test]
fn what_is_no_record_is_left_alone() {
    let (_dir, store) = store();
    for name in ["notes.txt", "abc.json", "0f0e0d0c-1234-4000-8000-0123456789ab.json.new"] {
        fs::write(store.folder.join(name), "x").expect("written");
    }
    assert_eq!(store.load().expect("loaded"), Desired::new());
}

proptest! {
    #[test]
    fn any_file_is_read_or_isolates(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (_dir, store) = store();
        let uid = record(UID).uid;
        fs::write(store.path(&uid), bytes).expect("written");
        prop_assert!(store.load().expect("loaded").contains_key(&uid));
    }
}
