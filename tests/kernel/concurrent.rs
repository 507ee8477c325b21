//! Fifty commands at once: they end in one state, and the packets agree with what is listed.

use std::process::{Child, Stdio};

use isolate_tests::channel::{Channel, Path};

use crate::{scene::Scene, suite::trials};

trials![fifty_commands_with_a_daemon needs Pace, fifty_commands_without_one needs Pace];

const COMMANDS: usize = 50;

fn fifty_commands_with_a_daemon() {
    end_in_one_state(true);
}

fn fifty_commands_without_one() {
    end_in_one_state(false);
}

fn end_in_one_state(with_daemon: bool) {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let _daemon = with_daemon.then(|| agent.daemon());
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    let crowd = |verb_of: fn(usize) -> &'static str| {
        let start = |number| {
            let mut command = agent.command(&[verb_of(number), web.uid()]);
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the agent can be started")
        };
        let children: Vec<Child> = (0..COMMANDS).map(start).collect();
        for child in children {
            let output = child.wait_with_output().expect("a command ends");
            assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        }
    };

    crowd(|number| if number % 2 == 0 { "add" } else { "remove" });
    let listed = agent.isolated();
    if listed.is_empty() {
        path.assert_flows();
    } else {
        assert_eq!(listed, [web.uid()]);
        path.assert_cut();
    }
    crowd(|_| "add");
    assert_eq!(agent.isolated(), [web.uid()]);
    path.assert_cut();
    crowd(|_| "remove");
    assert!(agent.isolated().is_empty());
    path.assert_flows();
}
