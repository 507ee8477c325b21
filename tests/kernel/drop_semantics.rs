//! What a process in the pod sees, side by side with the usual way: `iptables -j DROP` in INPUT and OUTPUT of its namespace.
//!
//! Writes docs/drop-semantics.md with `ISOLATE_BLESS=1`, and otherwise checks that it is current.

mod calls;

use std::{env, fmt::Write as _, fs, path::Path, process::Command};

use isolate_tests::{launch, program};

use crate::{scene::Scene, suite::trials};
use calls::{Call, FRAME, before_and_after};

trials![the_table_is_current needs Iptables];

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/drop-semantics.md");

/// Calls that succeed whatever becomes of the packet.
const UNNOTICED: [&str; 2] = ["`send` on an established stream", FRAME];

const INTRODUCTION: &str = "\
# What a process in an isolated pod sees

<!-- Made by `ISOLATE_BLESS=1 cargo test -p isolate-tests --test kernel -- drop_semantics`; do not edit. -->

The same calls in two pods, before and after each is cut off: one with `iptables -A INPUT -j DROP; iptables -A OUTPUT -j
DROP` in its network namespace, the other with `isolate-agent add`. Every socket has a timeout of half a second: *hangs* means
that the call blocks until then, *at once* that it returns long before. Unless it says otherwise a call is made in the pod,
with IPv4.

Rows of the first table must not differ; those of the second are what iptables leaves open. Where the kernel takes BPF LSM
programs, the packet socket is refused: `EPERM` at once.
";

fn the_table_is_current() {
    let with_iptables = before_and_after(|scene| {
        for chain in ["INPUT", "OUTPUT"] {
            let rule = ["iptables", "-w", "-A", chain, "-j", "DROP"];
            launch::succeed(Command::new("nsenter").arg(format!("--net={}", netns(scene))).args(rule));
        }
    });
    let isolated = before_and_after(|scene| {
        scene.agent.add(&[scene.web.uid()]);
    });
    let mut rows: Vec<Row> = with_iptables.into_iter().zip(isolated).map(|(usual, ours)| Row { usual, ours }).collect();
    if program::lsm_missing().is_none() {
        let frame = rows.iter_mut().find(|row| row.ours.what == FRAME).expect("it is one of the calls");
        assert_eq!(frame.ours.after, "EPERM at once");
        frame.ours.after.clone_from(&frame.ours.before);
    }
    for row in &rows {
        assert_eq!(row.usual.what, row.ours.what);
        assert_eq!(row.usual.before, row.ours.before, "{}: the two pods differ before they are cut", row.usual.what);
        let unchanged = row.ours.after == row.ours.before;
        assert_eq!(unchanged, UNNOTICED.contains(&row.ours.what), "{}: {}", row.ours.what, row.ours.after);
        let expected = if row.usual.beyond_iptables { &row.usual.before } else { &row.ours.after };
        assert_eq!(&row.usual.after, expected, "{}, with iptables", row.usual.what);
    }
    let document = document(&rows);
    if env::var_os("ISOLATE_BLESS").is_some() {
        fs::create_dir_all(Path::new(DOCUMENT).parent().expect("it lies in a folder")).expect("docs can be made");
        fs::write(DOCUMENT, &document).expect("docs can be written");
    }
    let current = fs::read_to_string(DOCUMENT).unwrap_or_default();
    assert!(
        current == document,
        "docs/drop-semantics.md is not current: set ISOLATE_BLESS=1. It should be:\n{document}"
    );
}

struct Row {
    usual: Call,
    ours: Call,
}

fn document(rows: &[Row]) -> String {
    let mut text = INTRODUCTION.to_owned();
    for beyond_iptables in [false, true] {
        text.push_str("\n| call | before | iptables | isolate |\n|---|---|---|---|\n");
        for Row { usual, ours } in rows.iter().filter(|row| row.usual.beyond_iptables == beyond_iptables) {
            let (what, before) = (usual.what, &usual.before);
            writeln!(text, "| {what} | {before} | {} | {} |", usual.after, ours.after).expect("a string takes it");
        }
    }
    text
}

fn netns(scene: &Scene) -> String {
    scene.web.netns().path().display().to_string()
}
