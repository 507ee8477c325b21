//! What goes wrong inside the programs: it drops for the isolated pod, is counted, and is told.

use aya::maps::{Array, Map, MapData};
use isolate_common::{Near, PLACES, names};
use isolate_tests::{
    channel::{Channel, Path},
    wait,
};

use crate::{scene::Scene, suite::trials};

trials![a_cgroup_without_a_key_drops_and_says_so];

fn a_cgroup_without_a_key_drops_and_says_so() {
    let scene = Scene::new();
    let Scene { agent, web, node, .. } = &scene;
    let daemon = agent.daemon();
    // Only the cgroup hook sees loopback.
    let path = Path::shown(Channel::ORDINARY, web.loopback(), web.loopback());
    agent.add(&[web.uid()]);
    path.assert_cut();
    assert!(!daemon.log().contains("in the kernel"), "nothing has gone wrong yet");

    let version = isolate_common::LAYOUT_VERSION;
    let pin = node.folder().join(format!("bpf/isolate-agent/v{version}/maps/{}", names::NEAR_CGROUP));
    let table = MapData::from_pin(&pin).unwrap_or_else(|error| panic!("{}: {error}", pin.display()));
    let mut table: Array<_, Near> = Map::Array(table).try_into().expect("it is such an array");
    // What the programs find the key by.
    for place in 0..PLACES {
        table.set(place, Near::NOBODY, 0).expect("there are as many places");
    }
    path.assert_cut();

    let counted = || {
        let status = agent.run(&["status", "-o", "json"]).expect(0).json();
        let errors = status["kernel_errors"].as_array().expect("a list of errors").clone();
        let of = |name: &str| errors.iter().find(|one| one["error"] == name).and_then(|one| one["count"].as_u64());
        of("cgroup_without_key").expect("a number")
    };
    assert!(counted() > 0, "the programs counted nothing");
    wait::until("the daemon tells which cgroup", || {
        daemon.log().contains("in the kernel: packet dropped: no key leads from cgroup")
    });
}
