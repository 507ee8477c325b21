//! `docs/guarantees.md`: every test that it names is one.

use std::{collections::BTreeSet, fs, sync::OnceLock};

use crate::suite::trials;

trials![every_promise_names_tests_that_exist];

/// The names of all tests, noted before any runs.
pub(crate) static NAMES: OnceLock<BTreeSet<String>> = OnceLock::new();

fn every_promise_names_tests_that_exist() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guarantees.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let known = NAMES.get().expect("they are noted before any test runs");
    let named: BTreeSet<&str> = page.split('`').skip(1).step_by(2).filter(|text| text.contains("::")).collect();
    assert!(named.len() > 30, "the page is read wrongly: {named:?}");
    let unknown: Vec<_> = named.iter().filter(|name| !known.contains(**name)).collect();
    assert!(unknown.is_empty(), "docs/guarantees.md names tests that do not exist: {unknown:?}");
    for row in page.lines().filter(|line| line.starts_with("| ") && line.matches(" | ").count() == 2) {
        let is_head = row.starts_with("| promise") || row.starts_with("| | how");
        let shown = row.rsplit(" | ").next().is_some_and(|last| last.contains('`') || last.trim() == "|");
        assert!(is_head || shown, "a promise that no test shows: {row}");
    }
}
