//! `add --keep-probes` without `--probe-port`: the ports are those of the pod's specification. It is read without a wait where
//! a file has it; for kubelet the cut waits a moment, and then goes on without it.

use std::{collections::BTreeSet, pin::pin, time::Duration};

use isolate_agent::{
    control::protocol::{AddRequest, Code, Outcomes},
    settings::Settings,
    spec::{Problem, Search},
};
use tokio::time::timeout;

use super::{
    CliError,
    backend::Backend,
    preview::{Node, PreviewError},
};
use crate::args::Specification;

/// What a cut waits for kubelet: one that is well answers within some ten milliseconds.
const PATIENCE: Duration = Duration::from_millis(250);

/// Isolates each pod with its own ports.
pub(super) async fn add(
    request: AddRequest,
    specification: &Specification,
    settings: &Settings,
) -> Result<Outcomes, CliError> {
    let with_names = request.uids.iter().any(|text| text.contains('/'));
    let node = Node::look(settings, specification, with_names).await?;
    let mut results = Vec::new();
    for text in &request.uids {
        let one = AddRequest { uids: vec![text.clone()], ..request.clone() };
        results.extend(add_one(&node, one, text, settings).await?.results);
    }
    Ok(Outcomes { results, verifications: Vec::new() })
}

async fn add_one(node: &Node, request: AddRequest, text: &str, settings: &Settings) -> Result<Outcomes, CliError> {
    // Whoever is not found here is not found there, and that one says why.
    let Ok(uid) = node.find(text) else { return send(request, settings).await };
    let mut search = pin!(node.search(uid));
    let patience = if request.dry_run { Duration::MAX } else { PATIENCE };
    if let Ok(found) = timeout(patience, search.as_mut()).await {
        return send(with_ports(request, &found?)?, settings).await;
    }
    let mut outcomes = send(AddRequest { keep_probes: false, ..request.clone() }, settings).await?;
    let found = search.await?;
    if found.found.is_some() {
        return send(with_ports(request, &found)?, settings).await;
    }
    for outcome in &mut outcomes.results {
        outcome.message += "; kubelet's probes are cut as well, because their ports are not known: ";
        outcome.message += &found.failed.join("; ");
        outcome.code = Code::Failed;
    }
    Ok(outcomes)
}

/// The request with the ports of the specification; as it was if there is none.
fn with_ports(request: AddRequest, search: &Search) -> Result<AddRequest, PreviewError> {
    let Some(found) = &search.found else { return Ok(request) };
    let counts = |problem: &&Problem| problem.at.contains("Probe") || problem.at.contains(".ports");
    let problems: Vec<String> = found.problems.iter().filter(counts).map(ToString::to_string).collect();
    if !problems.is_empty() {
        return Err(PreviewError::Problems { read: found.source.clone(), problems });
    }
    let ports: BTreeSet<u16> = found.spec.probe_ports();
    // Where no probe goes over the network there is nothing to let through.
    let keep_probes = !ports.is_empty();
    Ok(AddRequest { keep_probes, probe_ports: ports.into_iter().collect(), ..request })
}

async fn send(request: AddRequest, settings: &Settings) -> Result<Outcomes, CliError> {
    request.check()?;
    Backend::open(settings.clone()).await?.add(request).await
}
