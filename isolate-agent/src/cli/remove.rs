//! `remove`: releases pods.

use isolate_agent::{
    control::protocol::{Code, RemoveRequest},
    settings::Settings,
};

use super::{CliError, backend::Backend, output};
use crate::args::Remove;

pub(crate) async fn run(args: &Remove, settings: Settings) -> Result<Code, CliError> {
    let request = RemoveRequest { uids: args.uids.clone(), all: args.all };
    request.check()?;
    let outcomes = Backend::open(settings).await?.remove(request).await?;
    output::outcomes(&outcomes, args.output)?;
    Ok(outcomes.worst())
}
