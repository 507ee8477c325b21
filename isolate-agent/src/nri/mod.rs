//! The NRI plugin: the runtime tells of a sandbox before it starts any container in it, and waits until it is armed or cut.
//!
//! Speaks ttrpc over the runtime's multiplexed connection. Knows the protocol and hands a pod's UID to the loop; what is
//! done with it is not known here. It never refuses, and never holds the runtime up for longer than its deadline.

mod message;
mod plugin;
mod wire;

pub use self::plugin::{NriCounters, Plugin};
