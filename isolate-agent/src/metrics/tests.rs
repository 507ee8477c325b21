//! What a scrape says of a known node.

use std::time::Instant;

use isolate_common::{DIRECTIONS, Hook, KernelError};
use jiff::Timestamp;

use super::*;
use crate::control::protocol::{
    Coverage, Drops, Exempted, HookState, HookStatus, Isolation, KernelErrorCount, Record, Unarmed, UnarmedReason,
};

/// A node with so many isolated pods, each with every hook.
pub(super) fn mk_status(isolated: u32) -> Status {
    Status {
        taken_at: Timestamp::UNIX_EPOCH,
        version: "1.2.3".to_owned(),
        isolations: (0..isolated).map(mk_isolation).collect(),
        pods: 110,
        pods_armed: 100,
        unarmed: vec![Unarmed { uid: uid(7), pod: None, reason: UnarmedReason::HostNetwork, detail: String::new() }],
        kernel_errors: vec![KernelErrorCount { error: KernelError::NoGate.name().to_owned(), count: 3 }],
        runtime: None,
        warnings: vec!["a record cannot be read".to_owned()],
    }
}

fn uid(index: u32) -> String {
    format!("{index:08x}-1234-4000-8000-0123456789ab")
}

fn mk_isolation(index: u32) -> Isolation {
    let places = || HOOKS.into_iter().flat_map(|hook| DIRECTIONS.map(|direction| (hook, direction)));
    Isolation {
        uid: uid(index),
        namespace: None,
        name: None,
        labels: std::collections::BTreeMap::new(),
        ips: Vec::new(),
        present: true,
        host_network: false,
        reason: None,
        by: "root".to_owned(),
        since: Timestamp::UNIX_EPOCH,
        keep_loopback: false,
        probe_ports: Vec::new(),
        allow: Vec::new(),
        until: None,
        record: Record::Saved,
        coverage: Coverage::Full,
        open: Vec::new(),
        hooks: places()
            .map(|(hook, direction)| HookStatus {
                hook: hook.name().into(),
                direction: direction.name().into(),
                place: "".into(),
                state: HookState::Holding,
                detail: None,
            })
            .collect(),
        exempted: vec![Exempted {
            exemption: "probe".into(),
            hook: "veth".into(),
            direction: "in".into(),
            packets: 3,
            bytes: 300,
        }],
        drops: places()
            .map(|(hook, direction)| Drops {
                hook: hook.name().into(),
                direction: direction.name().into(),
                packets: 5,
                bytes: 500,
            })
            .collect(),
    }
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
}

#[test]
fn every_family_has_its_type_and_help_even_with_nothing_isolated() {
    let text = Metrics::new(SocketCounters::default()).encode(&mk_status(0));
    for family in Family::ALL {
        let Descriptor { kind, unit, help, .. } = family.descriptor();
        let sample = family.sample_name();
        let name = sample.trim_end_matches("_total").trim_end_matches("_info");
        has(&text, &format!("# HELP {name} {help}"));
        has(&text, &format!("# TYPE {name} {}", kind.name()));
        if let Some(unit) = unit {
            has(&text, &format!("# UNIT {name} {unit}"));
        }
    }
    assert!(text.ends_with("# EOF\n"));
    assert!(!text.contains("pod_uid="), "{text}");
}

