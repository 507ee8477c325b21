//! The scene of most tests: a node with the agent, a pod that will be isolated and a neighbour that must notice nothing.

use isolate_tests::{
    agent::Agent,
    channel::Channel,
    node::Node,
    pod::{Pod, Spec},
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
}

/// What two pods on one link can use between them.
pub(crate) fn every_channel() -> impl Iterator<Item = Channel> {
    Channel::ROUTED.into_iter().chain(Channel::LINK)
}
