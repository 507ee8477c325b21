//! Pods by their names: what is said, what is refused, and which of two is meant.

use isolate_tests::cri::{CriSpec, Network};

use super::{Scene, knows, page};
use crate::suite::trials;

trials![
    a_pod_is_cut_and_released_by_its_name needs Containerd,
    without_a_daemon_names_work_as_well needs Containerd Pace,
    what_the_node_needs_is_refused needs Containerd,
    a_pod_that_follows_another_of_its_name needs Containerd,
];

fn a_pod_is_cut_and_released_by_its_name() {
    let scene = Scene::with(CriSpec { containers: 2, ..CriSpec::default() });
    let Scene { web, neighbour, agent, node } = &scene;
    let _daemon = agent.daemon();
    let (name, uid) = (web.name(), web.uid());
    knows(agent, &name);
    let path = scene.path();
    assert!(page(node, web).contains("ok"), "its own container is heard");
    let second = web.process_in(1);

    let added = agent.run(&["add", &name, "--reason", "beacons"]).expect(0);
    assert!(added.text().contains(&format!("pod {name} ({uid}) is isolated")), "{}", added.text());
    path.assert_cut();
    path.used_by(&second).assert_cut();
    assert_eq!(page(node, web), "", "its own container is still heard");
    assert!(page(node, neighbour).contains("ok"), "the neighbour is not");
    let isolation = agent.isolation(uid);
    assert_eq!(
        format!("{}/{}", isolation["namespace"].as_str().unwrap_or(""), isolation["name"].as_str().unwrap_or("")),
        name
    );
    assert_eq!(isolation["ips"], serde_json::json!([web.ip()]));
    assert_eq!(isolation["labels"]["app"], "web");
    assert_eq!(isolation["coverage"], "full", "{isolation:#}");
    let table = agent.run(&["list"]).expect(0);
    assert!(table.stdout.contains(&name), "{}", table.text());
    let status = agent.run(&["status", &name]).expect(0);
    assert!(status.stdout.contains(uid) && status.stdout.contains(&name), "{}", status.text());

    let removed = agent.run(&["remove", &name]).expect(0);
    assert!(removed.text().contains(&format!("pod {name} ({uid}) is released")), "{}", removed.text());
    path.assert_flows();
    path.used_by(&second).assert_flows();
    assert!(page(node, web).contains("ok"));
    let events = agent.run(&["events", &name]).expect(0);
    assert!(events.stdout.contains("released"), "{}", events.text());
}

fn without_a_daemon_names_work_as_well() {
    let scene = Scene::with(CriSpec::default());
    let Scene { web, agent, .. } = &scene;
    let path = scene.path();
    agent.run(&["add", &web.name()]).expect(0);
    path.assert_cut();
    agent.run(&["remove", &web.name()]).expect(0);
    path.assert_flows();
    agent.run(&["add", "default/nobody"]).expect(3);
    agent.run(&["add", "nobody"]).expect(2);
}

fn what_the_node_needs_is_refused() {
    let dns = CriSpec { namespace: "kube-system".to_owned(), name: "coredns-1".to_owned(), ..CriSpec::default() };
    let scene = Scene::with(dns);
    let Scene { web, agent, node, .. } = &scene;
    let _daemon = agent.daemon();
    let annotations = vec![("kubernetes.io/config.source".to_owned(), "file".to_owned())];
    let proxy = node.pod(CriSpec { network: Network::Node, annotations, ..CriSpec::default() });
    let path = scene.path();
    for (pod, said) in [(web, "DNS"), (&proxy, "static pod")] {
        knows_refusal(agent, &pod.name());
        // By its UID too: the name is known.
        for query in [pod.name(), pod.uid().to_owned()] {
            let refused = agent.run(&["add", &query]).expect(4);
            assert!(refused.text().contains(said) && refused.text().contains("stop working"), "{}", refused.text());
        }
    }
    path.assert_flows();
    agent.add(&["--force", &web.name()]);
    path.assert_cut();
}

fn knows_refusal(agent: &isolate_tests::agent::Agent, name: &str) {
    isolate_tests::wait::until("the runtime tells the name", || agent.run(&["add", "--dry-run", name]).code == 4);
}

fn a_pod_that_follows_another_of_its_name() {
    let named = || CriSpec { name: "db-0".to_owned(), ..CriSpec::default() };
    let mut scene = Scene::with(named());
    let old = scene.web.uid().to_owned();
    let agent = scene.agent.clone();
    let _daemon = agent.daemon();
    knows(&agent, "default/db-0");
    // Two that run: nobody can say which is meant.
    let new = scene.node.pod(named());
    isolate_tests::wait::until("the runtime tells of both", || {
        agent.run(&["add", "--dry-run", "default/db-0"]).code == 2
    });
    let refused = agent.run(&["add", "default/db-0"]).expect(2);
    assert!(refused.text().contains(&old) && refused.text().contains(new.uid()), "{}", refused.text());
    assert_eq!(agent.isolated(), [""; 0]);
    // One that has ended and one that runs: the running one.
    scene.web.stop();
    isolate_tests::wait::until("the old one is seen to have ended", || {
        agent.run(&["add", "--dry-run", "default/db-0"]).code == 0
    });
    agent.run(&["add", "default/db-0"]).expect(0);
    assert_eq!(agent.isolated(), [new.uid()]);
    agent.run(&["remove", "default/db-0"]).expect(0);
    assert_eq!(agent.isolated(), [""; 0]);
}
