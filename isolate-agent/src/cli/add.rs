//! `add`: isolates pods.

use std::time::Duration;

use isolate_agent::{
    control::protocol::{AddRequest, Code, Outcomes},
    settings::Settings,
};

use super::{CliError, backend::Backend, evidence, output, preview, probes, verify};
use crate::args::Add;

pub(crate) async fn run(args: &Add, settings: Settings) -> Result<Code, CliError> {
    let options = args.exemptions.options();
    let request = AddRequest {
        uids: args.uids.clone(),
        reason: args.reason.clone(),
        keep_loopback: options.keep_loopback,
        keep_probes: options.keep_probes,
        probe_ports: options.probe_ports.iter().copied().collect(),
        allow: options.allow.iter().map(ToString::to_string).collect(),
        for_secs: args.lasting.map(whole_secs),
        until: args.until,
        force: args.force,
        dry_run: args.dry_run,
    };
    request.check()?;
    if request.dry_run {
        let outcomes = outcomes(request, args, &settings).await?;
        return preview::foresee(outcomes, &options, (&args.specification, args.output), &settings).await;
    }
    let Some(path) = &args.before.evidence else {
        return isolate(request, args, &settings).await;
    };
    let [uid] = args.uids.as_slice() else { return Err(CliError::EvidenceOfSeveral) };
    let collecting = evidence::Collecting::before_the_cut(uid, path, args.before.with_env, &settings).await;
    let code = isolate(request, args, &settings).await?;
    // Having no evidence was no reason to leave the pod connected, but it is one to say so.
    match collecting.finish().await {
        Ok(summary) => {
            evidence::describe(&summary).lines().for_each(output::note);
            Ok(code)
        }
        Err(error) => {
            output::note(&format!("no evidence was taken: {error}"));
            Ok(Code::Failed)
        }
    }
}

async fn isolate(request: AddRequest, args: &Add, settings: &Settings) -> Result<Code, CliError> {
    let mut outcomes = outcomes(request, args, settings).await?;
    let verified = if args.verify { verify::after(&mut outcomes, settings.clone()).await } else { Ok(()) };
    output::outcomes(&outcomes, args.output)?;
    verified?;
    Ok(outcomes.worst())
}

async fn outcomes(request: AddRequest, args: &Add, settings: &Settings) -> Result<Outcomes, CliError> {
    if request.keep_probes && request.probe_ports.is_empty() {
        return probes::add(request, &args.specification, settings).await;
    }
    Backend::for_add(settings.clone(), &request).await?.add(request).await
}

/// A part of a second counts as a whole one: a limit never ends early.
fn whole_secs(lasting: Duration) -> u64 {
    lasting.as_secs().saturating_add(u64::from(lasting.subsec_nanos() > 0))
}
