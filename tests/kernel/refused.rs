//! What is refused without `--force`: the agent's own pod, and processes of the node itself.

use std::process::Stdio;

use isolate_tests::{
    agent,
    channel::{Channel, Path},
    launch,
    pod::{Link, Spec},
};

use crate::{scene::Scene, suite::trials};

trials![the_agents_own_pod, a_pod_with_a_process_of_the_node];

fn the_agents_own_pod() {
    let host_network = Spec { link: Link::HostNetwork, ..Spec::default() };
    let scene = Scene::with(&host_network);
    let Scene { agent, web, neighbour, .. } = &scene;
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    let in_its_pod = |arguments: &[&str]| {
        let command = agent.command(arguments);
        agent::output(web.privileged(command.get_program()).args(command.get_args()).stdin(Stdio::null()))
    };
    let refused = in_its_pod(&["add", web.uid()]).expect(4);
    assert!(refused.text().contains("--force"), "it does not say what to do\n{}", refused.text());
    path.assert_flows();
    let forced = in_its_pod(&["add", "--force", web.uid()]);
    assert!(matches!(forced.code, 0 | 5), "{forced:?}");
    path.assert_cut();
}

/// A node daemon is one by its name and by living in the node's namespaces: a pod's own `kubelet` is none.
fn a_pod_with_a_process_of_the_node() {
    let host_network = Spec { link: Link::HostNetwork, ..Spec::default() };
    let scene = Scene::with(&host_network);
    let Scene { agent, web, neighbour, node } = &scene;
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    let kubelet = node.folder().join("kubelet");
    launch::copy("/bin/sleep", &kubelet);
    let mut process = web.privileged(&kubelet).arg("infinity").spawn().expect("the copy can be started");
    let refused = agent.run(&["add", web.uid()]).expect(4);
    assert!(refused.text().contains("kubelet"), "it does not say why\n{}", refused.text());
    path.assert_flows();
    let forced = agent.run(&["add", "--force", web.uid()]);
    assert!(matches!(forced.code, 0 | 5), "{forced:?}");
    path.assert_cut();
    process.kill().and_then(|()| process.wait()).expect("it runs until now");
}
