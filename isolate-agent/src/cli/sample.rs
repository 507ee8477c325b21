//! A node with one partly covered pod.

use isolate_agent::control::protocol::{
    Coverage, Drops, Exempted, HookState, HookStatus, Isolation, KernelErrorCount, Record, Status, Unarmed,
    UnarmedReason,
};

pub(crate) const LONG_REASON: &str = "a miner in the checkout image, found by the night shift, see INC-4711";

fn hook(
    hook: &'static str,
    direction: &'static str,
    place: &str,
    state: HookState,
    detail: Option<&str>,
) -> HookStatus {
    HookStatus {
        hook: hook.into(),
        direction: direction.into(),
        place: place.into(),
        state,
        detail: detail.map(|detail| detail.to_owned().into()),
    }
}

fn drops(hook: &'static str, direction: &'static str, packets: u64) -> Drops {
    Drops { hook: hook.into(), direction: direction.into(), packets, bytes: packets * 100 }
}

pub(crate) fn status() -> Status {
    Status {
        taken_at: "2026-03-01T04:02:10Z".parse().expect("a time"),
        version: "0.1.0".to_owned(),
        isolations: vec![Isolation {
            uid: "0f0e0d0c-1234-4000-8000-0123456789ab".to_owned(),
            namespace: Some("default".to_owned()),
            name: Some("web-0".to_owned()),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            ips: vec!["10.88.0.7".to_owned()],
            present: true,
            host_network: false,
            reason: Some(LONG_REASON.to_owned()),
            by: "alice (uid 0) with isolate-agent, pid 123".to_owned(),
            since: "2026-03-01T03:00:05Z".parse().expect("a time"),
            keep_loopback: false,
            probe_ports: vec![8080],
            allow: vec!["in:192.0.2.7/32:22/tcp".to_owned()],
            until: Some("2026-03-01T05:02:10Z".parse().expect("a time")),
            record: Record::Saved,
            coverage: Coverage::Partial,
            open: vec!["frames from the pod on net1".to_owned()],
            hooks: vec![
                hook("cgroup", "in", "/sys/fs/cgroup/kubepods/pod1", HookState::Holding, None),
                hook("cgroup", "out", "/sys/fs/cgroup/kubepods/pod1", HookState::Holding, None),
                hook("veth", "in", "veth1", HookState::Missing, Some("the kernel refused")),
                hook("veth", "out", "", HookState::NotApplicable, Some("net1 has no host end")),
            ],
            drops: vec![drops("cgroup", "in", 2), drops("cgroup", "out", 40)],
            exempted: vec![Exempted {
                exemption: "probe".into(),
                hook: "veth".into(),
                direction: "in".into(),
                packets: 7,
                bytes: 700,
            }],
        }],
        pods: 3,
        pods_armed: 2,
        unarmed: vec![Unarmed {
            uid: "1f0e0d0c-1234-4000-8000-0123456789ab".to_owned(),
            pod: None,
            reason: UnarmedReason::HostNetwork,
            detail: "it uses the node's network".to_owned(),
        }],
        kernel_errors: vec![KernelErrorCount { error: "no_gate".to_owned(), count: 3 }],
        runtime: None,
        warnings: Vec::new(),
    }
}
