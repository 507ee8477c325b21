//! The metric families: the one list that the encoder, `docs/metrics.md` and their tests are made from.
//!
//! Adding a metric is adding a variant here; the compiler then asks for its samples in [`super::scrape`]. Names,
//! types and labels are a contract with the dashboards and alerts of users: additions only.

/// Prefix of every name.
pub const PREFIX: &str = "isolate";

/// A metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// What runs.
    Build,
    /// When it began to run.
    Start,
    /// How many pods are isolated.
    IsolatedPods,
    /// How far each is covered.
    PodCoverage,
    /// Since when each is isolated.
    IsolationStart,
    /// Whether each hook of each holds.
    HookAttached,
    /// What was dropped, in packets.
    DroppedPackets,
    /// What was dropped, in bytes.
    DroppedBytes,
    /// What passed by an exemption, in packets.
    ExemptedPackets,
    /// What passed by an exemption, in bytes.
    ExemptedBytes,
    /// How the isolations are written down.
    IsolationRecords,
    /// Pods on the node.
    Pods,
    /// Pods that isolating takes one map write for.
    PodsArmed,
    /// Pods that cannot be armed.
    PodsUnarmed,
    /// Errors in the programs.
    KernelErrors,
    /// From request to enforcement.
    EnforcementDuration,
    /// Hooks that had to be put back.
    HookRepairs,
    /// What else had to be put back.
    StateRepairs,
    /// Passes of the loop.
    ReconcilePasses,
    /// Those that failed.
    ReconcileFailures,
    /// How long they take.
    ReconcileDuration,
    /// When the last one ended.
    ReconcileLastPass,
    /// Callers of the control socket that were turned away.
    DeniedPeers,
    /// Requests there that made no sense.
    BadRequests,
    /// Whether the container runtime answers.
    CriUp,
    /// How often it did not.
    CriFailures,
    /// When it last did.
    CriLastAnswer,
    /// Whether the container runtime has the NRI plugin.
    NriUp,
    /// Sandboxes that it was asked to wait for.
    NriSandboxes,
    /// Those for which it waited in vain.
    NriLate,
    /// What needs a person. The last one: [`Family::ALL`] is checked against it.
    Warnings,
}

/// Type of a family, as `OpenMetrics` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up only; its samples end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations by size; its samples end in `_bucket`, `_count` and `_sum`.
    Histogram,
    /// Constant 1 with labels that say something; its sample ends in `_info`.
    Info,
}

/// Everything about a family but its samples.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Name without prefix, unit and suffix.
    pub stem: &'static str,
    /// Type.
    pub kind: Kind,
    /// Unit, the last part of the name.
    pub unit: Option<&'static str>,
    /// Names of the labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// What it tells, in one line.
    pub help: &'static str,
    /// When it should wake someone, in one line.
    pub alert: &'static str,
}

const POD: &str = "pod_uid";
const HOOK: &str = "hook";
const DIRECTION: &str = "direction";
/// For families that dashboards show and nobody is woken for.
const NO_ALERT: &str = "-";

impl Family {
    /// All families, in the order in which they are shown.
    pub const ALL: [Self; 31] = [
        Self::IsolatedPods,
        Self::PodCoverage,
        Self::IsolationStart,
        Self::HookAttached,
        Self::DroppedPackets,
        Self::DroppedBytes,
        Self::ExemptedPackets,
        Self::ExemptedBytes,
        Self::IsolationRecords,
        Self::Pods,
        Self::PodsArmed,
        Self::PodsUnarmed,
        Self::KernelErrors,
        Self::EnforcementDuration,
        Self::HookRepairs,
        Self::StateRepairs,
        Self::ReconcilePasses,
        Self::ReconcileFailures,
        Self::ReconcileDuration,
        Self::ReconcileLastPass,
        Self::DeniedPeers,
        Self::BadRequests,
        Self::CriUp,
        Self::CriFailures,
        Self::CriLastAnswer,
        Self::NriUp,
        Self::NriSandboxes,
        Self::NriLate,
        Self::Warnings,
        Self::Start,
        Self::Build,
    ];

