//! State files that cannot be read, and a state folder that cannot be written.

use std::{fs, path::PathBuf};

use isolate_tests::{
    agent::Agent,
    channel::{Channel, Path},
    pod::Spec,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use serde_json::{Value, json};

use super::isolated;
use crate::{scene::Scene, suite::trials};

trials![a_half_written_record, a_record_of_a_future_version, a_read_only_state_folder];

fn a_half_written_record() {
    spoilt(|record| {
        let half = record.len() / 2;
        record.truncate(half);
    });
}

fn a_record_of_a_future_version() {
    spoilt(|record| {
        let mut value: Value = serde_json::from_slice(record).expect("a record is JSON");
        let fields = value.as_object_mut().expect("a record is an object");
        let version = fields.iter_mut().find(|(name, _)| name.contains("version"));
        *version.expect("a record names its version").1 = json!(9999);
        *record = value.to_string().into_bytes();
    });
}

/// Spoils the record of an isolated pod while no daemon runs.
fn spoilt(spoil: fn(&mut Vec<u8>)) {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let daemon = agent.daemon();
    let loopback = Path::shown(Channel::ORDINARY, web.loopback(), web.loopback());
    let path = isolated(&scene);
    let bystander = Path::shown(Channel::ORDINARY, neighbour.loopback(), neighbour.loopback());
    daemon.kill();
    let file = record(agent);
    let mut content = fs::read(&file).expect("the record is there");
    spoil(&mut content);
    fs::write(&file, &content).expect("root may write it");

    for with_daemon in [true, false] {
        let _daemon = with_daemon.then(|| agent.daemon());
        path.assert_cut();
        loopback.assert_cut();
        bystander.assert_flows();
        assert_eq!(agent.isolated(), [web.uid()]);
        let told = agent.run(&["status"]);
        let name = file.file_name().expect("it is a file").to_string_lossy();
        assert!(told.text().contains(name.as_ref()), "status does not name the file\n{}", told.text());
    }
    let _daemon = agent.daemon();
    agent.remove(&[web.uid()]);
    path.assert_flows();
    loopback.assert_flows();
}

fn a_read_only_state_folder() {
    for with_daemon in [true, false] {
        let scene = Scene::new();
        let Scene { agent, neighbour, node, .. } = &scene;
        let state = agent.state();
        mount("state", &state, "tmpfs", MountFlags::empty(), None).expect("root may mount");
        let daemon = with_daemon.then(|| agent.daemon());
        let path = isolated(&scene);
        let late = node.pod(&Spec::default());
        let late_path = Path::shown(Channel::ORDINARY, late.end(), neighbour.end());
        mount_remount(&state, MountFlags::RDONLY, "").expect("nobody writes there now");

        // Cut first, record second: the responder gets the cut, and is told what it lacks.
        let added = agent.run(&["add", late.uid()]);
        assert!(added.code != 0, "{added:?}");
        assert!(added.text().contains(&state.display().to_string()), "it does not name the folder\n{}", added.text());
        late_path.assert_cut();
        path.assert_cut();
        drop(daemon);
        path.assert_cut();
        unmount(&state, UnmountFlags::DETACH).expect("it was mounted above");
    }
}

fn record(agent: &Agent) -> PathBuf {
    let files: Vec<PathBuf> = files(agent.state());
    let [file] = files.as_slice() else { panic!("one isolation, one record: {files:?}") };
    file.clone()
}

fn files(folder: PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the state folder is there").flatten().map(|entry| entry.path());
    let files = entries.flat_map(|path| if path.is_dir() { files(path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
}
