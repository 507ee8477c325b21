//! The names of pods: every cgroup layout that kubelet makes, every spelling that a responder may type.

use isolate_tests::{
    channel::{Channel, Path},
    pod::{Driver, Qos, Spec},
    wire::Family,
};

use crate::{scene::Scene, suite::trials};

trials![every_cgroup_layout, every_spelling, static_pods];

const UDP: [Channel; 1] = [Channel::Udp(Family::V4)];

fn every_cgroup_layout() {
    let scene = Scene::new();
    let Scene { agent, neighbour, node, .. } = &scene;
    let _daemon = agent.daemon();
    for driver in [Driver::Systemd, Driver::Cgroupfs] {
        for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            for prefix in ["", "kubelet"] {
                let pod = node.pod(&Spec { driver, qos, prefix, ..Spec::default() });
                let path = Path::shown(UDP, pod.end(), neighbour.end());
                agent.add(&[pod.uid()]);
                path.assert_cut();
                assert!(agent.drops(pod.uid()) > 0);
                agent.remove(&[pod.uid()]);
                path.assert_flows();
            }
        }
    }
}

fn every_spelling() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let _daemon = agent.daemon();
    let path = Path::shown(UDP, web.end(), neighbour.end());
    let uid = web.uid();
    let prefix: String = uid.chars().take(8).collect();
    let spellings =
        [uid.replace('-', "_"), uid.replace('-', ""), uid.to_uppercase(), prefix.clone(), format!("{prefix}-00")];
    for spelling in spellings {
        agent.add(&[&spelling]);
        assert_eq!(agent.isolated(), [uid], "{spelling}");
        path.assert_cut();
        agent.remove(&[&spelling]);
        path.assert_flows();
    }
}

/// Their UID is the hash of their manifest, without dashes. A node is set up with them, so it takes `--force`.
fn static_pods() {
    let scene = Scene::new();
    let Scene { agent, neighbour, node, .. } = &scene;
    let _daemon = agent.daemon();
    for (driver, uid) in
        [(Driver::Systemd, "7f3c1e5a9b2d4f60718293a4b5c6d7e8"), (Driver::Cgroupfs, "5e3c1e5a9b2d4f60718293a4b5c6d7e8")]
    {
        let pod = node.pod(&Spec { uid: Some(uid.to_owned()), driver, ..Spec::default() });
        let path = Path::shown(UDP, pod.end(), neighbour.end());
        let refused = agent.run(&["add", uid]).expect(4);
        assert!(refused.text().contains("stop working"), "it does not say what for\n{}", refused.text());
        path.assert_flows();
        agent.add(&["--force", uid]);
        assert_eq!(agent.isolated(), [uid]);
        path.assert_cut();
        agent.remove(&[uid]);
        path.assert_flows();
    }
}