#[test]
fn the_status_is_told_as_it_is() {
    let mut status = mk_status(2);
    let broken = &mut status.isolations[1];
    broken.coverage = Coverage::Partial;
    broken.record = Record::Unsaved;
    broken.hooks.iter_mut().for_each(|hook| match &*hook.hook {
        "cgroup" => hook.state = HookState::NotApplicable,
        _ => hook.place = "veth0".into(),
    });
    // A second interface, one direction of which is gone.
    broken.hooks.push(HookStatus {
        hook: "veth".into(),
        direction: "in".into(),
        place: "veth1".into(),
        state: HookState::Missing,
        detail: None,
    });
    let text = Metrics::new(SocketCounters::default()).encode(&status);

    has(&text, "isolate_isolated_pods 2");
    let (whole, broken) = (uid(0), uid(1));
    has(&text, &format!("isolate_pod_coverage{{pod_uid=\"{whole}\",coverage=\"full\"}} 1"));
    has(&text, &format!("isolate_pod_coverage{{pod_uid=\"{broken}\",coverage=\"full\"}} 0"));
    has(&text, &format!("isolate_pod_coverage{{pod_uid=\"{broken}\",coverage=\"partial\"}} 1"));
    has(&text, &format!("isolate_hook_attached{{pod_uid=\"{whole}\",hook=\"cgroup\",direction=\"out\"}} 1"));
    has(&text, &format!("isolate_hook_attached{{pod_uid=\"{broken}\",hook=\"veth\",direction=\"in\"}} 0"));
    has(&text, &format!("isolate_hook_attached{{pod_uid=\"{broken}\",hook=\"veth\",direction=\"out\"}} 1"));
    assert!(!text.contains(&format!("isolate_hook_attached{{pod_uid=\"{broken}\",hook=\"cgroup\"")), "{text}");
    has(&text, &format!("isolate_dropped_packets_total{{pod_uid=\"{whole}\",direction=\"in\",hook=\"veth\"}} 5"));
    has(&text, &format!("isolate_dropped_bytes_total{{pod_uid=\"{whole}\",direction=\"out\",hook=\"cgroup\"}} 500"));
    let exempted =
        |exemption| format!("{{pod_uid=\"{whole}\",direction=\"in\",hook=\"veth\",exemption=\"{exemption}\"}}");
    has(&text, &format!("isolate_exempted_packets_total{} 3", exempted("probe")));
    has(&text, &format!("isolate_exempted_bytes_total{} 300", exempted("probe")));
    has(&text, &format!("isolate_exempted_packets_total{} 0", exempted("allow")));
    has(&text, "isolate_isolation_records{record=\"unsaved\"} 1");
    has(&text, "isolate_pods 110");
    has(&text, "isolate_pods_armed 100");
    has(&text, "isolate_pods_unarmed{reason=\"host_network\"} 1");
    has(&text, "isolate_pods_unarmed{reason=\"attach_failed\"} 0");
    has(&text, "isolate_kernel_errors_total{error=\"no_gate\"} 3");
    has(&text, "isolate_kernel_errors_total{error=\"key_without_policy\"} 0");
    has(&text, "isolate_warnings 1");
    let build =
        format!("isolate_build_info{{version=\"1.2.3\",revision=\"{}\",layout_version=\"4\"}} 1", crate::REVISION);
    has(&text, &build);
}

#[test]
fn label_values_are_the_words_of_the_protocol() {
    // Every reason must be counted under the word that JSON uses for it.
    for reason in [
        UnarmedReason::HostNetwork,
        UnarmedReason::NoProcess,
        UnarmedReason::NoHostEnd,
        UnarmedReason::AttachFailed,
        UnarmedReason::OnDemand,
        UnarmedReason::Pending,
    ] {
        let mut status = mk_status(0);
        status.unarmed = vec![Unarmed { uid: uid(0), pod: None, reason, detail: String::new() }];
        let word = serde_json::to_string(&reason).expect("it has a word");
        has(
            &Metrics::new(SocketCounters::default()).encode(&status),
            &format!("isolate_pods_unarmed{{reason={word}}} 1"),
        );
    }
}

#[test]
fn what_the_loop_feeds_is_told() {
    let socket = SocketCounters::default();
    let metrics = Metrics::new(socket.clone());
    assert!(!metrics.encode(&mk_status(0)).contains("\nisolate_reconcile_last_pass_seconds "), "no pass yet");
    metrics.pass_finished(Duration::from_millis(3), &Ok::<(), ()>(()));
    metrics.clone().pass_finished(Duration::from_secs(2), &Err::<(), _>("a link is gone"));
    metrics.enforced(Duration::from_micros(60));
    metrics.repaired(Repaired::Hook(Hook::Veth));
    metrics.repaired(Repaired::Pin);
    socket.refused_peers.inc();
    let text = metrics.encode(&mk_status(0));
    has(&text, "isolate_reconcile_passes_total 2");
    has(&text, "isolate_reconcile_failures_total 1");
    has(&text, "isolate_reconcile_duration_seconds_bucket{le=\"0.005\"} 1");
    has(&text, "isolate_reconcile_duration_seconds_count 2");
    has(&text, "isolate_enforcement_duration_seconds_bucket{le=\"0.00005\"} 0");
    has(&text, "isolate_enforcement_duration_seconds_bucket{le=\"0.0001\"} 1");
    has(&text, "isolate_hook_repairs_total{hook=\"veth\"} 1");
    has(&text, "isolate_hook_repairs_total{hook=\"cgroup\"} 0");
    has(&text, "isolate_state_repairs_total{what=\"pin\"} 1");
    has(&text, "isolate_state_repairs_total{what=\"entry\"} 0");
    has(&text, "isolate_denied_peers_total 1");
    assert!(text.contains("\nisolate_reconcile_last_pass_seconds 1"), "{text}");
}

#[test]
fn a_thousand_isolated_pods_are_told_quickly_and_no_series_twice() {
    let status = mk_status(1000);
    let started = Instant::now();
    let text = Metrics::new(SocketCounters::default()).encode(&status);
    let took = started.elapsed();
    eprintln!("1000 isolated pods: {} bytes in {took:?}", text.len());
    // A few ms when optimised; the bound is for an unoptimised build on a busy machine.
    assert!(took < Duration::from_secs(2), "{took:?}");
    let mut series: Vec<&str> = text.lines().filter_map(|line| line.rsplit_once(' ').map(|(name, _)| name)).collect();
    let all = series.len();
    series.sort_unstable();
    series.dedup();
    assert_eq!(series.len(), all);
}
