//! The window of a new sandbox without NRI: raw frames that get out of an isolated pod before its new interface is cut.

use isolate_tests::{
    agent::{Agent, Daemon},
    cri::{Cri, CriNode, CriSpec},
    frame::EXPERIMENT,
    observe::Observer,
    wait,
};

use crate::{
    escape::window::{Window, closed},
    suite::trials,
};

trials![the_window_of_a_new_sandbox_closes needs Containerd];

const FEW: usize = 2;

/// An isolated pod whose sandboxes send frames from their first moment on. Dropped from top to bottom.
pub(crate) struct Sandboxes {
    web: Cri,
    _daemon: Daemon,
    agent: Agent,
    node: CriNode,
}

impl Sandboxes {
    pub(crate) fn new() -> Self {
        let node = CriNode::flooded();
        let agent = Agent::new(&node);
        let daemon = agent.daemon();
        let web = node.pod(CriSpec::default());
        agent.run(&["add", web.uid()]);
        Self { web, _daemon: daemon, agent, node }
    }

    pub(crate) fn measure(&mut self) -> Window {
        let bridge = Observer::start(self.node.netns(), "cni0");
        self.web.recreate();
        wait::until("the new interface is cut", || {
            self.agent.isolation(self.web.uid())["hooks"].as_array().is_some_and(|hooks| {
                let veths: Vec<_> = hooks.iter().filter(|hook| hook["hook"] == "veth").collect();
                !veths.is_empty() && veths.iter().all(|hook| hook["state"] == "holding")
            })
        });
        let dropped = self.agent.drops(self.web.uid());
        closed(&self.agent, self.web.uid(), dropped, || bridge.payloads(EXPERIMENT))
    }
}

fn the_window_of_a_new_sandbox_closes() {
    let mut sandboxes = Sandboxes::new();
    for _ in 0..FEW {
        eprintln!("{:?}", sandboxes.measure());
    }
}
