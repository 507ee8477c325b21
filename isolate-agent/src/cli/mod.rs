//! The commands, one file a verb. The only place that prints: results to standard output, the rest to standard error.

mod add;
mod backend;
mod completions;
mod doctor;
#[cfg(test)]
mod documented;
mod events;
mod evidence;
mod list;
mod logging;
mod lookup;
mod output;
mod preview;
mod probes;
mod remove;
#[cfg(test)]
mod sample;
mod status;
mod uninstall;
mod verify;

use std::{error::Error, io, path::PathBuf, process::ExitCode};

use isolate_agent::{
    control::{FindError, RequestError, client::ClientError, protocol::Code},
    daemon,
    pod::QueryError,
    reconcile::OpenError,
    settings::{Layer, Settings, SettingsError},
};
use thiserror::Error;

use crate::args::{Cli, Verb};

/// Why a command did not come to an outcome.
#[derive(Debug, Error)]
pub(crate) enum CliError {
    #[error("isolate-agent needs root (it works on BPF programs, cgroups and root's control socket); run it with sudo")]
    NotRoot,
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Pod(#[from] QueryError),
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("no daemon answers, and the work cannot be done directly: what is isolated stays isolated")]
    Direct(#[from] OpenError),
    #[error(transparent)]
    Evidence(#[from] evidence::CollectError),
    #[error("--evidence takes one pod at a time: a file holds one pod")]
    EvidenceOfSeveral,
    #[error("cannot read the journal {}", path.display())]
    Journal { path: PathBuf, source: io::Error },
    #[error("cannot start")]
    Runtime(#[source] io::Error),
    #[error("cannot write the result, but what it reports has happened")]
    Output(#[from] io::Error),
    #[error(transparent)]
    Preview(#[from] preview::PreviewError),
    #[error("cannot write the result as JSON")]
    Json(#[from] serde_json::Error),
    #[error("cannot write the result as YAML")]
    Yaml(#[from] serde_yaml_ng::Error),
}

impl CliError {
    /// How the command ends.
    const fn code(&self) -> Code {
        match self {
            Self::Settings(_) | Self::Request(_) | Self::Pod(_) | Self::EvidenceOfSeveral => Code::Usage,
            Self::Evidence(error) => error.code(),
            Self::Preview(error) => error.code(),
            Self::Find(error) => error.code(),
            Self::Client(ClientError::Refused { code, .. }) => *code,
            Self::NotRoot
            | Self::Client(_)
            | Self::Direct(_)
            | Self::Journal { .. }
            | Self::Runtime(_)
            | Self::Output(_)
            | Self::Json(_)
            | Self::Yaml(_) => Code::Failed,
        }
    }
}

/// Names the steps at which a fault can be asked for.
#[cfg(feature = "fault-injection")]
pub(crate) fn list_steps() -> ExitCode {
    let steps: String = isolate_agent::fault::steps().map(|step| step.to_owned() + "\n").collect();
    output::print(&steps).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

/// Runs a command to its exit code.
pub(crate) fn run(cli: &Cli) -> ExitCode {
    let code = match dispatch(cli) {
        Ok(code) => code,
        // Whoever reads the result has seen enough of it.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Code::Done,
        Err(error) => {
            output::note(&with_causes(&error));
            error.code()
        }
    };
    ExitCode::from(code.exit_code())
}

fn dispatch(cli: &Cli) -> Result<Code, CliError> {
    if !matches!(cli.verb, Verb::Completions(_)) && !rustix::process::geteuid().is_root() {
        return Err(CliError::NotRoot);
    }
    let settings = settings(cli)?;
    logging::start(settings.log_format, matches!(cli.verb, Verb::Daemon(_)));
    match &cli.verb {
        Verb::Completions(args) => completions::run(args),
        Verb::Daemon(_) => Ok(run_daemon(&settings)),
        Verb::Add(args) => wait_for(add::run(args, settings)),
        Verb::Remove(args) => wait_for(remove::run(args, settings)),
        Verb::Verify(args) => wait_for(verify::run(args, settings)),
        Verb::List(args) => wait_for(list::run(args, settings)),
        Verb::Status(args) => wait_for(status::run(args, settings)),
        Verb::Evidence(args) => wait_for(evidence::run(args, &settings)),
        Verb::Preview(args) => wait_for(preview::run(args, &settings)),
        Verb::Events(args) => events::run(args, &settings),
        Verb::Uninstall(args) => wait_for(uninstall::run(args, settings)),
        Verb::Doctor(args) => wait_for(doctor::run(args, &settings)),
    }
}

fn wait_for(command: impl Future<Output = Result<Code, CliError>>) -> Result<Code, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Runtime)?;
    runtime.block_on(command)
}

fn settings(cli: &Cli) -> Result<Settings, SettingsError> {
    let file = cli.places.config.as_deref().map(Layer::read).transpose()?.unwrap_or_default();
    Settings::try_from(cli.layer().or(file))
}

fn run_daemon(settings: &Settings) -> Code {
    match daemon::run(settings) {
        Ok(()) => Code::Done,
        Err(error) => {
            output::note(&with_causes(error.as_ref()));
            Code::Failed
        }
    }
}

/// An error and its causes, outermost first, each after a colon. One that the text before it has already is left out.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |&cause| cause.source()) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = text + ": " + &cause;
        }
    }
    text
}
