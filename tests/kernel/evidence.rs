//! The evidence bundle: what is in it, of a pod that does its best to be no easy subject, and what it leaves alone.

pub(crate) mod hanging;

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path as FilePath, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use isolate_tests::{
    channel::{Channel, Path},
    launch, wait,
    wire::{Family, Kind},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{scene::Scene, suite::trials};

trials![
    a_hostile_pod_is_read,
    the_cut_comes_after_it_and_in_time needs Pace,
    bad_requests_are_refused,
];

const SECRET: &str = "hunter2";
/// What `add` says of these pods: commands that a test starts in them see the node's processes.
const OF_THE_NODE: i32 = 5;

/// The files of a bundle, each as its manifest says it is.
fn unpack(path: &FilePath) -> BTreeMap<String, Vec<u8>> {
    let file = fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut tar = tar::Archive::new(zstd::Decoder::new(file).expect("it is zstd"));
    let mut files = BTreeMap::new();
    for entry in tar.entries().expect("it is a tar") {
        let mut entry = entry.expect("it is whole");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("it is whole");
        files.insert(entry.path().expect("a name").display().to_string(), bytes);
    }
    let manifest = json(&files, "manifest.json");
    eprintln!("{}: problems {}", path.display(), manifest["problems"]);
    let members = manifest["files"].as_array().expect("a list");
    assert_eq!(members.len() + 1, files.len(), "all but the manifest itself are in it");
    for member in members {
        let name = member["name"].as_str().expect("a name");
        assert_eq!(member["sha256"], sha256(&files[name]), "{name}");
    }
    files
}

fn json(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Value {
    serde_json::from_slice(&files[name]).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").expect("a string takes it");
        digits
    })
}

/// A program that was deleted since, with a name that steers terminals and breaks lines, in a folder that is a FIFO's
/// neighbour, with a FIFO open that nobody writes to.
fn hostile(scene: &Scene) -> (Child, Vec<u8>) {
    let folder = scene.node.folder().join("pod\n\x1b[31mfolder");
    fs::create_dir(&folder).expect("a new folder");
    let (program, fifo): (PathBuf, PathBuf) = (folder.join("mi\nner"), folder.join("fifo"));
    launch::copy("/bin/sleep", &program);
    let bytes = fs::read(&program).expect("copied just now");
    launch::succeed(Command::new("mkfifo").arg(&fifo));
    let open = fs::File::options().read(true).write(true).open(&fifo).expect("it is a FIFO");
    let child = scene
        .web
        .command(&program)
        .arg("1000")
        .current_dir(&folder)
        .env("TOKEN", SECRET)
        .stdin(open)
        .stdout(Stdio::null())
        .spawn()
        .expect("it is a program");
    fs::remove_file(&program).expect("it is there");
    (child, bytes)
}

