//! One scrape: the samples of every family, from a [`Status`] and what the loop has fed. Reads only.

use std::{array, fmt, sync::Arc};

use isolate_common::{DIRECTIONS, Direction, EXEMPTIONS, HOOKS, Hook, KernelError, LAYOUT_VERSION};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, EncodeMetric as _, MetricEncoder,
        NoLabelSet,
    },
};

use super::{Inner, family::Family};
use crate::{
    REVISION,
    control::protocol::{Coverage, Drops, Exempted, HookState, Isolation, Record, Status, UnarmedReason},
};

/// The node at the moment of a scrape.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) fed: Arc<Inner>,
    pub(super) status: Arc<Status>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in Family::ALL {
            let descriptor = family.descriptor();
            let unit = descriptor.registry_unit();
            let metric = encoder.encode_descriptor(
                descriptor.stem,
                descriptor.help,
                unit.as_ref(),
                descriptor.kind.metric_type(),
            )?;
            self.samples(Samples { metric, labels: descriptor.labels }, family)?;
        }
        Ok(())
    }
}

impl Scrape {
    fn samples(&self, mut to: Samples<'_>, family: Family) -> fmt::Result {
        let Self { fed, status } = self;
        match family {
            Family::Build => to.info([&status.version, REVISION, &LAYOUT_VERSION.to_string()]),
            Family::Start => to.gauge([], fed.started_secs),
            Family::IsolatedPods => to.gauge([], status.isolations.len()),
            Family::PodCoverage => each(&status.isolations, |isolation| {
                each(&COVERAGES, |&(coverage, name)| {
                    to.gauge([&isolation.uid, name], u32::from(isolation.coverage == coverage))
                })
            }),
            Family::IsolationStart => {
                each(&status.isolations, |isolation| to.gauge([&isolation.uid], isolation.since.as_second()))
            }
            Family::HookAttached => each_hook(&status.isolations, |isolation, hook, direction| {
                let Some(holds) = holds(isolation, hook, direction) else {
                    return Ok(());
                };
                to.gauge([&isolation.uid, hook.name(), direction.name()], u32::from(holds))
            }),
            Family::DroppedPackets => each_hook(&status.isolations, |isolation, hook, direction| {
                let packets = dropped(isolation, hook, direction).map(|drops| drops.packets).sum::<u64>();
                to.counter([&isolation.uid, direction.name(), hook.name()], packets)
            }),
            Family::DroppedBytes => each_hook(&status.isolations, |isolation, hook, direction| {
                let bytes = dropped(isolation, hook, direction).map(|drops| drops.bytes).sum::<u64>();
                to.counter([&isolation.uid, direction.name(), hook.name()], bytes)
            }),
            Family::ExemptedPackets => each_exempted(&status.isolations, |isolation, labels, exempted| {
                let [direction, hook, exemption] = labels;
                let packets = exempted.map(|exempted| exempted.packets).unwrap_or_default();
                to.counter([&isolation.uid, direction, hook, exemption], packets)
            }),
            Family::ExemptedBytes => each_exempted(&status.isolations, |isolation, labels, exempted| {
                let [direction, hook, exemption] = labels;
                let bytes = exempted.map(|exempted| exempted.bytes).unwrap_or_default();
                to.counter([&isolation.uid, direction, hook, exemption], bytes)
            }),
            Family::IsolationRecords => each(&RECORDS, |&(record, name)| {
                to.gauge([name], status.isolations.iter().filter(|isolation| isolation.record == record).count())
            }),
            Family::Pods => to.gauge([], status.pods),
            Family::PodsArmed => to.gauge([], status.pods_armed),
            Family::PodsUnarmed => each(&UNARMED_REASONS, |&(reason, name)| {
                to.gauge([name], status.unarmed.iter().filter(|pod| pod.reason == reason).count())
            }),
            Family::KernelErrors => each(&KernelError::ALL, |error| {
                let counts = status.kernel_errors.iter().filter(|count| count.error == error.name());
                to.counter([error.name()], counts.map(|count| count.count).sum::<u64>())
            }),
            Family::EnforcementDuration => fed.enforcement.encode(to.metric),
            Family::HookRepairs => each(&HOOKS, |&hook| to.counter([hook.name()], fed.repairs[hook as usize].get())),
            Family::StateRepairs => {
                to.counter(["entry"], fed.entry_repairs.get())?;
                to.counter(["pin"], fed.pin_repairs.get())
            }
            Family::ReconcilePasses => fed.passes.encode(to.metric),
            Family::ReconcileFailures => fed.failures.encode(to.metric),
            Family::ReconcileDuration => fed.pass_duration.encode(to.metric),
            Family::ReconcileLastPass => match fed.last_pass_secs.get() {
                0.0 => Ok(()),
                ended => to.gauge([], ended),
            },
            Family::DeniedPeers => fed.socket.refused_peers.encode(to.metric),
            Family::BadRequests => fed.socket.bad_requests.encode(to.metric),
            Family::CriUp => fed.cri.up.encode(to.metric),
            Family::CriFailures => fed.cri.failures.encode(to.metric),
            Family::CriLastAnswer => match fed.cri.last_answer.get() {
                0.0 => Ok(()),
                answered => to.gauge([], answered),
            },
            Family::NriUp => fed.nri.up.encode(to.metric),
            Family::NriSandboxes => fed.nri.sandboxes.encode(to.metric),
            Family::NriLate => fed.nri.late.encode(to.metric),
            Family::Warnings => to.gauge([], status.warnings.len()),
        }
    }
}

