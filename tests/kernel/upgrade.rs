//! Another agent takes over what one has pinned, under flood: nothing passes, and no healthy pod loses a packet.

use std::{fs, os::unix::fs::symlink, path::PathBuf, thread, time::Duration};

use aya::programs::{ProgramInfo, loaded_links};
use isolate_tests::{
    bpf::{self, Object},
    channel::{Channel, Path},
    flood::Flood,
    node::Node,
    observe::Observer,
    pod::Spec,
    wait,
};

use crate::{
    arming::is_armed,
    scene::{Scene, every_channel},
    suite::trials,
};

trials![
    another_layout_takes_over_under_a_flood needs NextAgent,
    other_programs_take_over_under_a_flood,
    an_older_agent_refuses_and_changes_nothing needs NextAgent,
];

/// Long enough for hundreds of datagrams of each flood.
const STRETCH: Duration = Duration::from_millis(500);

fn layouts(node: &Node) -> Vec<PathBuf> {
    let folder = node.folder().join("bpf/isolate-agent");
    let mut layouts: Vec<_> =
        fs::read_dir(folder).expect("an agent has made its pins").flatten().map(|e| e.path()).collect();
    layouts.sort();
    layouts
}

/// What happens to the node while `change` replaces the agent.
fn under_a_flood(scene: &Scene, change: impl FnOnce()) {
    let Scene { agent, web, neighbour, node } = scene;
    let other = node.pod(&Spec::default());
    let daemon = agent.daemon();
    let path = Path::shown(every_channel(), web.end(), neighbour.end());
    for pod in [web, neighbour, &other] {
        wait::until("the pods are armed", || is_armed(node, &pod.host_veths()[0]));
    }
    let into = Flood::start(neighbour.app(), web.app(), (web.end().v4, 0).into());
    let out = Flood::start(web.app(), neighbour.app(), (neighbour.end().v6, 0).into());
    let (inside, outside) = (Observer::start(web.netns(), "eth0"), Observer::start(neighbour.netns(), "eth0"));
    agent.add(&[web.uid(), "--reason", "kept over an upgrade", "--keep-loopback"]);
    let loopback = Path::shown(Channel::ORDINARY, web.loopback(), web.loopback());
    let healthy = Flood::start(neighbour.app(), other.app(), (other.end().v4, 0).into());
    Observer::begin([&inside, &outside]);
    let (before, drops) = ((into.received(), out.received()), agent.drops(web.uid()));
    assert!(drops > 0);

    daemon.kill();
    change();
    thread::sleep(STRETCH);
    assert_eq!((into.received(), out.received()), before, "datagrams got through");
    let mac = web.end().mac;
    assert_eq!((inside.not_from(mac), outside.from(mac)), (0, 0), "frames got through");
    path.assert_cut();
    loopback.assert_flows();
    assert!(healthy.received() > 100);
    assert_eq!(healthy.lost(), 0, "a healthy pod lost packets");
}

fn another_layout_takes_over_under_a_flood() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let newer = agent.upgraded();
    let mut old = Vec::new();
    under_a_flood(&scene, || {
        let before = layouts(node);
        old = bpf::pinned(&before[0].join("maps"));
        let drops = newer.drops(web.uid());
        assert!(drops > 0, "the counters began anew");
        let _daemon = newer.daemon();
        assert_eq!(layouts(node).len(), 1, "{:?}", layouts(node));
        assert_ne!(layouts(node), before, "it is the same layout");
        for pod in [web, neighbour] {
            assert!(is_armed(node, &pod.host_veths()[0]));
        }
        thread::sleep(STRETCH);
        let isolation = newer.isolation(web.uid());
        assert_eq!((&isolation["reason"], &isolation["coverage"]), (&"kept over an upgrade".into(), &"full".into()));
        assert!(newer.drops(web.uid()) > drops, "the new programs do not count");
    });
    wait::until("nothing of the old layout is left", || bpf::alive(&old).is_empty());
    let _daemon = newer.daemon();
    newer.remove(&[web.uid()]);
    Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
}

/// What a note says that is of another object: the same layout, other programs.
fn other_programs_take_over_under_a_flood() {
    let scene = Scene::new();
    let Scene { agent, web, node, .. } = &scene;
    under_a_flood(&scene, || {
        let [layout] = &layouts(node)[..] else { panic!("{:?}", layouts(node)) };
        let program = || ProgramInfo::from_pin(layout.join("programs/iso_veth_in")).expect("it is pinned").id();
        let before = program();
        fs::remove_file(layout.join("object")).expect("the agent has noted its object");
        symlink("another", layout.join("object")).expect("bpffs has symbolic links");
        let _daemon = agent.daemon();
        // It has opened its socket, and answers when it has taken over.
        assert_eq!(agent.isolated(), [web.uid()]);
        assert_ne!(program(), before, "the programs are the same");
        let ours: Vec<u32> = bpf::pinned(&layout.join("links"))
            .iter()
            .filter_map(|object| match object {
                Object::Link(id) => Some(*id),
                _ => None,
            })
            .collect();
        let of_old = loaded_links().flatten().filter(|link| ours.contains(&link.id()) && link.program_id() == before);
        assert_eq!(of_old.count(), 0, "links run the old programs");
        thread::sleep(STRETCH);
        assert_eq!(agent.isolation(web.uid())["coverage"], "full");
    });
    agent.remove(&[web.uid()]);
}

fn an_older_agent_refuses_and_changes_nothing() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let newer = agent.upgraded();
    let path = Path::shown(every_channel(), web.end(), neighbour.end());
    newer.add(&[web.uid()]);
    let before = (layouts(node), bpf::pinned(&layouts(node)[0]).len());
    for arguments in [&["daemon"][..], &["add", neighbour.uid()], &["remove", web.uid()], &["list"], &["uninstall"]] {
        let told = agent.run(arguments).expect(1);
        assert!(told.stderr.contains("newer agent") && told.stderr.contains("stays isolated"), "{}", told.text());
        path.assert_cut();
    }
    assert_eq!((layouts(node), bpf::pinned(&layouts(node)[0]).len()), before);
    assert_eq!(newer.isolated(), [web.uid()]);
    newer.remove(&[web.uid()]);
    path.assert_flows();
}
