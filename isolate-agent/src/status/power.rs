//! What a pod can still do because of what its processes are allowed, in words.

use crate::inventory::{Pod, Power};

/// What stays open because of that. Where the LSM hook holds, `CAP_NET_ADMIN` is refused to an isolated pod.
pub(super) fn open_ways(pod: &Pod, lsm_holds: bool) -> Vec<String> {
    let Some(powers) = &pod.powers else {
        return vec![
            "what the pod's processes are allowed could not be looked at: they may have ways past the hooks".to_owned(),
        ];
    };
    let held: Vec<_> = powers.iter().filter(|(power, _)| !(lsm_holds && **power == Power::NetAdmin)).collect();
    if held.is_empty() {
        return Vec::new();
    }
    let remedy = pod.cgroup.as_ref().map_or_else(
        || "take the node off the network".to_owned(),
        |cgroup| {
            format!("`echo 1 > {}/cgroup.freeze` stops them, or take the node off the network", cgroup.path.display())
        },
    );
    let way = |(power, pid): (&Power, &i32)| format!("process {pid} {}; to close it: {remedy}", can(*power));
    held.into_iter().map(way).collect()
}

const fn can(power: Power) -> &'static str {
    match power {
        Power::NetAdmin => {
            "has or can get CAP_NET_ADMIN on the node: it can make devices (veth, macvlan, VXLAN) that send from the node's \
             network namespace, and what they carry passes no hook until the agent has seen them"
        }
        Power::SysAdmin => {
            "has or can get CAP_SYS_ADMIN on the node: it can take the hooks off, and act in other namespaces of the node"
        }
        Power::SysModule => "has or can get CAP_SYS_MODULE on the node: it can load code into the kernel",
        Power::NodeProcesses => {
            "sees the node's processes (hostPID): it can act through those that it may trace, and with sockets taken from them"
        }
    }
}