/// Takes the samples of one family; the names of their labels come from its descriptor.
struct Samples<'a> {
    metric: MetricEncoder<'a>,
    labels: &'static [&'static str],
}

impl Samples<'_> {
    fn gauge<const N: usize>(&mut self, values: [&str; N], sample: impl EncodeGaugeValue + Copy) -> fmt::Result {
        if N == 0 {
            return self.metric.encode_gauge(&sample);
        }
        let labels = self.labelled(values);
        self.metric.encode_family(&labels)?.encode_gauge(&sample)
    }

    fn counter<const N: usize>(&mut self, values: [&str; N], sample: impl EncodeCounterValue + Copy) -> fmt::Result {
        let labels = self.labelled(values);
        self.metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&sample, None)
    }

    fn info<const N: usize>(&mut self, values: [&str; N]) -> fmt::Result {
        let labels = self.labelled(values);
        self.metric.encode_info(&labels)
    }

    fn labelled<'v, const N: usize>(&self, values: [&'v str; N]) -> impl EncodeLabelSet + use<'v, N> {
        assert_eq!(self.labels.len(), N, "as many values as the family has labels");
        let pairs: [(&'static str, &'v str); N] = array::from_fn(|index| (self.labels[index], values[index]));
        pairs
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

fn each<T>(items: &[T], encode: impl FnMut(&T) -> fmt::Result) -> fmt::Result {
    items.iter().try_for_each(encode)
}

fn each_hook(
    isolations: &[Isolation],
    mut encode: impl FnMut(&Isolation, Hook, Direction) -> fmt::Result,
) -> fmt::Result {
    each(isolations, |isolation| {
        each(&HOOKS, |&hook| each(&DIRECTIONS, |&direction| encode(isolation, hook, direction)))
    })
}

/// Series for pods that something passed for, of all exemptions, hooks and directions: a pod without has none.
fn each_exempted(
    isolations: &[Isolation],
    mut encode: impl FnMut(&Isolation, [&'static str; 3], Option<&Exempted>) -> fmt::Result,
) -> fmt::Result {
    let some: Vec<&Isolation> = isolations.iter().filter(|isolation| !isolation.exempted.is_empty()).collect();
    each(&some, |isolation| {
        each(&EXEMPTIONS, |&exemption| {
            each(&HOOKS, |&hook| {
                each(&DIRECTIONS, |&direction| {
                    let labels = [direction.name(), hook.name(), exemption.name()];
                    let here = |one: &&Exempted| [&*one.direction, &*one.hook, &*one.exemption] == labels;
                    encode(isolation, labels, isolation.exempted.iter().find(here))
                })
            })
        })
    })
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
