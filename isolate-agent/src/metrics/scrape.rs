//! One scrape: the samples of every family, from a [`Status`] and what the loop has fed. Reads only.

use isolate_common::{DIRECTIONS, EXEMPTIONS, HOOKS, KernelError, LAYOUT_VERSION};

use super::{
    Inner,
    family::{Family, Kind},
    samples::{Samples, SeriesOfPods},
};
use crate::{
    REVISION,
    control::protocol::{Coverage, Drops, Exempted, HookState, Isolation, Record, Status, UnarmedReason},
};

/// Writes every family but the histograms, which the registry writes.
pub(super) fn write(text: &mut String, fed: &Inner, status: &Status) {
    for family in Family::ALL {
        if family.descriptor().kind != Kind::Histogram {
            samples(&mut Samples::of(family, text), family, fed, status);
        }
    }
}

fn samples(to: &mut Samples<'_>, family: Family, fed: &Inner, status: &Status) {
    match family {
        Family::EnforcementDuration | Family::ReconcileDuration => {}
        Family::Build => to.put([&status.version, REVISION, &LAYOUT_VERSION.to_string()], 1),
        Family::Start => to.put_secs(fed.started_secs),
        Family::IsolatedPods => to.put([], status.isolations.len()),
        Family::PodCoverage => {
            let series = COVERAGES.map(|(coverage, name)| (coverage, to.series_of_pods([name])));
            for isolation in &status.isolations {
                for (coverage, series) in &series {
                    to.put_of_pod(series, &isolation.uid, u32::from(isolation.coverage == *coverage));
                }
            }
        }
        Family::IsolationStart => {
            for isolation in &status.isolations {
                to.put([&isolation.uid], isolation.since.as_second());
            }
        }
        Family::HookAttached => {
            let series = places().map(|(hook, direction)| to.series_of_pods([hook, direction]));
            let series: Vec<SeriesOfPods> = series.collect();
            for isolation in &status.isolations {
                for (series, holds) in series.iter().zip(holding(isolation)) {
                    if let Some(holds) = holds {
                        to.put_of_pod(series, &isolation.uid, u32::from(holds));
                    }
                }
            }
        }
        Family::DroppedPackets => dropped(to, &status.isolations, |drops| drops.packets),
        Family::DroppedBytes => dropped(to, &status.isolations, |drops| drops.bytes),
        Family::ExemptedPackets => each_exempted(&status.isolations, |labels, exempted| {
            to.put(labels, exempted.map(|exempted| exempted.packets).unwrap_or_default());
        }),
        Family::ExemptedBytes => each_exempted(&status.isolations, |labels, exempted| {
            to.put(labels, exempted.map(|exempted| exempted.bytes).unwrap_or_default());
        }),
        Family::IsolationRecords => {
            for (record, name) in RECORDS {
                to.put([name], status.isolations.iter().filter(|isolation| isolation.record == record).count());
            }
        }
        Family::Pods => to.put([], status.pods),
        Family::PodsArmed => to.put([], status.pods_armed),
        Family::PodsUnarmed => {
            for (reason, name) in UNARMED_REASONS {
                to.put([name], status.unarmed.iter().filter(|pod| pod.reason == reason).count());
            }
        }
        Family::KernelErrors => {
            for error in KernelError::ALL {
                let counts = status.kernel_errors.iter().filter(|count| count.error == error.name());
                to.put([error.name()], counts.map(|count| count.count).sum::<u64>());
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
        Family::Warnings => to.put([], status.warnings.len()),
    }
}

/// When something last happened; no sample before it did.
fn since_then(to: &mut Samples<'_>, secs: f64) {
    if secs > 0.0 {
        to.put_secs(secs);
    }
}

/// How many hooks there are, by direction.
const PLACES: usize = HOOKS.len() * DIRECTIONS.len();

/// Their names, in the order of their samples.
fn places() -> impl Iterator<Item = (&'static str, &'static str)> {
    HOOKS.into_iter().flat_map(|hook| DIRECTIONS.map(|direction| (hook.name(), direction.name())))
}

/// Where in that order a hook is.
fn place(hook: &str, direction: &str) -> Option<usize> {
    let hook = HOOKS.iter().position(|known| known.name() == hook)?;
    let direction = DIRECTIONS.iter().position(|known| known.name() == direction)?;
    Some(hook * DIRECTIONS.len() + direction)
}

/// Whether each hook holds wherever it belongs; `None` where the pod has no place for it.
fn holding(isolation: &Isolation) -> [Option<bool>; PLACES] {
    let mut holding = [None; PLACES];
    for status in &isolation.hooks {
        if let (Some(place), HookState::Holding | HookState::Missing) =
            (place(&status.hook, &status.direction), status.state)
        {
            let holds = holding[place].get_or_insert(true);
            *holds &= status.state == HookState::Holding;
        }
    }
    holding
}

/// What each hook dropped of each pod.
fn dropped(to: &mut Samples<'_>, isolations: &[Isolation], count: impl Fn(&Drops) -> u64) {
    let series: Vec<SeriesOfPods> = places().map(|(hook, direction)| to.series_of_pods([direction, hook])).collect();
    for isolation in isolations {
        let mut sums = [0; PLACES];
        for drops in &isolation.drops {
            if let Some(place) = place(&drops.hook, &drops.direction) {
                sums[place] += count(drops);
            }
        }
        for (series, sum) in series.iter().zip(sums) {
            to.put_of_pod(series, &isolation.uid, sum);
        }
    }
}

/// Series for pods that something passed for, of all exemptions, hooks and directions: a pod without has none.
fn each_exempted(isolations: &[Isolation], mut put: impl FnMut([&str; 4], Option<&Exempted>)) {
    for isolation in isolations.iter().filter(|isolation| !isolation.exempted.is_empty()) {
        for exemption in EXEMPTIONS {
            for hook in HOOKS {
                for direction in DIRECTIONS {
                    let place = [direction.name(), hook.name(), exemption.name()];
                    let here = |one: &&Exempted| [&*one.direction, &*one.hook, &*one.exemption] == place;
                    let [direction, hook, exemption] = place;
                    put([&isolation.uid, direction, hook, exemption], isolation.exempted.iter().find(here));
                }
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
