//! Nodes, pods and observers made of real kernel objects: the harness of the kernel tests and of `cargo xtask demo`.
//!
//! A [`node::Node`] is a network namespace, a cgroup sub-tree, a bpffs mount and a folder, all under one unique name; a
//! [`pod::Pod`] is what kubelet would make on it. Every part cleans up when it is dropped, also on a panic, and the node
//! then checks that nothing is left. What a killed run leaves is found by its name and removed by the next ([`sweep`]).
//!
//! Failures panic with a message. Everything needs root.
#![allow(clippy::panic, reason = "a test fails by panicking with a message")]
#![allow(
    clippy::missing_panics_doc,
    reason = "everything here panics when the kernel refuses: that is the test's result"
)]

pub mod agent;
pub mod bpf;
pub mod cgroup;
pub mod channel;
pub mod cri;
pub mod feature;
pub mod flood;
pub mod frame;
pub mod fuse;
pub mod fuzz;
pub mod guard;
pub mod kubelet;
pub mod launch;
pub mod name;
pub mod netdev;
pub mod netkit;
pub mod netns;
pub mod node;
pub mod nri;
pub mod observe;
pub mod packet;
pub mod pod;
pub mod process;
pub mod program;
pub(crate) mod protobuf;
pub mod residue;
pub mod sweep;
pub mod wait;
pub mod wire;
