//! Arming: the programs stand on every pod's host veth, first in the chain, before anything is isolated.

use aya::programs::TcAttachType::{self, Egress, Ingress};
use isolate_common::names::{CGROUP_IN, CGROUP_OUT, VETH_IN, VETH_OUT};
use isolate_tests::{
    bpf::{self, programs},
    channel::{Channel, Path},
    node::Node,
    pod::{Link, Pod, Spec},
    wait,
};

use crate::{scene::Scene, suite::trials};

trials![
    every_pod_is_armed_and_nothing_else,
    what_comes_later_is_armed_too,
    an_armed_pod_is_cut,
    no_cgroup_has_a_program_but_that_of_an_isolated_pod,
    on_demand_attaches_only_what_is_isolated,
];

fn every_pod_is_armed_and_nothing_else() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let _host = node.pod(&Spec { link: Link::HostNetwork, ..Spec::default() });
    let _daemon = agent.daemon();
    for veth in web.host_veths().iter().chain(neighbour.host_veths()) {
        wait::until("the pods are armed", || is_armed(node, veth));
    }
    for device in ["lo", "cni0", "cni1"] {
        assert_eq!(chains(node, device), [Vec::<String>::new(), Vec::new()], "the node's own {device} was touched");
    }
}

fn what_comes_later_is_armed_too() {
    let mut scene = Scene::new();
    let _daemon = scene.agent.daemon();
    let late = scene.node.pod(&Spec { link: Link::Routed, ..Spec::default() });
    wait::until("a new pod is armed", || is_armed(&scene.node, &late.host_veths()[0]));
    let second = scene.web.add_interface();
    wait::until("a new interface is armed", || is_armed(&scene.node, &second));
}

fn an_armed_pod_is_cut() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let _daemon = agent.daemon();
    let late = node.pod(&Spec::default());
    wait::until("it is armed", || is_armed(node, &late.host_veths()[0]));
    let path = Path::shown(Channel::ROUTED, late.end(), neighbour.end());
    let bystander = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    agent.add(&[late.uid()]);
    path.assert_cut();
    bystander.assert_flows();
}

fn no_cgroup_has_a_program_but_that_of_an_isolated_pod() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let ours = |pod: &Pod| {
        bpf::of_cgroup(pod.cgroup()).map(|names| names.iter().filter(|name| name.starts_with("iso_")).count())
    };
    let _daemon = agent.daemon();
    wait::until("the pods are armed", || [web, neighbour].iter().all(|pod| is_armed(node, &pod.host_veths()[0])));
    assert_eq!((ours(web), ours(neighbour)), ([0, 0], [0, 0]), "armed, and nothing isolated");
    agent.add(&[web.uid()]);
    let [into, out] = bpf::of_cgroup(web.cgroup());
    assert!(into.iter().any(|name| name == CGROUP_IN) && out.iter().any(|name| name == CGROUP_OUT), "{into:?} {out:?}");
    assert_eq!(ours(neighbour), [0, 0], "another pod is isolated");
    agent.remove(&[web.uid()]);
    wait::until("the programs are detached", || ours(web) == [0, 0]);
}

fn on_demand_attaches_only_what_is_isolated() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let _daemon = agent.clone().with_daemon_option("--arm", "on-demand").daemon();
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    let (own, other) = (&web.host_veths()[0], &neighbour.host_veths()[0]);
    let nothing = [Vec::<String>::new(), Vec::new()];
    assert_eq!((chains(node, own), chains(node, other)), (nothing.clone(), nothing.clone()));
    agent.add(&[web.uid()]);
    path.assert_cut();
    assert!(is_armed(node, own));
    assert_eq!(chains(node, other), nothing, "the neighbour was touched");
    agent.remove(&[web.uid()]);
    path.assert_flows();
    wait::until("the programs are detached", || chains(node, own) == nothing);
}

/// Ours are at the head of both chains. What leaves the pod comes in on the host veth.
pub(crate) fn is_armed(node: &Node, veth: &str) -> bool {
    let [ingress, egress] = chains(node, veth);
    ingress.first().is_some_and(|name| name == VETH_OUT) && egress.first().is_some_and(|name| name == VETH_IN)
}

fn chains(node: &Node, device: &str) -> [Vec<String>; 2] {
    [Ingress, Egress].map(|direction: TcAttachType| programs(node.netns(), device, direction))
}
