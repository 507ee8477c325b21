//! One scrape: the samples of every family, from a [`Status`] and what the loop has fed. Reads only.

use isolate_common::{DIRECTIONS, Direction, EXEMPTIONS, HOOKS, Hook, KernelError, LAYOUT_VERSION};

use super::{
    Inner,
    family::{Family, Kind},
    samples::Samples,
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
            for isolation in &status.isolations {
                for (coverage, name) in COVERAGES {
                    to.put([&isolation.uid, name], u32::from(isolation.coverage == coverage));
                }
            }
        }
        Family::IsolationStart => {
            for isolation in &status.isolations {
                to.put([&isolation.uid], isolation.since.as_second());
            }
        }
        Family::HookAttached => each_hook(&status.isolations, |isolation, hook, direction| {
            if let Some(holds) = holds(isolation, hook, direction) {
                to.put([&isolation.uid, hook.name(), direction.name()], u32::from(holds));
            }
        }),
        Family::DroppedPackets => each_hook(&status.isolations, |isolation, hook, direction| {
            let packets = dropped(isolation, hook, direction).map(|drops| drops.packets).sum::<u64>();
            to.put([&isolation.uid, direction.name(), hook.name()], packets);
        }),
        Family::DroppedBytes => each_hook(&status.isolations, |isolation, hook, direction| {
            let bytes = dropped(isolation, hook, direction).map(|drops| drops.bytes).sum::<u64>();
            to.put([&isolation.uid, direction.name(), hook.name()], bytes);
        }),
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

/// Whether the hook holds in every place it belongs; `None` where the pod has no place for it.
fn holds(isolation: &Isolation, hook: Hook, direction: Direction) -> Option<bool> {
    isolation
        .hooks
        .iter()
        .filter(|status| status.hook == hook.name() && status.direction == direction.name())
        .filter(|status| !matches!(status.state, HookState::NotApplicable | HookState::Pending))
        .map(|status| status.state == HookState::Holding)
        .reduce(|all, one| all && one)
}

fn dropped(isolation: &Isolation, hook: Hook, direction: Direction) -> impl Iterator<Item = &Drops> {
    isolation.drops.iter().filter(move |drops| drops.hook == hook.name() && drops.direction == direction.name())
}

fn each_hook(isolations: &[Isolation], mut put: impl FnMut(&Isolation, Hook, Direction)) {
    for isolation in isolations {
        for hook in HOOKS {
            for direction in DIRECTIONS {
                put(isolation, hook, direction);
            }
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
