//! `cargo xtask demo --scene`: what becomes of the scene when a pod is cut off, plainly and with `--preserve`.

use std::{fs, process::ExitCode};

use isolate_tests::{
    agent::Agent,
    channel::{Channel, Path},
    kubelet::{Container, Kubelet, Marks, Numbers},
    node::Node,
    pod::{Pod, Spec},
};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::screen::Screen;

const UIDS: [&str; 2] = ["3f1c2d64-9b0e-4c57-8a21-5d7e6f0a1b2c", "8a60b7d1-52c3-4f0e-9d14-c1e2a3b4d5f6"];
const PORT: u16 = 80;
/// Attempts of the probe that are shown after a cut.
const ATTEMPTS: u32 = 6;

/// Shows both; succeeds if every claim held.
pub(crate) fn tell() -> ExitCode {
    set_parent_process_death_signal(Some(Signal::KILL)).expect("a process may ask for that");
    let screen = Screen::new();
    screen.step(
        "A node with a kubelet",
        "It probes the port of the container web once a second, and starts the container anew after two failures (by\n\
         default it would be every ten seconds, and three). A second container, worker, has no probe. In both a value in\n\
         memory and a file outside volumes mark the scene.",
    );
    let node = Node::new();
    let kubelet = Kubelet::start(&node, Numbers::SCALED_DOWN);
    let stage = Stage { screen: &screen, node: &node, kubelet: &kubelet };
    let plain = stage.play(UIDS[0], &[]);
    let preserved = stage.play(UIDS[1], &["--preserve"]);
    drop(kubelet);
    drop(node);
    if plain && preserved {
        screen.step("Done", "Cut off either way; with --preserve nothing of the scene is lost. Nothing of the demo is left on this machine.");
        return ExitCode::SUCCESS;
    }
    screen.step(
        "Failed",
        "What is marked WRONG above is not as it should be. Nothing of the demo is left on this machine.",
    );
    ExitCode::FAILURE
}

struct Stage<'a> {
    screen: &'a Screen,
    node: &'a Node,
    kubelet: &'a Kubelet,
}

impl Stage<'_> {
    /// Cuts a pod off with these options and shows what becomes of it; returns whether that was right.
    fn play(&self, uid: &str, options: &[&str]) -> bool {
        let pod = self.node.pod(&Spec { uid: Some(uid.to_owned()), containers: 0, ..Spec::default() });
        let neighbour = self.node.pod(&Spec::default());
        let attacker = pod.start_container();
        let listens = (pod.end_of(&attacker).v4, PORT).into();
        let mut web = Container::marked(self.node, &pod, uid, Some(listens));
        let worker = Container::marked(self.node, &pod, &format!("{uid}-worker"), None);
        let channels = Channel::ROUTED.into_iter().chain(Channel::LINK);
        let path = Path::shown(channels, pod.end_of(&attacker), neighbour.end());
        let agent =
            Agent::new(self.node).with_daemon_option("--kubelet-cgroup", &self.kubelet.cgroup().display().to_string());
        let daemon = agent.daemon();

        let preserved = !options.is_empty();
        let manifest = self.manifest(&pod);
        self.screen.step(
            if preserved {
                "Another such pod: cut off, and preserved"
            } else {
                "What will happen, if the pod is cut off plainly"
            },
            "The pod's specification tells it: here a manifest, on a node with kubelet's read API also from there.",
        );
        self.show(&agent, &[&["preview", uid, "--pod-manifest", &manifest], options].concat());
        self.screen.step("What does happen", "kubelet goes on to probe, from the node's side.");
        let before = self.kubelet.probe(&mut web, 2);
        self.show(&agent, &[&["add", uid, "--pod-manifest", &manifest], options].concat());
        let after = self.kubelet.probe(&mut web, ATTEMPTS);
        let open = path.open().len();
        let (expected, restarts) = if preserved { (Marks::BOTH, 0) } else { (Marks::NONE, ATTEMPTS / 2) };
        let rows = [
            ("kubelet's probe before", format!("{before} of 2 answered"), before == 2),
            (
                "kubelet's probe after",
                format!("{after} of {ATTEMPTS} answered"),
                after == if preserved { ATTEMPTS } else { 0 },
            ),
            ("web: started anew", format!("{} times", web.restarts()), web.restarts() == restarts),
            ("web: memory, file", told(web.marks()), web.marks() == expected),
            ("worker: memory, file", told(worker.marks()), worker.marks() == Marks::BOTH),
            ("ways out and in", format!("{open} of 20 open"), open == 0),
        ];
        for (name, result, right) in &rows {
            self.screen.row(name, result, if *right { Ok("as foreseen") } else { Err("not as foreseen") });
        }
        drop(daemon);
        rows.iter().all(|(_, _, right)| *right)
    }

    fn show(&self, agent: &Agent, arguments: &[&str]) {
        let folder = self.node.folder().display().to_string();
        self.screen.command("", &format!("isolate-agent {}", arguments.join(" ")).replace(&folder, "."));
        let output = agent.run(arguments).expect(0);
        print!("{}", output.stdout.replace(&folder, "."));
    }

    fn manifest(&self, pod: &Pod) -> String {
        let path = self.node.folder().join(format!("{}.yaml", pod.uid()));
        let text = format!(
            "kind: Pod\nmetadata: {{name: web, namespace: shop, uid: {}}}\nspec:\n  containers:\n\
             \x20 - name: web\n    livenessProbe: {{tcpSocket: {{port: {PORT}}}, periodSeconds: 1, failureThreshold: 2}}\n\
             \x20 - name: worker\n",
            pod.uid()
        );
        fs::write(&path, text).expect("the node's folder is writable");
        path.display().to_string()
    }
}

fn told(Marks { memory, layer }: Marks) -> String {
    let word = |kept| if kept { "kept" } else { "lost" };
    format!("{}, {}", word(memory), word(layer))
}
