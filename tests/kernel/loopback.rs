//! The pod's own loopback: cut by default, kept on request, and never a way out.

use isolate_tests::channel::{Channel, Path};

use crate::{scene::Scene, suite::trials};

trials![cut_by_default, kept_on_request, the_later_request_counts];

fn cut_by_default() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let _daemon = agent.daemon();
    let path = Path::shown(Channel::ROUTED, web.loopback(), web.loopback());
    let to_itself = Path::shown(Channel::ROUTED, web.end(), web.end());
    let bystander = Path::shown(Channel::ROUTED, neighbour.loopback(), neighbour.loopback());
    agent.add(&[web.uid()]);
    path.assert_cut();
    to_itself.assert_cut();
    bystander.assert_flows();
    agent.remove(&[web.uid()]);
    path.assert_flows();
    to_itself.assert_flows();
}

fn kept_on_request() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let _daemon = agent.daemon();
    let path = Path::shown(Channel::ROUTED, web.loopback(), web.loopback());
    let out = Path::shown(Channel::ROUTED, web.end(), neighbour.end());
    agent.add(&[web.uid(), "--keep-loopback"]);
    path.assert_flows();
    out.assert_cut();
}

fn the_later_request_counts() {
    let scene = Scene::new();
    let Scene { agent, web, .. } = &scene;
    let _daemon = agent.daemon();
    let path = Path::shown(Channel::ORDINARY, web.loopback(), web.loopback());
    agent.add(&[web.uid(), "--keep-loopback"]);
    path.assert_flows();
    agent.add(&[web.uid()]);
    path.assert_cut();
    agent.add(&[web.uid(), "--keep-loopback"]);
    path.assert_flows();
}
