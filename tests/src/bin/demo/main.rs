//! What `cargo xtask demo` shows: a pod on a node of kernel objects is cut off and released, and its neighbours go on.
//!
//! With the argument `scene`: what becomes of the evidence in it.
//!
//! Two processes: the story makes and shows everything; the guard waits for its end, whatever it is, and clears up.
#![expect(clippy::print_stdout, reason = "the demo speaks on stdout")]
#![expect(clippy::panic, reason = "a demo that cannot go on ends with a message, and the guard clears up")]

mod scene;
mod screen;
mod story;
mod town;
mod traffic;
mod web;

use std::{env, process::ExitCode};

use isolate_tests::guard;

fn main() -> ExitCode {
    if !guard::is_story() {
        return guard::watch("demo");
    }
    if env::args_os().any(|argument| argument == "scene") { scene::tell() } else { story::tell() }
}
