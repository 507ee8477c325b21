//! `preview`, and what `add --dry-run` shows of each pod: what isolating it will do. Reads the node itself; takes neither
//! the lock nor a daemon, and changes nothing.

mod text;

use isolate_agent::{
    allow::{self, AllowError},
    control::protocol::{Code, Outcome, Outcomes},
    desired::Store,
    doctor::{self, State},
    enforce::lsm_refusal,
    inventory::{Inventory, InventoryError, Scanner, cri::Cri},
    pod::PodUid,
    preview::{self, Options, Preview, Subject},
    reconcile::Direct,
    settings::Settings,
    spec::{NodeFolders, Search, Sources, SpecError},
};
use jiff::Timestamp;
use serde::Serialize;
use thiserror::Error;

use super::{
    CliError,
    lookup::{self, LookupError},
    output::{self, Style},
};
use crate::args::{self, Form, Specification};

/// Why there is no preview.
#[derive(Debug, Error)]
pub(crate) enum PreviewError {
    #[error(transparent)]
    Pod(#[from] LookupError),
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Allow(AllowError),
    #[error(
        "nothing was changed: the ports that the pod's probes call are not certain, for {read} is not right: {}; mend it, or \
         give them with --probe-port",
        problems.join("; ")
    )]
    Problems { read: String, problems: Vec<String> },
}

impl PreviewError {
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::Pod(error) => error.code(),
            Self::Spec(_) | Self::Allow(_) | Self::Problems { .. } => Code::Usage,
            Self::Inventory(_) => Code::Failed,
        }
    }
}

pub(crate) async fn run(args: &args::Preview, settings: &Settings) -> Result<Code, CliError> {
    let options = args.exemptions.options();
    allow::compile(&options.allow).map_err(PreviewError::Allow)?;
    let node = Node::look(settings, &args.specification, true).await?;
    let obstacles = obstacles(settings).await;
    let preview = node.preview(node.find(&args.pod).map_err(PreviewError::from)?, &options, &obstacles).await?;
    output::print(&match args.output {
        Form::Text => text::render(&preview, Style::of_stdout()),
        form => output::document(&preview, form)?,
    })?;
    Ok(Code::Done)
}

/// What `add --dry-run` prints.
#[derive(Debug, Serialize)]
struct Foreseen {
    results: Vec<ForeseenPod>,
}

#[derive(Debug, Serialize)]
struct ForeseenPod {
    #[serde(flatten)]
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    preview: Option<Preview>,
}

/// The outcomes of a dry run, and for each pod what isolating it would do.
pub(super) async fn foresee(
    outcomes: Outcomes,
    options: &Options,
    (specification, form): (&Specification, Form),
    settings: &Settings,
) -> Result<Code, CliError> {
    let code = outcomes.worst();
    let node = Node::look(settings, specification, true).await?;
    let obstacles = obstacles(settings).await;
    let mut results = Vec::new();
    for outcome in outcomes.results {
        let preview = match outcome.uid.as_deref().map(str::parse) {
            Some(Ok(uid)) if matches!(outcome.code, Code::Done | Code::PartlyCovered) => {
                Some(node.preview(uid, options, &obstacles).await?)
            }
            _ => None,
        };
        results.push(ForeseenPod { outcome, preview });
    }
    if form != Form::Text {
        output::print(&output::document(&Foreseen { results }, form)?)?;
        return Ok(code);
    }
    for ForeseenPod { outcome, preview } in results {
        output::outcomes(&Outcomes { results: vec![outcome], verifications: Vec::new() }, Form::Text)?;
        if let Some(preview) = preview {
            output::print(&text::render(&preview, Style::of_stdout()))?;
        }
    }
    Ok(code)
}

/// What stands in the way of the hooks on this node.
async fn obstacles(settings: &Settings) -> Vec<String> {
    let findings = doctor::examine(settings).await.findings;
    let failed = findings.into_iter().filter(|finding| finding.state == State::Fail);
    failed.map(|finding| format!("this node, {}: {}", finding.name, finding.meaning)).collect()
}

/// The node as it is now, and where specifications are read.
pub(super) struct Node {
    scanner: Scanner,
    inventory: Inventory,
    names: Cri,
    isolated: Vec<PodUid>,
    sources: Sources,
    has_lsm: bool,
}

impl Node {
    /// The runtime is asked for names only `with_names`: that can take half a second.
    pub(super) async fn look(
        settings: &Settings,
        specification: &Specification,
        with_names: bool,
    ) -> Result<Self, PreviewError> {
        let names = if with_names {
            Cri::asked_once(settings.cri_endpoint.as_deref(), Direct::CRI_PATIENCE).await
        } else {
            Cri::default()
        };
        let scanner = Scanner::new(settings.cgroup_root.as_deref())?.with_claims(names.clone());
        let inventory = scanner.scan([]).await?;
        let isolated = Store::recorded(&settings.state_dir);
        let sources = Sources {
            manifest: specification.pod_manifest.clone(),
            kubelet: settings.kubelet.clone(),
            folders: NodeFolders::default(),
        };
        Ok(Self { scanner, inventory, names, isolated, sources, has_lsm: lsm_refusal().is_none() })
    }

    pub(super) fn find(&self, text: &str) -> Result<PodUid, LookupError> {
        lookup::pod(text, self.inventory.pods.keys().chain(&self.isolated), &self.names)
    }

    /// Looks for the pod's specification.
    pub(super) async fn search(&self, uid: PodUid) -> Result<Search, PreviewError> {
        Ok(self.sources.find(uid, self.names.name(&uid).as_ref()).await?)
    }

    async fn preview(&self, uid: PodUid, options: &Options, obstacles: &[String]) -> Result<Preview, PreviewError> {
        let search = self.search(uid).await?;
        let pod = match self.inventory.pods.get(&uid) {
            Some(known) => self.scanner.pod(known.uid).await?,
            None => None,
        };
        let mut options = options.clone();
        if let (true, true, Some(found)) = (options.keep_probes, options.probe_ports.is_empty(), &search.found) {
            options.probe_ports = found.spec.probe_ports();
        }
        let subject = Subject {
            uid,
            pod: pod.as_ref(),
            isolated: self.isolated.contains(&uid),
            search: &search,
            options: &options,
            obstacles,
            has_lsm: self.has_lsm,
        };
        Ok(preview::look(&subject, Timestamp::now()))
    }
}
