//! Example alert rules, for `docs/metrics.md`.

/// One alert rule.
pub(super) struct Alert {
    pub(super) name: &'static str,
    pub(super) expr: &'static str,
    /// How long it must hold, as Prometheus spells durations.
    pub(super) hold: &'static str,
    pub(super) severity: &'static str,
    pub(super) summary: &'static str,
}

pub(super) const ALERTS: [Alert; 8] = [
    Alert {
        name: "IsolateHookNotAttached",
        expr: "isolate_hook_attached == 0",
        hold: "1m",
        severity: "critical",
        summary: "The {{ $labels.hook }} hook ({{ $labels.direction }}) of isolated pod {{ $labels.pod_uid }} does not hold: it may reach the network. Run `isolate-agent status {{ $labels.pod_uid }}` on the node.",
    },
    Alert {
        name: "IsolatePodPartlyCovered",
        expr: "isolate_pod_coverage{coverage=\"partial\"} == 1",
        hold: "1m",
        severity: "critical",
        summary: "Isolated pod {{ $labels.pod_uid }} is only partly cut off. `isolate-agent status {{ $labels.pod_uid }}` on the node says what stays open.",
    },
    Alert {
        name: "IsolateKernelErrors",
        expr: "isolate_kernel_errors_total > 0",
        hold: "0m",
        severity: "warning",
        summary: "A program dropped {{ $value }} packets because of {{ $labels.error }}. Isolated pods stay cut off; report it.",
    },
    Alert {
        name: "IsolatePassesFailing",
        expr: "increase(isolate_reconcile_failures_total[5m]) > 0",
        hold: "5m",
        severity: "warning",
        summary: "Reconcile passes fail: what is isolated stays so, new pods and repairs may be missed. See the agent's log.",
    },
    Alert {
        name: "IsolateLoopHangs",
        expr: "time() - isolate_reconcile_last_pass_seconds > 300",
        hold: "0m",
        severity: "critical",
        summary: "The reconcile loop has not finished a pass for {{ $value | humanizeDuration }}. Restart the agent: that releases nothing.",
    },
    Alert {
        name: "IsolateAgentDown",
        expr: "up{job=\"isolate-agent\"} == 0",
        hold: "5m",
        severity: "warning",
        summary: "The agent on {{ $labels.instance }} does not answer. Isolated pods stay cut off; detached hooks are not repaired.",
    },
    Alert {
        name: "IsolateRecordsNotSaved",
        expr: "isolate_isolation_records{record!=\"saved\"} > 0",
        hold: "1m",
        severity: "warning",
        summary: "{{ $value }} isolations have a record that is {{ $labels.record }}: a reboot may release them. Check the state folder.",
    },
    Alert {
        name: "IsolatePodsCannotBeArmed",
        expr: "isolate_pods_unarmed{reason=\"attach_failed\"} > 0",
        hold: "10m",
        severity: "warning",
        summary: "{{ $value }} pods cannot be armed. Run `isolate-agent doctor` on the node before you need to isolate one.",
    },
];
