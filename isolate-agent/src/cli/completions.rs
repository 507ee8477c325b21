//! `completions`: writes a completion script.

use std::io::{self, Write};

use clap::CommandFactory;
use isolate_agent::control::protocol::Code;

use super::CliError;
use crate::args::{Cli, Completions};

pub(crate) fn run(args: &Completions) -> Result<Code, CliError> {
    // Into memory first: clap_complete panics when it cannot write, as to a pipe that nobody reads.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "isolate-agent", &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(Code::Done)
}
