//! Pods that the node or the cluster lives on, and what stops working without each. Pure.

use crate::pod::PodName;

const SYSTEM: &str = "kube-system";

/// Beginnings of the names of pods in `kube-system`, and what they do. The first that fits.
const ROLES: [(&str, &str); 22] = [
    (
        "kube-apiserver",
        "the API server of this node goes away: kubectl, controllers and kubelets that use it get no answer",
    ),
    ("etcd", "a member of the cluster's database goes away: without a majority the API server stops"),
    (
        "kube-controller-manager",
        "if it leads, failed pods are not replaced and nodes are not watched until another one does",
    ),
    ("kube-scheduler", "if it leads, new pods stay pending until another one does"),
    ("kube-vip", "the address of the control plane may go away"),
    ("kube-proxy", "Services on this node keep the endpoints that they have now"),
    ("coredns", "pods that ask this replica get no answer from DNS; with the last one the cluster has none"),
    ("kube-dns", "pods that ask this replica get no answer from DNS; with the last one the cluster has none"),
    ("node-local-dns", "pods on this node get no answer from DNS"),
    ("nodelocaldns", "pods on this node get no answer from DNS"),
    ("metrics-server", "kubectl top and autoscaling by CPU or memory stop"),
    ("konnectivity-agent", "kubectl logs and exec may stop for this node"),
    ("aws-node", "new pods on this node get no network"),
    ("azure-cn", "new pods on this node get no network"),
    ("calico-node", "new pods on this node get no network, and routes and policies here are not updated"),
    ("canal", "new pods on this node get no network, and routes and policies here are not updated"),
    ("cilium", "new pods on this node get no network, and Services and policies here are not updated"),
    ("kindnet", "routes to pods on other nodes are not updated"),
    ("kube-flannel", "routes to pods on other nodes are not updated"),
    ("kube-router", "routes, Services and policies on this node are not updated"),
    ("weave-net", "pods on this node lose those on other nodes"),
    ("csi", "volumes may not be attached or mounted"),
];

/// Why a pod must not be isolated without being forced, and what would stop working; none for an ordinary pod.
pub(super) fn why(name: Option<&PodName>, is_static: bool) -> Option<String> {
    let is_system = name.is_some_and(|name| name.namespace() == SYSTEM);
    if !is_system && !is_static {
        return None;
    }
    let kind = match (is_static, is_system) {
        (true, true) => "it is a static pod in kube-system, so this node was set up with it",
        (true, false) => "it is a static pod, so this node was set up with it",
        (false, _) => "it is in kube-system, so the cluster may need it",
    };
    let role = name.and_then(|name| ROLES.iter().find(|(prefix, _)| begins_with(name.name(), prefix)));
    let stops = match (role, is_static) {
        (Some((_, stops)), _) => stops,
        (None, true) => "whatever on this node or in the cluster talks to it gets no answer",
        (None, false) => "whatever in the cluster talks to it gets no answer",
    };
    Some(format!("{kind}. What would stop working: {stops}"))
}

/// Whether the name is the prefix or goes on after a dash: `etcd-node1`, not `etcdctl`.
fn begins_with(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why_of(text: &str, is_static: bool) -> Option<String> {
        why(Some(&text.parse().expect("a name")), is_static)
    }

    #[test]
    fn ordinary_pods_are_not_guarded() {
        assert_eq!(why_of("default/web-0", false), None);
        assert_eq!(why_of("default/etcd-0", false), None, "someone's own");
        assert_eq!(why_of("kube-system-2/coredns-1", false), None);
        assert_eq!(why(None, false), None);
    }

    #[test]
    fn what_stops_working_is_said() {
        for (name, is_static, said) in [
            ("kube-system/etcd-node1", true, "majority"),
            ("kube-system/coredns-5d78c9869d-abcde", false, "DNS"),
            ("kube-system/etcdctl", false, "gets no answer"),
            ("kube-system/x", false, "kube-system"),
            ("default/proxy-node1", true, "static pod"),
        ] {
            let text = why_of(name, is_static).expect("it is guarded");
            assert!(text.contains(said), "{name}: {text}");
            assert!(text.contains("stop working"), "{name}: {text}");
        }
        assert!(why(None, true).is_some(), "a static pod is known by its UID alone");
    }
}
