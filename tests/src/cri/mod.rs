//! A node with a real container runtime: containerd, runc and a bridge CNI in namespaces of their own, and pods made by CRI.
//!
//! The node's cgroup root is a folder of the machine's hierarchy (as under kind), so nodes run side by side, and killing that
//! cgroup ends everything of one. What is mounted and pinned there goes with it.

mod client;
mod config;
pub mod hostile;
mod image;
mod message;
mod node;
mod pod;

pub use self::{
    client::Runtime,
    node::CriNode,
    pod::{Container, Cri, CriSpec, Network},
};
