//! Hooks that are filters of a clsact qdisc: beside other owners' filters, taken away by others, and on a node that used
//! tcx before.

use aya::programs::TcAttachType::{self, Egress, Ingress};
use isolate_common::names::{VETH_IN, VETH_OUT};
use isolate_tests::{
    bpf::{self, Filter},
    channel::{Channel, Path},
    launch,
    node::Node,
    wait,
};
use libtest_mimic::Trial;

use crate::{
    arming, containers, crash, escape, isolate, leaving,
    scene::Scene,
    suite::{self, trials},
};

trials![a_filter_cuts_and_goes];

/// What holds with links must hold with filters.
pub(crate) fn others() -> Vec<Trial> {
    let subjects =
        [isolate::trials, containers::trials, crash::trials, arming::trials, leaving::trials, escape::trials];
    subjects.into_iter().flat_map(|trials| suite::attaching_by("clsact", trials)).collect()
}

/// The side of the host end that frames out of the pod come in at, and the other.
const SIDES: [(TcAttachType, &str, &str); 2] = [(Ingress, "ingress", VETH_OUT), (Egress, "egress", VETH_IN)];

fn ours(filters: &[Filter]) -> Vec<&Filter> {
    filters.iter().filter(|filter| filter.program.starts_with("iso_")).collect()
}

/// Nothing of the pod's is left on its host end, not even the qdisc.
fn is_bare(node: &Node, veth: &str) -> bool {
    let show = ["-n", node.netns().name(), "qdisc", "show", "dev", veth];
    let output = launch::succeed(std::process::Command::new("tc").args(show));
    !String::from_utf8_lossy(&output.stdout).contains("clsact")
}

fn a_filter_cuts_and_goes() {
    let scene = Scene::new();
    let Scene { web, neighbour, node, .. } = &scene;
    let agent = scene.agent.clone().with_veth_hook("clsact").with_daemon_option("--arm", "on-demand");
    let _daemon = agent.daemon();
    let path = Path::shown(Channel::ROUTED.into_iter().chain(Channel::LINK), web.end(), neighbour.end());
    let veth = &web.host_veths()[0];
    assert!(is_bare(node, veth));

    agent.add(&[web.uid()]);
    path.assert_cut();
    for (side, _, program) in SIDES {
        assert_eq!(bpf::tcx_chain(node.netns(), veth, side), Vec::<String>::new(), "tcx was used");
        let filters = bpf::filters(node.netns(), veth, side);
        assert_eq!(ours(&filters).len(), 1, "{filters:?}");
        assert_eq!(filters[0].program, program);
    }
    assert!(is_bare(node, &neighbour.host_veths()[0]), "the neighbour was touched");

    agent.remove(&[web.uid()]);
    path.assert_flows();
    wait::until("the filters and their qdisc are gone", || is_bare(node, veth));
}
