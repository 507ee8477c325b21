//! One scrape: the samples of every family, from [`Figures`] and what the loop has fed. Reads only.

use isolate_common::{Counter, DIRECTIONS, Direction, EXEMPTIONS, HOOKS, Hook, KernelError, LAYOUT_VERSION};

use super::{
    Inner,
    family::{Family, Kind},
    samples::{Samples, SeriesOfPods},
};
use crate::{
    REVISION,
    control::protocol::{Coverage, Record, UnarmedReason},
    status::{Figures, PodFigures},
};

/// Writes every family but the histograms, which the registry writes.
pub(super) fn write(text: &mut String, fed: &Inner, figures: &Figures) {
    let isolated: Vec<Isolated<'_>> = figures.isolations.iter().map(|pod| (pod.uid.to_string(), pod)).collect();
    for family in Family::ALL {
        if family.descriptor().kind != Kind::Histogram {
            samples(&mut Samples::of(family, text), family, fed, figures, &isolated);
        }
    }
}

/// An isolated pod: its UID in words, and its figures.
type Isolated<'a> = (String, &'a PodFigures);

fn samples(to: &mut Samples<'_>, family: Family, fed: &Inner, figures: &Figures, isolated: &[Isolated<'_>]) {
    match family {
        Family::EnforcementDuration | Family::ReconcileDuration => {}
        Family::Build => to.put([env!("CARGO_PKG_VERSION"), REVISION, &LAYOUT_VERSION.to_string()], 1),
        Family::Start => to.put_secs(fed.started_secs),
        Family::IsolatedPods => to.put([], isolated.len()),
        Family::PodCoverage => {
            let series = COVERAGES.map(|(coverage, name)| (coverage, to.series_of_pods([name])));
            for (uid, pod) in isolated {
                for (coverage, series) in &series {
                    to.put_of_pod(series, uid, u32::from(pod.coverage == *coverage));
                }
            }
        }
        Family::IsolationStart => {
            for (uid, pod) in isolated {
                to.put([uid], pod.since.as_second());
            }
        }
        Family::HookAttached => {
            let series = places().map(|(hook, direction)| to.series_of_pods([hook.name(), direction.name()]));
            let series: Vec<SeriesOfPods> = series.collect();
            for (uid, pod) in isolated {
                for (series, holds) in series.iter().zip(pod.hold.as_flattened()) {
                    if let Some(holds) = holds {
                        to.put_of_pod(series, uid, u32::from(*holds));
                    }
                }
            }
        }
        Family::DroppedPackets => dropped(to, isolated, |counter| counter.packets),
        Family::DroppedBytes => dropped(to, isolated, |counter| counter.bytes),
        Family::ExemptedPackets => exempted(to, isolated, |counter| counter.packets),
        Family::ExemptedBytes => exempted(to, isolated, |counter| counter.bytes),
        Family::IsolationRecords => {
            for (record, name) in RECORDS {
                to.put([name], isolated.iter().filter(|(_, pod)| pod.record == record).count());
            }
        }
        Family::Pods => to.put([], figures.pods),
        Family::PodsArmed => to.put([], figures.pods_armed),
        Family::PodsUnarmed => {
            for (reason, name) in UNARMED_REASONS {
                to.put([name], figures.unarmed.iter().filter(|why| **why == reason).count());
            }
        }
        Family::KernelErrors => {
            for error in KernelError::ALL {
                let counts = figures.kernel_errors.iter().filter(|(kind, _)| *kind == error);
                to.put([error.name()], counts.map(|(_, count)| count).sum::<u64>());
            }
        }
        Family::HookRepairs => HOOKS.iter().for_each(|&hook| to.put([hook.name()], fed.repairs[hook as usize].get())),
        Family::StateRepairs => {
            to.put(["entry"], fed.entry_repairs.get());
            to.put(["pin"], fed.pin_repairs.get());
        }
        Family::ReconcilePasses => to.put([], fed.passes.get()),
        Family::ReconcileFailures => to.put([], fed.failures.get()),
        Family::ReconcileLastPass => since_then(to, fed.last_pass_secs.get()),
        Family::DeniedPeers => to.put([], fed.socket.refused_peers.get()),
        Family::BadRequests => to.put([], fed.socket.bad_requests.get()),
        Family::CriUp => to.put([], fed.cri.up.get()),
        Family::CriFailures => to.put([], fed.cri.failures.get()),
        Family::CriLastAnswer => since_then(to, fed.cri.last_answer.get()),
        Family::NriUp => to.put([], fed.nri.up.get()),
        Family::NriSandboxes => to.put([], fed.nri.sandboxes.get()),
        Family::NriLate => to.put([], fed.nri.late.get()),
        Family::Warnings => to.put([], figures.warnings),
    }
}

/// When something last happened; no sample before it did.
fn since_then(to: &mut Samples<'_>, secs: f64) {
    if secs > 0.0 {
        to.put_secs(secs);
    }
}

/// Every hook and direction, in the order of their samples.
fn places() -> impl Iterator<Item = (Hook, Direction)> {
    HOOKS.into_iter().flat_map(|hook| DIRECTIONS.map(|direction| (hook, direction)))
}

/// What each hook dropped of each pod.
fn dropped(to: &mut Samples<'_>, isolated: &[Isolated<'_>], count: impl Fn(Counter) -> u64) {
    let of =
        |(hook, direction): (Hook, Direction)| ((hook, direction), to.series_of_pods([direction.name(), hook.name()]));
    let series: Vec<_> = places().map(of).collect();
    for (uid, pod) in isolated {
        for ((hook, direction), series) in &series {
            to.put_of_pod(series, uid, count(pod.counters.of(*hook, *direction)));
        }
    }
}

/// Series for pods that something passed for, of all exemptions, hooks and directions: a pod without has none.
fn exempted(to: &mut Samples<'_>, isolated: &[Isolated<'_>], count: impl Fn(Counter) -> u64) {
    let all = || {
        EXEMPTIONS.into_iter().flat_map(|exemption| places().map(move |(hook, direction)| (exemption, hook, direction)))
    };
    for (uid, pod) in isolated {
        let of = |(exemption, hook, direction)| pod.counters.exempted(exemption, hook, direction);
        if all().any(|place| of(place).packets > 0) {
            for (exemption, hook, direction) in all() {
                let labels = [uid, direction.name(), hook.name(), exemption.name()];
                to.put(labels, count(of((exemption, hook, direction))));
            }
        }
    }
}

const COVERAGES: [(Coverage, &str); 3] =
    [(Coverage::Full, "full"), (Coverage::Partial, "partial"), (Coverage::Absent, "absent")];

const RECORDS: [(Record, &str); 3] =
    [(Record::Saved, "saved"), (Record::Unsaved, "unsaved"), (Record::Unreadable, "unreadable")];

const UNARMED_REASONS: [(UnarmedReason, &str); 6] = [
    (UnarmedReason::HostNetwork, "host_network"),
    (UnarmedReason::NoProcess, "no_process"),
    (UnarmedReason::NoHostEnd, "no_host_end"),
    (UnarmedReason::AttachFailed, "attach_failed"),
    (UnarmedReason::OnDemand, "on_demand"),
    (UnarmedReason::Pending, "pending"),
];
