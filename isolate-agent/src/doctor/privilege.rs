//! What the one who runs this is allowed, and where it stands.

use std::fs;

use rustix::{
    process::geteuid,
    thread::{CapabilitySet, capabilities},
};

use super::{Finding, State};

/// What is needed, which capabilities give it (each alone), and what is missing without it.
const NEEDED: [(&str, CapabilitySet, State, &str); 4] = [
    // bpf_capable() and bpf_net_capable() accept CAP_SYS_ADMIN for either (include/linux/bpf.h).
    (
        "cap-bpf",
        CapabilitySet::BPF.union(CapabilitySet::SYS_ADMIN),
        State::Fail,
        "to load programs and to make maps (CAP_SYS_ADMIN does as well)",
    ),
    ("cap-net-admin", CapabilitySet::NET_ADMIN, State::Warn, "to read the chain of an interface before Linux 6.9"),
    (
        "cap-sys-admin",
        CapabilitySet::SYS_ADMIN,
        State::Fail,
        "to look into pods' network namespaces, and to find links and programs by id",
    ),
    (
        "cap-sys-ptrace",
        CapabilitySet::SYS_PTRACE,
        State::Fail,
        "to open the network namespace of pods that run as other users or with other capabilities",
    ),
];

pub(super) fn examine() -> Vec<Finding> {
    let mut findings = vec![root()];
    let effective = capabilities(None).map(|sets| sets.effective);
    findings.extend(NEEDED.into_iter().map(|(name, any_of, without, what_for)| match &effective {
        Ok(effective) if effective.intersects(any_of) => Finding::ok(name, "held", format!("needed {what_for}")),
        Ok(_) => Finding {
            state: without,
            ..Finding::fail(
                name,
                "missing",
                format!("needed {what_for}"),
                "run as root, outside of a restricted container",
            )
        },
        Err(error) => Finding::warn(name, format!("unknown: {error}"), format!("needed {what_for}"), "run as root"),
    }));
    findings.push(namespaces());
    findings
}

fn root() -> Finding {
    let uid = geteuid();
    if uid.is_root() {
        return Finding::ok("user", "root", "may use the control socket, the records and the pins");
    }
    Finding::fail(
        "user",
        format!("uid {}", uid.as_raw()),
        "the control socket, the records and the pins are root's; findings below may only tell that",
        "run with sudo",
    )
}

/// Whether this process is in the namespaces of process 1, which on a node and in a hostPID pod is the node's init.
fn namespaces() -> Finding {
    const NAME: &str = "namespaces";
    const MEANING: &str = "host veths are in the node's network namespace, pins outlive a container only on the node's \
                           own bpffs, and cgroups are found from the node's root";
    let of = |process: &str, kind: &str| fs::read_link(format!("/proc/{process}/ns/{kind}"));
    let mut others = Vec::new();
    for kind in ["net", "mnt", "cgroup"] {
        match (of("self", kind), of("1", kind)) {
            (Ok(own), Ok(init)) if own == init => {}
            (Ok(_), Ok(_)) => others.push(kind),
            (_, Err(error)) | (Err(error), _) => {
                let value = format!("those of process 1 cannot be read: {error}");
                return Finding::warn(
                    NAME,
                    value,
                    MEANING,
                    "make sure that this runs on the node and not in a container",
                );
            }
        }
    }
    if others.is_empty() {
        return Finding::ok(NAME, "those of process 1", MEANING);
    }
    Finding::warn(
        NAME,
        format!("not those of process 1: {}", others.join(", ")),
        MEANING,
        "run on the node itself, or in a pod with hostNetwork, hostPID and /sys/fs/bpf of the host",
    )
}
