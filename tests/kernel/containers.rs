//! Pods of several containers, and pods on the node's own network.

use isolate_tests::{
    channel::{Channel, Path},
    flood::Flood,
    pod::{Link, Spec},
    wait,
};

use crate::{
    arming::is_armed,
    scene::{Scene, every_channel},
    suite::trials,
};

trials![a_pod_of_several_containers_is_cut_as_one, a_host_network_pod_is_cut_and_the_node_goes_on];

fn a_pod_of_several_containers_is_cut_as_one() {
    let scene = Scene::with(&Spec { containers: 3, ..Spec::default() });
    let Scene { agent, web, neighbour, .. } = &scene;
    let _daemon = agent.daemon();
    let of = |number| web.end_of(web.container(number));
    let paths = [0, 1, 2].map(|number| Path::shown(Channel::ROUTED, of(number), neighbour.end()));
    let between = Path::shown(Channel::ORDINARY, web.loopback(), web.loopback_of(web.container(2)));
    agent.add(&[web.uid()]);
    let late = web.start_container();
    paths.iter().for_each(Path::assert_cut);
    between.assert_cut();
    paths[0].used_by(&late).assert_cut();
    between.used_by(&late).assert_cut();
    agent.remove(&[web.uid()]);
    paths.iter().for_each(Path::assert_flows);
    paths[0].used_by(&late).assert_flows();
    between.assert_flows();
}

fn a_host_network_pod_is_cut_and_the_node_goes_on() {
    let host_network = Spec { link: Link::HostNetwork, ..Spec::default() };
    let scene = Scene::with(&host_network);
    let Scene { agent, web, neighbour, node } = &scene;
    let (kubelet, other) = (node.process(), node.pod(&host_network));
    let _daemon = agent.daemon();
    // The kernel stops an interface for a moment while it gives it a clsact qdisc.
    wait::until("the neighbour is armed", || is_armed(node, &neighbour.host_veths()[0]));
    let path = Path::shown(Channel::ROUTED, web.end(), neighbour.end());
    let loopback = Path::shown(Channel::ORDINARY, web.loopback(), web.loopback());
    let bystanders = [node.end(&kubelet), other.end()].map(|end| Path::shown(every_channel(), end, neighbour.end()));
    let flow = Flood::start(&kubelet, neighbour.app(), (neighbour.end().v4, 0).into());
    let other_flow = Flood::start(neighbour.app(), other.app(), (other.end().v6, 0).into());

    let added = agent.run(&["add", web.uid()]);
    let partly = match added.code {
        0 => false,
        5 => true,
        code => panic!("exit code {code}\n{}", added.text()),
    };
    let isolation = agent.isolation(web.uid());
    assert_eq!(isolation["host_network"], true);
    assert_eq!(isolation["coverage"], if partly { "partial" } else { "full" }, "the exit code says something else");
    if partly {
        assert!(added.text().contains("packet socket"), "it does not say what stays open\n{}", added.text());
    }
    path.assert_cut();
    loopback.assert_cut();
    bystanders.iter().for_each(Path::assert_flows);

    agent.remove(&[web.uid()]);
    path.assert_flows();
    loopback.assert_flows();
    assert_eq!((flow.lost(), other_flow.lost()), (0, 0), "the node or another pod lost datagrams");
}
