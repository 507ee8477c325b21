//! The scene: a node with the agent, and three pods that serve and visit web pages. Every process does one thing, so
//! none waits for another.

use std::net::{Ipv4Addr, SocketAddr};

use isolate_tests::{
    agent::Agent,
    node::Node,
    pod::{Pod, Spec},
    process::Process,
};

/// Where the pods' web servers listen.
const HTTP: u16 = 80;

/// Dropped from top to bottom.
pub(crate) struct Town {
    pub(crate) agent: Agent,
    pub(crate) web: Pod,
    pub(crate) client: Pod,
    pub(crate) neighbour: Pod,
    pub(crate) node: Node,
}

/// What a process of each pod does, by its container.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    /// Serves the pod's page.
    Server,
    /// Visits another pod.
    Visitor,
    /// Visits a second one.
    SecondVisitor,
    /// Sends and receives datagrams.
    Datagrams,
    /// Tries every other way.
    EveryWay,
}

const ROLES: usize = Role::EveryWay as usize + 1;

impl Town {
    pub(crate) fn new() -> Self {
        let node = Node::new();
        let pod = |uid: &str| node.pod(&Spec { uid: Some(uid.to_owned()), containers: ROLES, ..Spec::default() });
        let web = pod("3f1c2d64-9b0e-4c57-8a21-5d7e6f0a1b2c");
        let client = pod("8a60b7d1-52c3-4f0e-9d14-c1e2a3b4d5f6");
        let neighbour = pod("c7e94410-0d3b-4b6a-b5f8-2f9a8e7d6c5b");
        Self { agent: Agent::new(&node), web, client, neighbour, node }
    }

    /// The pods with their names.
    pub(crate) fn pods(&self) -> [(&'static str, &Pod); 3] {
        [("web", &self.web), ("client", &self.client), ("neighbour", &self.neighbour)]
    }
}

impl Role {
    /// The process of a pod that does it.
    pub(crate) fn of(self, pod: &Pod) -> &Process {
        pod.container(self as usize)
    }
}

/// Where a pod's page is.
pub(crate) fn page(pod: &Pod) -> SocketAddr {
    (pod.end().v4, HTTP).into()
}

/// Where a pod's own processes find it as well.
pub(crate) fn page_on_loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, HTTP).into()
}

/// Where a pod's server listens.
pub(crate) fn everywhere() -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, HTTP).into()
}