    /// Name, type, labels and texts.
    #[expect(clippy::too_many_lines, reason = "a table, one row a family")]
    pub const fn descriptor(self) -> Descriptor {
        match self {
            Self::IsolatedPods => gauge("isolated_pods", &[], "Pods that are isolated, on the node or not.", NO_ALERT),
            Self::PodCoverage => gauge(
                "pod_coverage",
                &[POD, "coverage"],
                "1 for how far an isolated pod is covered (full, partial, absent: not on this node), 0 for the others.",
                "`coverage=\"partial\"` is 1: something of the pod is not cut; `isolate-agent status` says what",
            ),
            Self::IsolationStart => seconds(
                "isolation_start",
                &[POD],
                "When the pod was isolated, in seconds since 1970.",
                "longer ago than your incidents last: someone forgot it",
            ),
            Self::HookAttached => gauge(
                "hook_attached",
                &[POD, HOOK, DIRECTION],
                "1 while the hook of an isolated pod holds in every place it belongs, 0 while it does not. No series where the pod has no place for it.",
                "0 for longer than a pass: the pod may reach the network",
            ),
            Self::DroppedPackets => dropped(
                "packets",
                "Packets of an isolated pod that a hook dropped since it was isolated. A GSO packet counts once.",
                "optional: it rises, so the pod still tries",
            ),
            Self::DroppedBytes => dropped(
                "bytes",
                "Bytes of those packets, from the Ethernet header on the veth, from the IP header on the cgroup.",
                NO_ALERT,
            ),
            Self::ExemptedPackets => exempted(
                "packets",
                "Packets of an isolated pod that passed all the same, as part of kubelet's probes (probe) or with an allowed address (allow), at each hook that they crossed.",
                "optional: `exemption=\"allow\"` rises while no responder is at work",
            ),
            Self::ExemptedBytes => exempted(
                "bytes",
                "Bytes of those packets, from the Ethernet header on the veth, from the IP header on the cgroup.",
                NO_ALERT,
            ),
            Self::IsolationRecords => gauge(
                "isolation_records",
                &["record"],
                "Isolations by how they are written down: saved, unsaved (would not survive a reboot), unreadable (cut off entirely).",
                "`unsaved` or `unreadable` above 0",
            ),
            Self::Pods => gauge("pods", &[], "Pods on the node.", NO_ALERT),
            Self::PodsArmed => {
                gauge("pods_armed", &[], "Pods whose host veths carry the programs, isolated or not.", NO_ALERT)
            }
            Self::PodsUnarmed => gauge(
                "pods_unarmed",
                &["reason"],
                "Pods whose host veths do not carry the programs, by reason.",
                "`attach_failed` above 0, or `pending` for minutes",
            ),
            Self::KernelErrors => counter(
                "kernel_errors",
                &["error"],
                "Packets that an error in a program dropped, since the maps were made.",
                "above 0: a fault of ours or a broken map; report it",
            ),
            Self::EnforcementDuration => histogram(
                "enforcement_duration",
                "From the arrival of a request to the last kernel object that the cut needs.",
                "the slowest rise above what you promise a responder",
            ),
            Self::HookRepairs => counter(
                "hook_repairs",
                &[HOOK],
                "Hooks that did not hold any more, or lost their pin, and were put back.",
                "rises: someone detaches or displaces our programs",
            ),
            Self::StateRepairs => counter(
                "state_repairs",
                &["what"],
                "Entries of our maps that were changed by somebody else, and pins of maps and programs that were removed, put back.",
                "rises: someone tampers with our maps or pins",
            ),
            Self::ReconcilePasses => {
                counter("reconcile_passes", &[], "Passes of the reconcile loop, failed ones too.", NO_ALERT)
            }
            Self::ReconcileFailures => counter(
                "reconcile_failures",
                &[],
                "Passes that could not do all that they had to.",
                "rises: what was isolated stays so, but new pods and repairs may be missed",
            ),
            Self::ReconcileDuration => {
                histogram("reconcile_duration", "How long a pass of the reconcile loop takes.", NO_ALERT)
            }
            Self::ReconcileLastPass => seconds(
                "reconcile_last_pass",
                &[],
                "When the last pass ended, in seconds since 1970. No sample before the first.",
                "minutes ago: the loop hangs",
            ),
            Self::DeniedPeers => counter(
                "denied_peers",
                &[],
                "Callers of the control socket that were turned away because they are not root.",
                "rises: someone on the node tries to steer the agent",
            ),
            Self::BadRequests => counter(
                "bad_requests",
                &[],
                "Requests on the control socket that made no sense and changed nothing.",
                NO_ALERT,
            ),
            Self::CriUp => gauge(
                "cri_up",
                &[],
                "1 if the container runtime answered when it was last asked for the names of pods, 0 if it did not or has no socket.",
                "0 for minutes: new pods are known by their UIDs only; nothing that is isolated depends on it",
            ),
            Self::CriFailures => counter(
                "cri_failures",
                &[],
                "Times that the container runtime did not answer in time, or not what was asked.",
                NO_ALERT,
            ),
            Self::CriLastAnswer => seconds(
                "cri_last_answer",
                &[],
                "When the container runtime last answered, in seconds since 1970. No sample before it did.",
                NO_ALERT,
            ),
            Self::NriUp => gauge(
                "nri_up",
                &[],
                "1 while the agent is registered with the container runtime as an NRI plugin, 0 if not or not asked for.",
                "0 for minutes with `--nri`: new sandboxes are cut as events tell of them, not before their containers start",
            ),
            Self::NriSandboxes => counter(
                "nri_sandboxes",
                &[],
                "New sandboxes that were armed or cut before their containers started.",
                NO_ALERT,
            ),
            Self::NriLate => counter(
                "nri_late",
                &[],
                "New sandboxes whose containers started because arming or cutting took longer than the deadline.",
                "rises: the agent or the node is overloaded",
            ),
            Self::Warnings => {
                gauge("warnings", &[], "Things that need a person; `isolate-agent status` lists them.", "above 0")
            }
            Self::Start => seconds("start_time", &[], "When the agent started, in seconds since 1970.", NO_ALERT),
            Self::Build => Descriptor {
                stem: "build",
                kind: Kind::Info,
                unit: None,
                labels: &["version", "revision", "layout_version"],
                help: "The agent's version, the commit that it was built from, and the version of its maps.",
                alert: NO_ALERT,
            },
        }
    }

