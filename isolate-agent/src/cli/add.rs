//! `add`: isolates pods.

use isolate_agent::{
    control::protocol::{AddRequest, Code},
    settings::Settings,
};

use super::{CliError, backend::Backend, output};
use crate::args::Add;

pub(crate) async fn run(args: &Add, settings: Settings) -> Result<Code, CliError> {
    let request = AddRequest {
        uids: args.uids.clone(),
        reason: args.reason.clone(),
        keep_loopback: args.keep_loopback,
        force: args.force,
        dry_run: args.dry_run,
    };
    request.check()?;
    let outcomes = Backend::open(settings).await?.add(request).await?;
    output::outcomes(&outcomes, args.output)?;
    Ok(outcomes.worst())
}
