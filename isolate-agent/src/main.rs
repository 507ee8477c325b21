//! The command: reads the command line, hands it to the verb, turns how it ended into an exit code.

mod args;
mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::run(&args::Cli::parse())
}
