//! The probes on the machine that runs the tests, whatever it offers.

use std::fs;

use super::*;
use crate::settings::{Arm, DEFAULT_MAX_ISOLATED, LogFormat, VethHook};

fn mk_settings(root: &std::path::Path) -> Settings {
    Settings {
        run_dir: root.join("run"),
        state_dir: root.join("state"),
        bpffs: root.join("bpf/isolate-agent"),
        cgroup_root: None,
        cri_endpoint: None,
        kubelet_cgroup: None,
        nri: false,
        nri_socket: root.join("nri.sock"),
        max_isolated: DEFAULT_MAX_ISOLATED,
        metrics_addr: ([127, 0, 0, 1], 9477).into(),
        arm: Arm::All,
        veth_hook: VethHook::Auto,
        log_format: LogFormat::Text,
        retention: std::time::Duration::from_hours(1),
        kubelet: None,
    }
}

fn finding<'a>(report: &'a Report, name: &str) -> &'a Finding {
    report.findings.iter().find(|finding| finding.name == name).expect(name)
}

#[tokio::test]
async fn tells_everything_and_changes_nothing() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let report = examine(&mk_settings(root.path())).await;
    for name in
        ["user", "cap-bpf", "kernel", "veth-hook", "cgroup-links", "cgroup-version", "bpffs", "state-dir", "daemon"]
    {
        assert!(!finding(&report, name).value.is_empty());
    }
    for found in &report.findings {
        assert_eq!(found.fix.is_some(), found.state != State::Ok, "{found:?}");
        assert!(report.findings.iter().filter(|other| other.name == found.name).count() == 1, "{found:?} twice");
    }
    assert_eq!(report.findings.iter().map(|found| found.state).max(), Some(report.state));
    assert_eq!(fs::read_dir(root.path()).expect("it is there").count(), 0, "something was made");
}

#[tokio::test]
async fn a_folder_that_is_not_bpffs_and_a_wrong_cgroup_root_are_named() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let settings = Settings { cgroup_root: Some(root.path().to_owned()), ..mk_settings(root.path()) };
    let report = examine(&settings).await;
    assert_eq!(finding(&report, "bpffs").state, State::Warn);
    let cgroup = finding(&report, "cgroup-version");
    assert_eq!(cgroup.state, State::Fail);
    assert!(cgroup.value.contains(&root.path().display().to_string()), "{cgroup:?}");
    assert_eq!(report.state, State::Fail);
}
