//! `add`: isolates pods.

use std::time::Duration;

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
        for_secs: args.lasting.map(whole_secs),
        until: args.until,
        force: args.force,
        dry_run: args.dry_run,
    };
    request.check()?;
    let outcomes = Backend::open(settings).await?.add(request).await?;
    output::outcomes(&outcomes, args.output)?;
    Ok(outcomes.worst())
}

/// A part of a second counts as a whole one: a limit never ends early.
fn whole_secs(lasting: Duration) -> u64 {
    lasting.as_secs().saturating_add(u64::from(lasting.subsec_nanos() > 0))
}
