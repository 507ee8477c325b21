//! A program of somebody else's in front of the hook on a host end, which leaves every packet to those behind it: it displaces ours,
//! and opens nothing.

use std::{os::fd::OwnedFd, process::Command};

use isolate_tests::{
    feature, launch, netdev,
    netns::Netns,
    program::{self, Place},
};

const TCX_NEXT: i32 = -1;
/// The newest filter of a priority runs first, and classic BPF that answers 0 matches nothing.
const FILTER: [&str; 5] = ["ingress", "prio", "1", "handle", "99"];

#[derive(Debug)]
pub(crate) enum Stranger {
    /// Until the link is closed.
    Link { _link: OwnedFd },
    /// On kernels without tcx: until it is removed, or its interface goes.
    Filter,
}

impl Stranger {
    /// Attaches it to an interface.
    pub(crate) fn come(netns: &Netns, veth: &str) -> Self {
        if feature::has_tcx() {
            let index = netdev::index(netns, veth);
            let attach = || program::answer_first(Place::TcxIngress, index, TCX_NEXT);
            return Self::Link { _link: netns.enter(attach).expect("a program can be attached") };
        }
        let add = [&["filter", "add", "dev", veth][..], &FILTER, &["bpf", "bytecode", "1,6 0 0 0"]].concat();
        launch::succeed(&mut tc(netns, &add));
        Self::Filter
    }

    /// Takes it off.
    pub(crate) fn leave(self, netns: &Netns, veth: &str) {
        match self {
            Self::Link { _link } => {}
            Self::Filter => {
                let remove = [&["filter", "del", "dev", veth][..], &FILTER, &["bpf"]].concat();
                launch::succeed(&mut tc(netns, &remove));
            }
        }
    }
}

fn tc(netns: &Netns, arguments: &[&str]) -> Command {
    let mut command = Command::new("tc");
    command.args(["-n", netns.name()]).args(arguments);
    command
}
