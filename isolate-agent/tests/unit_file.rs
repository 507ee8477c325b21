//! The systemd unit, as `systemd-analyze` reads it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const UNIT: &str = "isolate-agent.service";
const BINARY: &str = "/usr/local/bin/isolate-agent daemon";
/// 10 is a service without any restriction. It was 3.2 when the unit was written, and is 3.6 since `verify` needs packet
/// sockets and a cgroup to make sockets in.
const MOST_EXPOSURE: f32 = 3.7;

/// The unit with a binary that is installed everywhere: whether ours is, is not what is tested.
fn mk_unit(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(UNIT);
    let text = fs::read_to_string(source).expect("the unit is committed");
    assert!(text.contains(BINARY), "the unit starts the daemon");
    let path = folder.join(UNIT);
    fs::write(&path, text.replace(BINARY, "/bin/true")).expect("the copy can be written");
    path
}

/// What `systemd-analyze` says of the unit, and whether it is content; none where it is not installed.
fn analyze(arguments: &[&str]) -> Option<(String, bool)> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new("systemd-analyze").args(arguments).arg(mk_unit(folder.path())).output();
    let Ok(output) = output else {
        eprintln!("skipped: systemd-analyze (package systemd) is not installed");
        return None;
    };
    let said = [output.stdout, output.stderr].concat();
    Some((String::from_utf8_lossy(&said).into_owned(), output.status.success()))
}

#[test]
fn systemd_reads_every_line_of_the_unit() {
    if let Some((said, content)) = analyze(&["verify"]) {
        assert!(content && !said.contains(UNIT), "{said}");
    }
}

#[test]
fn the_unit_stays_as_confined_as_it_was() {
    let Some((said, content)) = analyze(&["security", "--offline=yes", "--no-pager"]) else {
        return;
    };
    assert!(content, "{said}");
    let overall = said.lines().find(|line| line.contains("Overall exposure level")).expect("it ends with a sum");
    let exposure: f32 =
        overall.split_whitespace().find_map(|word| word.parse().ok()).expect("the sum has one number in it");
    assert!(exposure <= MOST_EXPOSURE, "{said}");
}