    /// Its name, without what the samples of its type end in.
    pub(super) fn name(self) -> String {
        let Descriptor { stem, unit, .. } = self.descriptor();
        let unit = unit.map(|unit| format!("_{unit}")).unwrap_or_default();
        format!("{PREFIX}_{stem}{unit}")
    }

    /// Name of its samples, as a query has it. A histogram's continue with `_bucket`, `_count` and `_sum`.
    pub fn sample_name(self) -> String {
        let suffix = match self.descriptor().kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.name() + suffix
    }
}

const _: () = assert!(Family::ALL.len() == Family::Warnings as usize + 1);

impl Kind {
    /// The name that `OpenMetrics` gives it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

const fn gauge(
    stem: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    alert: &'static str,
) -> Descriptor {
    Descriptor { stem, kind: Kind::Gauge, unit: None, labels, help, alert }
}

/// A point in time.
const fn seconds(
    stem: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    alert: &'static str,
) -> Descriptor {
    Descriptor { stem, kind: Kind::Gauge, unit: Some("seconds"), labels, help, alert }
}

const fn counter(
    stem: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    alert: &'static str,
) -> Descriptor {
    Descriptor { stem, kind: Kind::Counter, unit: None, labels, help, alert }
}

const fn dropped(unit: &'static str, help: &'static str, alert: &'static str) -> Descriptor {
    let labels = &[POD, DIRECTION, HOOK];
    Descriptor { stem: "dropped", kind: Kind::Counter, unit: Some(unit), labels, help, alert }
}

const fn exempted(unit: &'static str, help: &'static str, alert: &'static str) -> Descriptor {
    let labels = &[POD, DIRECTION, HOOK, "exemption"];
    Descriptor { stem: "exempted", kind: Kind::Counter, unit: Some(unit), labels, help, alert }
}

const fn histogram(stem: &'static str, help: &'static str, alert: &'static str) -> Descriptor {
    Descriptor { stem, kind: Kind::Histogram, unit: Some("seconds"), labels: &[], help, alert }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_family_is_listed_once_and_named_as_openmetrics_wants() {
        let names: BTreeSet<String> = Family::ALL.iter().map(|family| family.sample_name()).collect();
        assert_eq!(names.len(), Family::ALL.len(), "two families share a name");
        for family in Family::ALL {
            let Descriptor { stem, labels, help, .. } = family.descriptor();
            let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(plain(stem) && labels.iter().all(|label| plain(label)), "{family:?}");
            // The text encoder writes the help as it is.
            assert!(!help.contains(['\n', '\\', '"']) && help.ends_with('.'), "{family:?}: {help}");
        }
    }
}
