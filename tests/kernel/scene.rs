//! The scene of most tests: a node with the agent, a pod that will be isolated and a neighbour that must notice nothing.

use isolate_tests::{
    agent::Agent,
    channel::Channel,
    launch,
    node::Node,
    pod::{Pod, Spec},
    process::Process,
    program,
};

/// Dropped from top to bottom.
pub(crate) struct Scene {
    pub(crate) agent: Agent,
    pub(crate) web: Pod,
    pub(crate) neighbour: Pod,
    pub(crate) node: Node,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with(&Spec::default())
    }

    /// The pod that will be isolated is such; the neighbour is on the same links.
    pub(crate) fn with(spec: &Spec) -> Self {
        let node = Node::new();
        let web = node.pod(spec);
        let neighbour = node.pod(&Spec { interfaces: spec.interfaces, ..Spec::default() });
        Self { agent: Agent::new(&node), web, neighbour, node }
    }

    /// A process of the node in the isolated pod's network: its packet sockets are refused nothing where the kernel has the LSM
    /// hook, so what becomes of their frames is the work of the hooks on interfaces alone.
    pub(crate) fn visitor(&self) -> Process {
        Process::start(self.web.netns(), &self.node.service())
    }

    /// Changes the isolated pod's network by its own `CAP_NET_ADMIN`. Where the kernel has the LSM hook the pod must be refused
    /// that, and the node does it in its place.
    #[track_caller]
    pub(crate) fn tamper(&self, command: &[&str]) {
        let (program, arguments) = command.split_first().expect("a command has a name");
        let mut own = self.web.command(program);
        own.args(arguments);
        if program::lsm_missing().is_some() {
            launch::succeed(&mut own);
            return;
        }
        let refused = own.output().unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
        assert!(!refused.status.success(), "the isolated pod may do {command:?}");
        launch::succeed(launch::command(program, self.web.netns(), &self.node.service()).args(arguments));
    }
}

/// What two pods on one link can use between them.
pub(crate) fn every_channel() -> impl Iterator<Item = Channel> {
    Channel::ROUTED.into_iter().chain(Channel::LINK)
}
