//! What pod to make, and where kubelet would put its cgroup.

use std::path::PathBuf;

/// Which names kubelet gives the cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// `kubepods-burstable-pod<uid with _>.slice`.
    Systemd,
    /// `burstable/pod<uid>`.
    Cgroupfs,
}

/// The quality of service class, a level of the cgroup tree (guaranteed has none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Directly below `kubepods`.
    Guaranteed,
    /// Below `burstable`.
    Burstable,
    /// Below `besteffort`.
    BestEffort,
}

/// How the pod's interfaces reach the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The host ends are ports of the node's bridges.
    Bridged,
    /// The host end carries a route to the pod's one address.
    Routed,
    /// The same with a pair of netkit devices without hardware addresses, as Cilium makes them.
    Netkit,
    /// The host end, the primary one of two netkit devices that have hardware addresses, is a port of the node's bridge.
    NetkitBridged,
    /// The pod's interface is a macvlan on the node's bridge: it has no host end.
    Macvlan,
    /// The same with an ipvlan.
    Ipvlan,
    /// No namespace of its own: the pod uses the node's.
    HostNetwork,
}

/// What pod to make.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its UID as the API shows it; a fresh one if none.
    pub uid: Option<String>,
    /// Which cgroup names.
    pub driver: Driver,
    /// Its class.
    pub qos: Qos,
    /// What kubelet's cgroup root is called, above `kubepods`; empty for none.
    pub prefix: &'static str,
    /// How many containers, each with one process.
    pub containers: usize,
    /// How many interfaces (one or two; routed pods have one).
    pub interfaces: u8,
    /// How they reach the node.
    pub link: Link,
    /// Which capabilities its containers' processes have beside the default ones.
    pub capabilities: &'static [u32],
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            uid: None,
            driver: Driver::Systemd,
            qos: Qos::Burstable,
            prefix: "",
            containers: 1,
            interfaces: 1,
            link: Link::Bridged,
            capabilities: &[],
        }
    }
}

/// Where kubelet puts the pod, below the root of the hierarchy.
pub(crate) fn cgroup_path(spec: &Spec, uid: &str) -> PathBuf {
    let class = match spec.qos {
        Qos::Guaranteed => None,
        Qos::Burstable => Some("burstable"),
        Qos::BestEffort => Some("besteffort"),
    };
    let names = [Some(spec.prefix).filter(|prefix| !prefix.is_empty()), Some("kubepods"), class];
    let pod = format!("pod{uid}");
    let names = names.into_iter().flatten();
    match spec.driver {
        Driver::Cgroupfs => names.chain([pod.as_str()]).collect(),
        Driver::Systemd => {
            // A slice's name holds those of all slices above it.
            let pod = pod.replace('-', "_");
            let mut slice = String::new();
            let grow = |name: &str| {
                slice = if slice.is_empty() { name.to_owned() } else { format!("{slice}-{name}") };
                format!("{slice}.slice")
            };
            names.chain([pod.as_str()]).map(grow).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_named_as_kubelet_names_them() {
        let uid = "0f0e0d0c-1234-4000-8000-0123456789ab";
        let path = |driver, qos, prefix| {
            let spec = Spec { driver, qos, prefix, ..Spec::default() };
            cgroup_path(&spec, uid).display().to_string()
        };
        assert_eq!(path(Driver::Cgroupfs, Qos::BestEffort, ""), format!("kubepods/besteffort/pod{uid}"));
        assert_eq!(path(Driver::Cgroupfs, Qos::Guaranteed, "kubelet"), format!("kubelet/kubepods/pod{uid}"));
        let slice =
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f0e0d0c_1234_4000_8000_0123456789ab.slice";
        assert_eq!(path(Driver::Systemd, Qos::Burstable, ""), slice);
        assert!(path(Driver::Systemd, Qos::Guaranteed, "kubelet").starts_with("kubelet.slice/kubelet-kubepods.slice/"));
    }
}
