//! What `doctor` tells of the container runtime: whether it answers, since when, and what to do.

use std::fs;

use isolate_tests::{
    agent::Agent,
    cri::hostile::{Hostile, Manner, Told},
    node::Node,
    nri::Listener,
    wait,
};

use super::hostile::{asking, socket, talks};
use crate::suite::trials;

trials![it_tells_whether_the_runtime_answers, it_tells_whether_nri_has_the_plugin];

/// State, value and fix of a finding; the text has them too.
fn finding(agent: &Agent, name: &str) -> (String, String, String) {
    let told = agent.run(&["doctor", "-o", "json"]).json();
    let all = told["findings"].as_array().expect("a list").clone();
    let found = all.iter().find(|finding| finding["name"] == name).unwrap_or_else(|| panic!("no {name}: {told:#}"));
    let word = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (word("state"), word("value"), word("fix"))
}

#[track_caller]
fn assert_told(agent: &Agent, name: &str, state: &str, value: &[&str], fix: &str) {
    let found = finding(agent, name);
    assert_eq!(found.0, state, "{found:?}");
    assert!(value.iter().all(|part| found.1.contains(part)), "{value:?} is not in {found:?}");
    assert!(found.2.contains(fix), "{found:?}");
    let text = agent.run(&["doctor"]).stdout;
    let line = text.lines().find(|line| line.contains(&format!(" {name} "))).expect("the text has it");
    assert!(line.contains(value[0]), "{line}");
}

fn it_tells_whether_the_runtime_answers() {
    const NAME: &str = "container-runtime";
    let node = Node::new();
    let agent = asking(&Agent::new(&node), &socket(&node));
    assert_told(&agent, NAME, "warn", &["cannot connect", "cri.sock"], "start the runtime");
    let runtime = Hostile::new(&socket(&node), talks(&[Told::of("0f0e0d0c-1234-4000-8000-0123456789ab", "web")]));
    // Its name cannot steer a terminal.
    assert_told(&agent, NAME, "ok", &["hostile?[2J v6.6.6?", "answers at"], "");
    let _daemon = agent.daemon();
    wait::until("the daemon has asked", || finding(&agent, NAME).1.contains("the daemon too (since 2"));
    runtime.behave(Manner::Silent);
    agent.run(&["add", "default/nobody"]).expect(3);
    let since = ["has not answered for 2000 ms", "nor did it answer the daemon (since 2"];
    assert_told(&agent, NAME, "warn", &since, "restart it");
    runtime.behave(Manner::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()));
    agent.run(&["add", "default/nobody"]).expect(3);
    assert_told(&agent, NAME, "warn", &["nor did it answer the daemon"], "crictl --runtime-endpoint unix://");
}

fn it_tells_whether_nri_has_the_plugin() {
    const NAME: &str = "nri";
    let node = Node::new();
    let place = node.folder().join("nri.sock");
    let file = |name: &str, nri: bool| {
        let file = node.folder().join(name);
        let text = format!("nri = {nri}\nnri_socket = '{}'\n", place.display());
        fs::write(&file, text).expect("the node's folder is writable");
        Agent::new(&node).with_variable("ISOLATE_CONFIG", file.to_str().expect("names of tests are ASCII"))
    };
    let (without, agent) = (file("without.toml", false), file("with.toml", true));
    assert_told(&without, NAME, "ok", &["no socket at"], "");
    assert_told(&agent, NAME, "warn", &["no socket at"], "enable NRI");
    {
        let runtime = Listener::new(&place);
        let _daemon = without.daemon();
        assert_told(&without, NAME, "ok", &["the daemon runs without --nri"], "");
        drop(runtime);
    }
    let _daemon = agent.daemon();
    wait::until("it has tried", || finding(&agent, NAME).1.contains("cannot connect"));
    assert_told(&agent, NAME, "warn", &["not registered at"], "enable NRI");
    let runtime = Listener::new(&place);
    runtime.refuse("plugin registration is\x1b[2J not allowed");
    wait::until("it is refused", || finding(&agent, NAME).1.contains("refused the plugin"));
    assert_told(&agent, NAME, "warn", &["not allowed"], "allow the plugin");
    let plugin = runtime.plugin();
    wait::until("it is registered", || finding(&agent, NAME).0 == "ok");
    // Whoever asks needs no setting for that: the daemon tells it.
    assert_told(&without, NAME, "ok", &["registered at", "(since 2"], "");
    drop((plugin, runtime));
    wait::until("it notices that the runtime is gone", || finding(&agent, NAME).0 == "warn");
}
