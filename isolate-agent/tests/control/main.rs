//! The control socket and the commands over it: real sockets, real peers, the real binary. Needs root, as the agent.
#![expect(clippy::panic, reason = "a test says what it found instead")]

mod commands;
mod harness;
mod peers;
mod requests;
mod socket_file;
