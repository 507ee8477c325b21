//! `uninstall`: takes everything of the agent off the node, but for the binary.

use isolate_agent::{
    control::{
        client::{Client, ClientError},
        protocol::Code,
    },
    reconcile::{Direct, Left},
    settings::Settings,
};

use super::{CliError, output};
use crate::args::Uninstall;

pub(crate) async fn run(args: &Uninstall, settings: Settings) -> Result<Code, CliError> {
    match Client::open(&settings.socket(), |_| {}).await {
        Err(ClientError::NoDaemon { .. } | ClientError::Leaving { .. } | ClientError::Lost { .. }) => {}
        Err(error) => return Err(error.into()),
        Ok(_) => {
            output::note(
                "nothing was changed: the daemon runs, and would put back what is taken away. End it (`systemctl disable \
                 --now isolate-agent`, or delete its DaemonSet; this releases no pod) and run this again",
            );
            return Ok(Code::Failed);
        }
    }
    let mut direct = Direct::open(&settings).await?;
    let isolated = direct.isolated().await;
    if !isolated.is_empty() && !args.force {
        output::note(&format!(
            "nothing was changed: {} pods are isolated, and would get their network back: {}. Release them first (`remove \
             --all`), or use --force",
            isolated.len(),
            isolated.join(", ")
        ));
        return Ok(Code::Refused);
    }
    let Left { failed, strangers } = direct.uninstall(args.keep_records);
    for uid in isolated.iter().filter(|_| failed.is_empty()) {
        output::print(&format!("pod {uid} is released\n"))?;
    }
    for path in strangers {
        output::note(&format!("left in place, since it is not the agent's: {}", path.display()));
    }
    if failed.is_empty() {
        output::print("the programs, the pins and the agent's folders are gone\n")?;
        return Ok(Code::Done);
    }
    output::note(&format!(
        "not everything could be taken away, and pods that were isolated may still be cut off; run this again: {}",
        failed.join("; ")
    ));
    Ok(Code::Failed)
}
