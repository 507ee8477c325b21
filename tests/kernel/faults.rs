//! A crash after every step, and calls that fail: what was isolated stays so, and nothing is ever half released.
//!
//! Each case is proved by packets: either every channel of the pod is cut, or every one is open.

use std::{fs, os::unix::fs::symlink, process::Command};

use isolate_tests::{
    agent::Agent,
    channel::{Channel, Path},
    flood::Flood,
    launch, netdev,
    pod::Spec,
    program::{self, Place},
    wire::Family,
};

use crate::{arming::is_armed, scene::Scene, suite::trials};

trials![
    a_crash_in_add needs NextAgent,
    a_crash_in_remove needs NextAgent,
    a_crash_in_adopt needs NextAgent,
    a_crash_in_upgrade needs NextAgent,
    a_crash_in_replacement needs NextAgent Tcx,
    a_crash_in_start needs NextAgent Tcx,
    every_step_is_in_a_scenario needs NextAgent,
    a_state_folder_that_fails needs NextAgent,
    a_state_folder_that_is_full,
    a_bpffs_that_is_full needs NextAgent,
    no_fault_can_be_asked_of_the_usual_agent,
];

/// The answer of a program that leaves it to those behind it.
const TCX_NEXT: i32 = -1;
const INSTALL: [&str; 4] = ["draft made", "draft named", "pin", "object noted"];
const RECORD: [&str; 3] = ["write record", "record written", "record named"];
const CUT: [&str; 9] = [
    "SetPolicy",
    "SetCgroupKey",
    "SetVethKey",
    "OpenGate",
    "AttachCgroup",
    "AttachVeth",
    "AttachNetdev",
    "AttachXdp",
    "link attached",
];
const RELEASE: [&str; 9] = [
    "record deleted",
    "DetachXdp",
    "DetachNetdev",
    "link detached",
    "DetachCgroup",
    "DropCgroupKey",
    "DropVethKey",
    "NarrowGate",
    "Vacate",
];
const UPGRADE: [&str; 8] = [
    "draft made",
    "pin",
    "object noted",
    "state copied",
    "draft named",
    "link updated",
    "link moved",
    "old layout removed",
];
const START: [&str; 2] = ["HoldVeth", "AttachVeth"];
const REPLACE: [&str; 5] = ["program pinned", "link updated", "object noted", "next link pinned", "link replaced"];

/// One way through each hook: sockets over the veth and past it, and frames.
fn ways(scene: &Scene) -> [Path<'_>; 2] {
    let Scene { web, neighbour, .. } = scene;
    let udp = Channel::Udp(Family::V4);
    [Path::shown([udp, Channel::Frame], web.end(), neighbour.end()), Path::shown([udp], web.loopback(), web.loopback())]
}

