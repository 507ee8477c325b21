//! Pods whose isolation would cut off the agent or the node. Judges; reads nothing.

use std::collections::BTreeSet;

use super::Guard;

/// Names (15 bytes, as the kernel keeps them) of the daemons that make a machine a node.
const NODE_DAEMONS: [&str; 12] = [
    "kubelet",
    "kubelite",
    "hyperkube",
    "containerd",
    "crio",
    "dockerd",
    "cri-dockerd",
    "k3s-server",
    "k3s-agent",
    "k0s",
    "k3s",
    "rke2",
];

/// The guard that the process ids of a pod alone call for.
pub(super) fn of_pids(pids: &BTreeSet<i32>) -> Option<Guard> {
    let own = i32::try_from(std::process::id()).ok()?;
    if pids.contains(&own) {
        Some(Guard::AgentItself)
    } else if pids.contains(&1) {
        Some(Guard::NodeProcess { pid: 1, name: "init".to_owned() })
    } else {
        None
    }
}

/// The guard that a process in the network *and* mount namespaces of the node calls for.
///
/// Both are asked for because names prove nothing: a pod may run a `dockerd` of its own, but not in the node's root
/// file system. Not every such process is a daemon of the node: runtimes put monitors of theirs beside a pod's.
pub(super) fn of_node_process(pid: i32, name: &str) -> Option<Guard> {
    NODE_DAEMONS.contains(&name).then(|| Guard::NodeProcess { pid, name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_and_init_are_guarded() {
        let own = i32::try_from(std::process::id()).expect("a process id");
        assert_eq!(of_pids(&[1, own].into()), Some(Guard::AgentItself));
        assert_eq!(of_pids(&[1].into()), Some(Guard::NodeProcess { pid: 1, name: "init".to_owned() }));
        assert_eq!(of_pids(&[own + 1].into()), None);
    }

    #[test]
    fn daemons_are_guarded_and_monitors_are_not() {
        for name in ["kubelet", "containerd", "crio", "k3s", "k3s-server"] {
            assert_eq!(of_node_process(7, name), Some(Guard::NodeProcess { pid: 7, name: name.to_owned() }));
        }
        for name in ["conmon", "containerd-shim", "nginx", "kubelet-x", ""] {
            assert_eq!(of_node_process(7, name), None, "{name}");
        }
    }
}
