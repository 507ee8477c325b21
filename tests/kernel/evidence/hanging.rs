//! File systems that stop answering: the one that the pod's program is on, and the one that the evidence is written to. The cut
//! waits for neither, and the command comes to its end.

use std::{
    fs,
    path::Path as FilePath,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use isolate_tests::{flood::Flood, fuse::Fuse, wait};

use super::{OF_THE_NODE, json, unpack};
use crate::{scene::Scene, suite::trials};

trials![the_pods_file_system_delays_nothing needs Pace, the_evidences_own_file_system_delays_nothing];

/// Nothing is heard of the collector for a minute before nobody waits for it.
const PATIENCE: Duration = Duration::from_mins(3);

/// Whether asking for a file's length comes back: on a thread that may hang.
fn answers(path: &FilePath, patience: Duration) -> bool {
    let path = path.to_owned();
    let asked = thread::spawn(move || drop(fs::metadata(path)));
    wait::happens_within(patience, || asked.is_finished())
}

/// Starts to isolate the pod with evidence, and waits until the pod's stream stops.
fn cut(scene: &Scene, file: &FilePath) -> Child {
    let Scene { agent, web, neighbour, .. } = scene;
    let flood = Flood::start(web.app(), neighbour.app(), (neighbour.end().v4, 0).into());
    let mut command = agent.command(&["add", web.uid(), "--evidence", &file.display().to_string()]);
    let add = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the agent can be started");
    wait::until("the pod's stream stops", || {
        let before = flood.received();
        thread::sleep(Duration::from_millis(200));
        flood.received() == before
    });
    add
}

/// What the command says and how it ends, which it must do while the file system hangs.
fn ends(mut add: Child) -> (Option<i32>, String) {
    let ended = wait::happens_within(PATIENCE, || add.try_wait().expect("a child can be waited for").is_some());
    if !ended {
        drop(add.kill());
    }
    assert!(ended, "the command waits for ever");
    let output = add.wait_with_output().expect("it has ended");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn the_pods_file_system_delays_nothing() {
    let scene = Scene::new();
    let (web, node) = (&scene.web, &scene.node);
    let _daemon = scene.agent.daemon();
    let fuse = Fuse::mount(&node.folder().join("fuse"), &fs::read("/bin/sleep").expect("coreutils is installed"));
    let mut child = web.command(fuse.program()).arg("1000").spawn().expect("it is a program");
    let exe = format!("/proc/{}/exe", child.id());
    wait::until("it runs", || fs::read_link(&exe).is_ok_and(|path| path == fuse.program()));
    let before = node.folder().join("before.tar.zst");
    scene.agent.run(&["evidence", web.uid(), "-w", &before.display().to_string()]).expect(0);
    let of_it = |files: &std::collections::BTreeMap<String, Vec<u8>>| {
        let executables = json(files, "executables.json");
        let mut all = executables.as_array().expect("a list").iter();
        all.any(|one| one["processes"].as_array().is_some_and(|pids| pids.contains(&child.id().into())))
    };
    assert!(of_it(&unpack(&before)), "it is read while the file system answers");

    fuse.hold();
    assert!(!answers(FilePath::new(&exe), Duration::from_secs(3)), "the file system answers");
    let file = node.folder().join("evidence.tar.zst");
    let (code, said) = ends(cut(&scene, &file));
    assert_eq!(code, Some(OF_THE_NODE), "{said}");
    assert!(said.contains("could not be had"), "{said}");
    let files = unpack(&file);
    let problems = json(&files, "manifest.json")["problems"].to_string();
    assert!(problems.contains(&format!("executable of process {}", child.id())), "{problems}");
    assert!(!of_it(&files) && fuse.held() > 0);
    // The other processes are in it all the same.
    assert!(files.contains_key(&format!("processes/{}/process.json", web.app().pid())));
    fuse.release();
    child.kill().and_then(|()| child.wait()).expect("it sleeps");
}

fn the_evidences_own_file_system_delays_nothing() {
    let scene = Scene::new();
    let _daemon = scene.agent.daemon();
    let fuse = Fuse::mount(&scene.node.folder().join("fuse"), b"");
    let file = scene.node.folder().join("fuse/evidence.tar.zst");
    scene.agent.run(&["evidence", scene.web.uid(), "-w", &file.display().to_string()]).expect(0);
    assert!(unpack(&file).contains_key("executables.json"), "it can be written to while it answers");

    fuse.hold();
    assert!(!answers(&file, Duration::from_secs(3)), "the file system answers");
    let again = scene.node.folder().join("fuse/again.tar.zst");
    let (code, said) = ends(cut(&scene, &again));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no evidence was taken") && said.contains("is isolated"), "{said}");
    assert!(fuse.held() > 0);
}
