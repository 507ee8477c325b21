//! The control socket: real sockets, real peers. Needs root, as the agent.
#![expect(clippy::panic, reason = "a test says what it found instead")]

mod harness;
mod peers;
mod requests;
mod socket_file;
