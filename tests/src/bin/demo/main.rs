//! What `cargo xtask demo` shows: a pod on a node of kernel objects is cut off and released, and its neighbours go on.
//!
//! Two processes: the story makes and shows everything; the guard waits for its end, whatever it is, and clears up.
#![expect(clippy::print_stdout, reason = "the demo speaks on stdout")]
#![expect(clippy::panic, reason = "a demo that cannot go on ends with a message, and the guard clears up")]

mod guard;
mod screen;
mod story;
mod town;
mod traffic;
mod web;

use std::{env, process::ExitCode};

/// The argument by which the guard starts the story.
const STORY: &str = "story";

fn main() -> ExitCode {
    if env::args_os().nth(1).is_some_and(|argument| argument == STORY) {
        return story::tell();
    }
    guard::watch().unwrap_or_else(|error| {
        eprintln!("demo: {error}");
        ExitCode::FAILURE
    })
}
