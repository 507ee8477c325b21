//! What a scrape says of a known node.

use std::time::Instant;

use isolate_common::{Counter, DIRECTIONS, Direction, Exemption, Hook, KernelError, SlotCounters};
use jiff::Timestamp;

use super::*;
use crate::{
    control::protocol::{Coverage, Record, UnarmedReason},
    pod::PodUid,
    status::PodFigures,
};

/// A node with so many isolated pods, each with every hook.
pub(super) fn mk_figures(isolated: u32) -> Figures {
    Figures {
        isolations: (0..isolated).map(mk_isolation).collect(),
        pods: 110,
        pods_armed: 100,
        unarmed: vec![UnarmedReason::HostNetwork],
        kernel_errors: vec![(KernelError::NoGate, 3)],
        warnings: 1,
    }
}

fn uid(index: u32) -> PodUid {
    format!("{index:08x}-1234-4000-8000-0123456789ab").parse().expect("a UID")
}

fn mk_isolation(index: u32) -> PodFigures {
    let dropped = [[Counter { packets: 5, bytes: 500 }; DIRECTIONS.len()]; HOOKS.len()];
    let mut counters = SlotCounters { dropped, ..SlotCounters::default() };
    let place = (Exemption::Probe as usize, Hook::Veth as usize, Direction::In as usize);
    counters.exempted[place.0][place.1][place.2] = Counter { packets: 3, bytes: 300 };
    PodFigures {
        uid: uid(index),
        since: Timestamp::UNIX_EPOCH,
        record: Record::Saved,
        coverage: Coverage::Full,
        hold: [[Some(true); DIRECTIONS.len()]; HOOKS.len()],
        counters,
    }
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
}

#[test]
fn every_family_has_its_type_and_help_even_with_nothing_isolated() {
    let text = Metrics::new(SocketCounters::default()).encode(&mk_figures(0));
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
fn the_figures_are_told_as_they_are() {
    let mut figures = mk_figures(2);
    let broken = &mut figures.isolations[1];
    broken.coverage = Coverage::Partial;
    broken.record = Record::Unsaved;
    broken.hold[Hook::Cgroup as usize] = [None; DIRECTIONS.len()];
    broken.hold[Hook::Veth as usize][Direction::In as usize] = Some(false);
    let text = Metrics::new(SocketCounters::default()).encode(&figures);

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
    let (version, revision) = (env!("CARGO_PKG_VERSION"), crate::REVISION);
    let build = format!("isolate_build_info{{version=\"{version}\",revision=\"{revision}\",layout_version=\"4\"}} 1");
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
        let figures = Figures { unarmed: vec![reason], ..mk_figures(0) };
        let word = serde_json::to_string(&reason).expect("it has a word");
        has(
            &Metrics::new(SocketCounters::default()).encode(&figures),
            &format!("isolate_pods_unarmed{{reason={word}}} 1"),
        );
    }
}

#[test]
fn what_the_loop_feeds_is_told() {
    let socket = SocketCounters::default();
    let metrics = Metrics::new(socket.clone());
    assert!(!metrics.encode(&mk_figures(0)).contains("\nisolate_reconcile_last_pass_seconds "), "no pass yet");
    metrics.pass_finished(Duration::from_millis(3), &Ok::<(), ()>(()));
    metrics.clone().pass_finished(Duration::from_secs(2), &Err::<(), _>("a link is gone"));
    metrics.enforced(Duration::from_micros(60));
    metrics.repaired(Repaired::Hook(Hook::Veth));
    metrics.repaired(Repaired::Pin);
    socket.refused_peers.inc();
    let text = metrics.encode(&mk_figures(0));
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
    let figures = mk_figures(1000);
    let started = Instant::now();
    let text = Metrics::new(SocketCounters::default()).encode(&figures);
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