fn open(ways: &[Path<'_>]) -> Vec<String> {
    ways.iter().flat_map(Path::open).collect()
}

/// After a restart a pod is cut, or it is not: no hook alone. Whether it is.
#[track_caller]
fn is_cut(agent: &Agent, ways: &[Path<'_>; 2], step: &str) -> bool {
    // A command is a restart: it looks at everything and makes a pass.
    let isolated = !agent.isolated().is_empty();
    if isolated {
        let open = open(ways);
        assert!(open.is_empty(), "after {step}: isolated, and open: {open:?}");
    } else {
        ways.iter().for_each(Path::assert_flows);
    }
    isolated
}

/// The steps at which a command was ended, of all.
fn each(agent: &Agent, arguments: &[&str], mut before: impl FnMut(), mut after: impl FnMut(&str)) -> Vec<String> {
    let mut met = Vec::new();
    for step in agent.steps() {
        before();
        if agent.crashes_at(&step, arguments) {
            after(&step);
            met.push(step);
        }
    }
    met
}

#[track_caller]
fn assert_met(met: &[String], expected: &[&[&str]]) {
    let missed: Vec<_> = expected.iter().copied().flatten().filter(|step| met.iter().all(|met| met != *step)).collect();
    assert!(missed.is_empty(), "the command did not come to {missed:?}, only to {met:?}");
}

fn a_crash_in_add() {
    let scene = Scene::new();
    let agent = scene.agent.upgraded();
    let ways = ways(&scene);
    let mut cut = 0;
    let met = each(
        &agent,
        &["add", scene.web.uid()],
        || drop(agent.run(&["uninstall", "--force"]).expect(0)),
        |step| cut += usize::from(is_cut(&agent, &ways, step)),
    );
    assert_met(&met, &[&INSTALL, &CUT, &RECORD]);
    assert!(cut >= CUT.len(), "what had been cut stays so");
    agent.remove(&["--all"]);
}

fn a_crash_in_remove() {
    let scene = Scene::new();
    let agent = scene.agent.upgraded();
    let ways = ways(&scene);
    let met = each(
        &agent,
        &["remove", scene.web.uid()],
        || drop(agent.run(&["add", scene.web.uid()]).expect(0)),
        // After the last step nothing is left that could be adopted: it is released, whole.
        |step| assert!(is_cut(&agent, &ways, step) || step == "Vacate", "half released after {step}"),
    );
    assert_met(&met, &[&RELEASE]);
    agent.remove(&["--all"]);
}

fn a_crash_in_adopt() {
    let scene = Scene::new();
    let agent = scene.agent.upgraded();
    let ways = ways(&scene);
    let record = agent.state().join(format!("isolations/{}.json", scene.web.uid()));
    let met = each(
        &agent,
        &["list"],
        || {
            agent.run(&["add", scene.web.uid()]).expect(0);
            fs::remove_file(&record).expect("there is a record");
        },
        |step| assert!(is_cut(&agent, &ways, step), "released after {step}"),
    );
    assert_met(&met, &[&RECORD]);
    agent.remove(&["--all"]);
}

fn a_crash_in_upgrade() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let newer = agent.upgraded();
    let ways = ways(&scene);
    let other = node.pod(&Spec::default());
    for pod in [neighbour, &other] {
        // Each scenario arms them anew.
        netdev::ready_for_filters(node.netns(), &pod.host_veths()[0]);
    }
    let healthy = Flood::start(neighbour.app(), other.app(), (other.end().v4, 0).into());
    let met = each(
        &newer,
        &["list"],
        || {
            newer.run(&["uninstall", "--force"]).expect(0);
            // Armed pods move as well.
            let daemon = agent.daemon();
            isolate_tests::wait::until("the pods are armed", || is_armed(node, &neighbour.host_veths()[0]));
            agent.add(&[web.uid()]);
            daemon.kill();
        },
        |step| {
            let open = open(&ways);
            assert!(open.is_empty(), "between {step} and the next start: {open:?}");
            assert!(is_cut(&newer, &ways, step), "released after {step}");
        },
    );
    assert_met(&met, &[&UPGRADE]);
    newer.remove(&["--all"]);
    assert_eq!(healthy.lost(), 0, "a healthy pod lost packets");
}

fn a_crash_in_replacement() {
    let scene = Scene::new();
    let Scene { web, node, .. } = &scene;
    let agent = scene.agent.upgraded();
    let ways = ways(&scene);
    let layouts = node.folder().join("bpf/isolate-agent");
    let index = netdev::index(node.netns(), &web.host_veths()[0]);
    let mut strangers = Vec::new();
    agent.add(&[web.uid()]);
    let met = each(
        &agent,
        &["list"],
        || {
            let layout = fs::read_dir(&layouts).expect("there are pins").flatten().next().expect("a layout").path();
            fs::remove_file(layout.join("object")).expect("the agent has noted its object");
            symlink("another", layout.join("object")).expect("bpffs has symbolic links");
            // A stranger who lets all programs behind it have their say: a hook is displaced, and nothing is open.
            let attach = |place| program::answer_first(place, index, TCX_NEXT).expect("a program can be attached");
            strangers.push([Place::TcxIngress, Place::TcxEgress].map(|place| node.netns().enter(|| attach(place))));
        },
        |step| {
            let open = open(&ways);
            assert!(open.is_empty(), "between {step} and the next start: {open:?}");
            assert!(is_cut(&agent, &ways, step), "released after {step}");
            assert!(is_armed(node, &web.host_veths()[0]), "not in front after {step}");
        },
    );
    assert_met(&met, &[&REPLACE]);
    agent.remove(&["--all"]);
}

/// The daemon alone has links follow.
fn a_crash_in_start() {
    let scene = Scene::new();
    let Scene { web, node, .. } = &scene;
    let agent = scene.agent.upgraded();
    let ways = ways(&scene);
    let veth = &web.host_veths()[0];
    for step in START {
        agent.add(&[web.uid()]);
        fs::remove_dir_all(node.folder().join("bpf/isolate-agent")).expect("the agent has made its pins");
        isolate_tests::wait::until("nothing is attached", || !is_armed(node, veth));
        ways.iter().for_each(Path::assert_flows);
        assert!(agent.crashes_at(step, &["daemon"]), "the start did not come to {step}");
        assert!(is_cut(&agent, &ways, step), "released after {step}");
        agent.remove(&["--all"]);
    }
}

/// A step that is added and that no scenario comes by would be tested by nothing.
fn every_step_is_in_a_scenario() {
    let scene = Scene::new();
    let scenarios = [&INSTALL[..], &RECORD, &CUT, &RELEASE, &UPGRADE, &START, &REPLACE].concat();
    let forgotten: Vec<_> =
        scene.agent.upgraded().steps().into_iter().filter(|step| !scenarios.contains(&step.as_str())).collect();
    assert!(forgotten.is_empty(), "no scenario comes by {forgotten:?}");
}

fn a_state_folder_that_fails() {
    let scene = Scene::new();
    let agent = scene.agent.upgraded();
    let ways = ways(&scene);
    for errno in [libc::EIO, libc::ENOSPC, libc::EROFS] {
        let faulty = agent.clone().with_variable("ISOLATE_FAULT", &format!("write record={errno}"));
        let told = faulty.run(&["add", scene.web.uid()]).expect(1);
        assert!(told.text().contains("would not survive a reboot"), "{}", told.text());
        assert_eq!(open(&ways), Vec::<String>::new(), "what is said to be isolated is not");
        assert!(is_cut(&agent, &ways, "a failed record"), "released by the next start");
        agent.remove(&["--all"]);
    }
}

/// The same with a real file system.
fn a_state_folder_that_is_full() {
    let scene = Scene::new();
    let Scene { web, node, .. } = &scene;
    let ways = ways(&scene);
    let small = node.folder().join("small");
    fs::create_dir(&small).expect("the node's folder is writable");
    launch::succeed(Command::new("mount").args(["-t", "tmpfs", "-o", "size=16k", "tmpfs"]).arg(&small));
    let agent = scene.agent.clone().with("--state-dir", &small);
    agent.add(&[web.uid()]);
    agent.remove(&[web.uid()]);
    let rest = small.join("rest");
    drop(fs::write(&rest, vec![1; 64 << 10]).expect_err("it is full before that"));
    let told = agent.run(&["add", web.uid()]).expect(1);
    assert!(told.text().contains("would not survive a reboot"), "{}", told.text());
    assert!(is_cut(&agent, &ways, "a full state folder"), "what is said to be isolated is not");
    let _daemon = agent.daemon();
    assert!(is_cut(&agent, &ways, "a full state folder"), "released by the next start");
    fs::remove_file(rest).expect("it is there");
    let told = agent.add(&[web.uid()]);
    assert!(!told.text().contains("reboot"), "{}", told.text());
    assert_eq!(agent.isolation(web.uid())["record"], "saved");
    agent.remove(&[web.uid()]);
}

fn a_bpffs_that_is_full() {
    let scene = Scene::new();
    let Scene { web, neighbour, node, .. } = &scene;
    let agent = scene.agent.upgraded();
    let ways = ways(&scene);
    let faulty = agent.clone().with_variable("ISOLATE_FAULT", &format!("pin={}", libc::ENOSPC));
    // Before anything is pinned: nothing is isolated, and that is said.
    let told = faulty.run(&["add", web.uid()]).expect(1);
    assert!(told.stderr.contains("isolated stays isolated"), "{}", told.text());
    assert!(!is_cut(&agent, &ways, "an installation that failed"));
    // Later: what was armed cuts, what cannot be pinned is said to be missing, and the next pass has it.
    let daemon = agent.daemon();
    isolate_tests::wait::until("the pods are armed", || is_armed(node, &web.host_veths()[0]));
    daemon.kill();
    let told = faulty.run(&["add", web.uid()]);
    assert!(matches!(told.code, 1 | 5), "{}", told.text());
    let [outside, _] = &ways;
    outside.assert_cut();
    assert!(is_cut(&agent, &ways, "a full bpffs"), "released by the next start");
    agent.remove(&["--all"]);
    Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
}

/// Nothing that acts on a fault is in the agent without the feature: not the variable's name, and not the look at the steps.
fn no_fault_can_be_asked_of_the_usual_agent() {
    let scene = Scene::new();
    let program = scene.agent.command(&["list"]).get_program().to_owned();
    let binary = fs::read(program).expect("the agent is built");
    for text in ["ISOLATE_FAULT", "is not in the list of steps"] {
        let found = binary.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(!found, "{text:?} is in the agent");
    }
    let told = scene.agent.clone().with_variable("ISOLATE_FAULT", "SetPolicy").add(&[scene.web.uid()]);
    assert_eq!(told.code, 0);
    scene.agent.remove(&[scene.web.uid()]);
}