fn a_hostile_pod_is_read() {
    let scene = Scene::new();
    let Scene { agent, web, node, .. } = &scene;
    let _daemon = agent.daemon();
    let (mut child, program) = hostile(&scene);
    let listener = web.app().socket(Kind::Tcp, Family::V4, Duration::from_secs(1));
    let address = listener.bind((web.end().v4, 0).into());
    let mut rule = launch::command("iptables", web.netns(), &node.service());
    launch::succeed(rule.args(["-A", "INPUT", "-s", "192.0.2.77", "-j", "ACCEPT"]));
    agent.run(&["add", web.uid(), "--reason", "a miner"]).expect(OF_THE_NODE);

    let file = node.folder().join("evidence.tar.zst");
    let taken = agent.run(&["evidence", web.uid(), "-w", &file.display().to_string(), "-o", "json"]).expect(0);
    assert_eq!(taken.json()["sha256"], sha256(&fs::read(&file).expect("it was made")));
    let files = unpack(&file);

    let process = json(&files, &format!("processes/{}/process.json", child.id()));
    let path = process["executable"]["path"].as_str().expect("a path");
    assert!(path.contains("pod\\n\\x1b[31mfolder/mi\\nner"), "{path}");
    assert_eq!(process["executable"]["deleted"], true);
    assert!(process["files"].as_array().expect("a list").iter().any(|file| {
        file["number"] == 0 && file["target"].as_str().is_some_and(|target| target.ends_with("/fifo"))
    }));
    let strings = json(&files, &format!("processes/{}/strings.json", child.id()));
    assert_eq!(strings["command"][1], "1000");
    assert!(strings["environment"].as_array().expect("a list").contains(&"TOKEN".into()));
    let everything: Vec<u8> = files.values().flatten().copied().collect();
    assert!(!everything.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()), "a value is in it");

    assert_eq!(files[&format!("executables/{}", sha256(&program))], program, "the deleted program is kept");
    let executables = json(&files, "executables.json");
    let live = executables.as_array().expect("a list").iter().find(|one| one["deleted"] == false);
    let live = live.expect("the pod's own process");
    let original = fs::read(live["path"].as_str().expect("a path")).expect("its file is there");
    assert_eq!(live["sha256"], sha256(&original));

    let text = |end: &str| -> String {
        let found = files.iter().filter(|(name, _)| name.starts_with("net/") && name.ends_with(end));
        found.map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned()).collect()
    };
    assert!(text("/proc/tcp").contains(&format!(":{:04X} ", address.port())), "{}", text("/proc/tcp"));
    assert!(text("/ss.txt").contains(&address.to_string()), "{}", text("/ss.txt"));
    assert!(text("/iptables.txt").contains("192.0.2.77"), "{}", text("/iptables.txt"));
    assert!(text("/addresses.json").contains(&web.end().v4.to_string()));
    assert!(text("/routes.json").contains("eth0"));
    assert!(files.keys().any(|name| name.starts_with("cgroup/") && name.ends_with("/cgroup.procs")));
    assert!(files.contains_key(&format!("processes/{}/mountinfo", child.id())));
    assert_eq!(json(&files, "isolation/record.json")["reason"], "a miner");
    assert!(String::from_utf8_lossy(&files["isolation/events.jsonl"]).contains("isolated"));
    assert_eq!(json(&files, "manifest.json")["complete"], true);

    let whole = node.folder().join("whole.tar.zst");
    agent.run(&["evidence", web.uid(), "--write", &whole.display().to_string(), "--with-env"]).expect(0);
    let strings = json(&unpack(&whole), &format!("processes/{}/strings.json", child.id()));
    assert!(strings["environment"].as_array().expect("a list").contains(&format!("TOKEN={SECRET}").into()));
    child.kill().and_then(|()| child.wait()).expect("it sleeps");
}

/// What was true before the cut is in it, and a pod with a thousand processes holds the cut up for no more than that.
fn the_cut_comes_after_it_and_in_time() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let _daemon = agent.daemon();
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    let patience = Duration::from_secs(2);
    let listener = neighbour.app().socket(Kind::Tcp, Family::V4, patience);
    let address = listener.bind((neighbour.end().v4, 0).into());
    let client = web.app().socket(Kind::Tcp, Family::V4, patience);
    assert!(client.connect(address).is_ok());
    let _accepted = listener.accept().expect("a connection waits");
    let mut crowd: Vec<Child> =
        (0..200).map(|_| web.command("sleep").arg("1000").spawn().expect("coreutils is installed")).collect();

    let file = node.folder().join("evidence.tar.zst");
    let started = Instant::now();
    agent.run(&["add", web.uid(), "--evidence", &file.display().to_string()]).expect(OF_THE_NODE);
    eprintln!("with evidence of 200 processes: {:?}", started.elapsed());
    path.assert_cut();
    let files = unpack(&file);
    let tcp = files.iter().find(|(name, _)| name.ends_with("/ss.txt")).expect("the node has ss");
    let tcp = String::from_utf8_lossy(tcp.1);
    assert!(tcp.lines().any(|line| line.contains("ESTAB") && line.contains(&address.to_string())), "{tcp}");
    assert!(!files.contains_key("isolation/record.json"), "it was taken before the pod was isolated");

    // It replaces nothing; the pod is isolated all the same.
    agent.remove(&[web.uid()]);
    let again = agent.run(&["add", web.uid(), "--evidence", &file.display().to_string()]).expect(1);
    assert!(again.stderr.contains("no evidence was taken") && again.stdout.contains("is isolated"), "{}", again.text());
    path.assert_cut();
    for child in &mut crowd {
        child.kill().and_then(|()| child.wait()).expect("it sleeps");
    }
    wait::until("they are gone", || crowd.iter_mut().all(|child| child.try_wait().is_ok()));
}

fn bad_requests_are_refused() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let file = node.folder().join("evidence.tar.zst").display().to_string();
    agent.run(&["evidence", "web-0!", "-w", &file]).expect(2);
    agent.run(&["evidence", "0f0e0d0c", "-w", &file]).expect(3);
    agent.run(&["evidence", web.uid()]).expect(2);
    agent.run(&["evidence", web.uid(), "-w", "/nonexistent/folder/x"]).expect(1);
    agent.run(&["add", web.uid(), neighbour.uid(), "--evidence", &file]).expect(2);
    agent.run(&["add", web.uid(), "--with-env"]).expect(2);
    assert!(agent.isolated().is_empty());
}
