//! The limit on isolated pods: reaching it refuses the next one and releases nobody.

use isolate_tests::{
    channel::{Channel, Path},
    pod::Spec,
};

use crate::{scene::Scene, suite::trials};

trials![the_third_of_two_is_told_why, the_limit_holds_without_a_daemon];

fn the_third_of_two_is_told_why() {
    fill(true);
}

fn the_limit_holds_without_a_daemon() {
    fill(false);
}

fn fill(with_daemon: bool) {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let (third, peer) = (node.pod(&Spec::default()), node.pod(&Spec::default()));
    let agent = agent.clone().with_variable("ISOLATE_MAX_ISOLATED", "2");
    let _daemon = with_daemon.then(|| agent.daemon());
    let to_peer = |end| Path::shown(Channel::ORDINARY, end, peer.end());
    let isolated = [to_peer(web.end()), to_peer(neighbour.end())];
    let refused = to_peer(third.end());
    agent.add(&[web.uid()]);
    agent.add(&[neighbour.uid()]);
    let full = agent.run(&["add", third.uid()]).expect(1);
    assert!(full.text().contains("max-isolated"), "it does not say what to do\n{}", full.text());
    assert!(full.text().contains(third.uid()), "it does not say which pod\n{}", full.text());
    isolated.iter().for_each(Path::assert_cut);
    refused.assert_flows();
    agent.add(&[web.uid(), "--reason", "again: it has its place"]);
    agent.remove(&[web.uid()]);
    agent.add(&[third.uid()]);
    refused.assert_cut();
    isolated[0].assert_flows();
    isolated[1].assert_cut();
}
