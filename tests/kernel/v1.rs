//! A node without cgroup v2: the veth hook cuts, the cgroup hook is missing, and that is said.

use std::{
    fs,
    path::{Path as FilePath, PathBuf},
    process::Command,
};

use isolate_tests::{
    agent::Agent,
    channel::{Channel, Path},
    launch, name,
    pod::{Link, Pod, Spec},
};

use crate::{
    scene::{Scene, every_channel},
    suite::trials,
};

trials![the_veth_hook_cuts_alone, a_host_network_pod_stays_open_and_that_is_said];

/// A named hierarchy without controllers, mounted in the node's folder, with the node's pods in it.
struct Hierarchy {
    root: PathBuf,
    pods: Vec<PathBuf>,
}

impl Hierarchy {
    fn with(scene: &Scene) -> Self {
        let root = scene.node.folder().join("v1");
        fs::create_dir(&root).expect("the node's folder is writable");
        let options = format!("none,name={}", name::unique());
        launch::succeed(Command::new("mount").args(["-t", "cgroup", "-o", &options, "isolate-test"]).arg(&root));
        let mut hierarchy = Self { root, pods: Vec::new() };
        for pod in [&scene.web, &scene.neighbour] {
            hierarchy.admit(pod);
        }
        hierarchy
    }

    fn admit(&mut self, pod: &Pod) {
        let container = self.root.join("kubepods/burstable").join(format!("pod{}", pod.uid())).join("app");
        fs::create_dir_all(&container).expect("a cgroup can be made");
        fs::write(container.join("cgroup.procs"), pod.app().pid().to_string()).expect("the process runs");
        self.pods.push(container);
    }

    fn agent(&self, scene: &Scene) -> Agent {
        scene.agent.clone().with("--cgroup-root", &self.root)
    }
}

/// A hierarchy ends with its mount only if there is no cgroup in it.
impl Drop for Hierarchy {
    fn drop(&mut self) {
        let remove = |folder: &FilePath| {
            for pid in fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
                if let Err(error) = fs::write(self.root.join("cgroup.procs"), pid) {
                    eprintln!("clean-up: {pid}: {error}");
                }
            }
            if let Err(error) = fs::remove_dir(folder) {
                eprintln!("clean-up: {}: {error}", folder.display());
            }
        };
        for container in &self.pods {
            remove(container);
            container.parent().into_iter().for_each(remove);
        }
        for folder in ["kubepods/burstable", "kubepods"] {
            remove(&self.root.join(folder));
        }
    }
}

fn the_veth_hook_cuts_alone() {
    let scene = Scene::new();
    let hierarchy = Hierarchy::with(&scene);
    let Scene { web, neighbour, .. } = &scene;
    let agent = hierarchy.agent(&scene);
    let _daemon = agent.daemon();
    let path = Path::shown(every_channel(), web.end(), neighbour.end());
    let loopback = Path::shown(Channel::ORDINARY, web.loopback(), web.loopback());
    let added = agent.run(&["add", web.uid()]).expect(5);
    for told in ["cgroup hook", "cgroup v1", "loopback included"] {
        assert!(added.text().contains(told), "{told} is not told\n{}", added.text());
    }
    let isolation = agent.isolation(web.uid());
    assert_eq!(isolation["coverage"], "partial");
    let missing = isolation["hooks"].as_array().expect("a list").iter().filter(|hook| hook["state"] == "missing");
    assert!(missing.clone().count() > 0 && missing.clone().all(|hook| hook["hook"] == "cgroup"), "{isolation:#}");
    path.assert_cut();
    loopback.assert_flows();
    agent.remove(&[web.uid()]);
    path.assert_flows();
}

fn a_host_network_pod_stays_open_and_that_is_said() {
    let scene = Scene::with(&Spec { link: Link::HostNetwork, ..Spec::default() });
    let hierarchy = Hierarchy::with(&scene);
    let Scene { web, neighbour, .. } = &scene;
    let agent = hierarchy.agent(&scene);
    let path = Path::shown(Channel::ROUTED, web.end(), neighbour.end());
    let added = agent.run(&["add", web.uid()]).expect(1);
    for told in ["NOT cut off", "cgroup v1"] {
        assert!(added.text().contains(told), "{told} is not told\n{}", added.text());
    }
    path.assert_flows();
    agent.remove(&[web.uid()]);
}
