//! Real pods: containerd and runc, made through CRI as kubelet makes them, called by their names.

mod doctor;
mod hostile;
mod lies;
mod lifecycle;
mod names;
pub(crate) mod window;

use isolate_tests::{
    agent::Agent,
    channel::{Channel, Path},
    cri::{Cri, CriNode, CriSpec},
    wait,
    wire::Family,
};

/// What two pods on the bridge can use between them; the CNI gives IPv4 alone.
pub(crate) const CHANNELS: [Channel; 6] = [
    Channel::Tcp(Family::V4),
    Channel::Udp(Family::V4),
    Channel::Icmp(Family::V4),
    Channel::Raw(Family::V4),
    Channel::Arp,
    Channel::Frame,
];

/// A node with the agent, a pod that will be isolated and a neighbour that must notice nothing.
pub(crate) struct Scene {
    pub(crate) web: Cri,
    pub(crate) neighbour: Cri,
    pub(crate) agent: Agent,
    pub(crate) node: CriNode,
}

impl Scene {
    pub(crate) fn with(spec: CriSpec) -> Self {
        let node = CriNode::new();
        let web = node.pod(spec);
        let neighbour = node.pod(CriSpec::default());
        Self { web, neighbour, agent: Agent::new(&node), node }
    }

    pub(crate) fn path(&self) -> Path<'_> {
        Path::shown(CHANNELS, self.web.end(), self.neighbour.end())
    }
}

/// Waits until the agent calls a pod by its name. Names come beside everything else.
pub(crate) fn knows(agent: &Agent, name: &str) {
    wait::until("the runtime tells the name", || agent.run(&["add", "--dry-run", name]).code == 0);
}

/// What the web server in the pod's first container answers; nothing if it cannot be reached.
pub(crate) fn page(node: &CriNode, pod: &Cri) -> String {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
        time::Duration,
    };
    let address = format!("{}:8080", pod.ip()).parse().expect("an address");
    node.netns().enter(|| {
        let patience = Duration::from_millis(300);
        let mut text = String::new();
        let _answer = TcpStream::connect_timeout(&address, patience).and_then(|mut stream| {
            stream.set_read_timeout(Some(patience))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            stream.read_to_string(&mut text)
        });
        text
    })
}

pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
    [doctor::trials(), hostile::trials(), lies::trials(), lifecycle::trials(), names::trials(), window::trials()]
        .into_iter()
        .flatten()
        .collect()
}
