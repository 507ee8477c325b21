//! Pods whose processes are allowed what goes past every hook: partly covered, and told why. A false "full" is the worst answer.

use isolate_tests::{
    agent::Output,
    bpf::{self, Object},
    channel::{Channel, Path},
    launch,
    pod::Spec,
    process::Process,
    program, wait,
    wire::{Raw, Request},
};

use crate::{scene::Scene, suite::trials};

trials![
    a_power_is_told_as_long_as_it_is_there,
    net_admin_in_a_user_namespace_of_its_own_is_nothing,
    a_thread_is_enough,
    a_program_to_come_is_enough,
    sys_admin_takes_the_hooks_off needs Bpftool Tcx,
    the_nodes_process_namespace_is_told,
];

/// What leaves something open on this kernel, and its name: where the LSM hook holds, `CAP_NET_ADMIN` is refused and does not.
fn telling() -> (&'static [u32], &'static str) {
    if program::lsm_missing().is_some() {
        (&[launch::NET_ADMIN], "CAP_NET_ADMIN")
    } else {
        (&[launch::SYS_ADMIN], "CAP_SYS_ADMIN")
    }
}

/// Isolates the pod, which must give this code; returns what stays open.
#[track_caller]
fn isolated(scene: &Scene, code: i32) -> Output {
    let added = scene.agent.run(&["add", scene.web.uid()]).expect(code);
    let isolation = scene.agent.isolation(scene.web.uid());
    assert_eq!(isolation["coverage"], if code == 0 { "full" } else { "partial" }, "{}", added.text());
    added
}

fn a_power_is_told_as_long_as_it_is_there() {
    let scene = Scene::new();
    let _daemon = scene.agent.daemon();
    let (capabilities, name) = telling();
    if program::lsm_missing().is_none() {
        let _refused = scene.web.attacker(&[launch::NET_ADMIN]);
        isolated(&scene, 0);
        scene.agent.remove(&[scene.web.uid()]);
    }
    let admin = scene.web.attacker(capabilities);
    let path = Path::shown(Channel::ORDINARY, scene.web.end(), scene.neighbour.end());
    let added = isolated(&scene, 5);
    for what in [name, &format!("process {} ", admin.pid()), "cgroup.freeze"] {
        assert!(added.text().contains(what), "{what} is not told\n{}", added.text());
    }
    path.assert_cut();
    drop(admin);
    isolated(&scene, 0);
    // A container that comes later, without another word to the agent.
    let _admin = scene.web.attacker(capabilities);
    wait::until("the status says so", || scene.agent.isolation(scene.web.uid())["coverage"] == "partial");
}

fn net_admin_in_a_user_namespace_of_its_own_is_nothing() {
    let scene = Scene::new();
    let mut unshare = scene.web.command("unshare");
    unshare.args(["--user", "--map-root-user"]);
    let admin = Process::behind(unshare);
    assert!(
        admin.call(&Request::Raw(Raw::Tun("tun0".to_owned()))).errno == libc::EPERM,
        "it has power over the pod's network"
    );
    isolated(&scene, 0);
}

/// The first thread of a process shows nothing of the others.
fn a_thread_is_enough() {
    let scene = Scene::new();
    let _daemon = scene.agent.daemon();
    let (capabilities, name) = telling();
    let admin = scene.web.attacker(capabilities);
    let hidden = admin.call(&Request::HideCapabilities);
    assert!(hidden.is_ok(), "it cannot give them up: {}", hidden.errno_name());
    let added = isolated(&scene, 5);
    assert!(added.text().contains(name), "{}", added.text());
}

/// A process without a capability gets it from a set-user-id program, unless it gave that up.
fn a_program_to_come_is_enough() {
    let scene = Scene::with(&Spec { capabilities: telling().0, containers: 0, ..Spec::default() });
    let nobody = |more: &[&str]| {
        let mut setpriv = scene.web.command("setpriv");
        setpriv.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).args(more);
        Process::behind(setpriv)
    };
    let process = nobody(&[]);
    let open = Request::Raw(Raw::Open { domain: libc::AF_PACKET, style: libc::SOCK_RAW, protocol: 0 });
    assert_eq!(process.call(&open).errno, libc::EPERM, "it has capabilities already");
    isolated(&scene, 5);
    drop(process);
    let _process = nobody(&["--no-new-privs"]);
    isolated(&scene, 0);
}

/// The pod takes the hook off the host end of its own veth, so that it is no wolf that was cried.
fn sys_admin_takes_the_hooks_off() {
    let scene = Scene::with(&Spec { capabilities: &[launch::SYS_ADMIN], ..Spec::default() });
    let daemon = scene.agent.daemon();
    let path = Path::shown(Channel::ORDINARY, scene.web.end(), scene.neighbour.end());
    let added = isolated(&scene, 5);
    assert!(added.text().contains("CAP_SYS_ADMIN"), "{}", added.text());
    path.assert_cut();
    daemon.kill();
    for object in bpf::pinned(&scene.node.folder().join("bpf")) {
        if let Object::Link(id) = object {
            launch::succeed(scene.web.command("bpftool").args(["link", "detach", "id", &id.to_string()]));
        }
    }
    path.assert_flows();
}

fn the_nodes_process_namespace_is_told() {
    let scene = Scene::new();
    let _daemon = scene.agent.daemon();
    let mut sleep = scene.web.command("sleep").arg("infinity").spawn().expect("coreutils is installed");
    let added = isolated(&scene, 5);
    assert!(added.text().contains("hostPID"), "{}", added.text());
    sleep.kill().and_then(|()| sleep.wait()).expect("it runs until now");
    isolated(&scene, 0);
}
