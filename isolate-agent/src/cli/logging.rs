//! Log lines, on standard error: all of the daemon's, and what a command has to warn of.

use std::io;

use isolate_agent::settings::LogFormat;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Starts logging. `RUST_LOG` sets what is logged; without it the daemon logs from `info` on, a command from `warn` on.
pub(crate) fn start(format: LogFormat, daemon: bool) {
    let level = if daemon { LevelFilter::INFO } else { LevelFilter::WARN };
    let filter = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Json => lines.json().init(),
        LogFormat::Text if daemon => lines.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
        LogFormat::Text => lines.without_time().with_target(false).with_ansi(false).init(),
    }
}
