//! The command: reads the command line, hands it to the verb, turns how it ended into an exit code.

mod args;
mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    #[cfg(feature = "fault-injection")]
    if std::env::var_os("ISOLATE_FAULT").is_some_and(|fault| fault == "list") {
        return cli::list_steps();
    }
    cli::run(&args::Cli::parse())
}
