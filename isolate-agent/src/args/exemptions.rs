//! What is to pass for an isolated pod: flags of `add`, and of `preview`, which foretells it.

use clap::Args;
use isolate_agent::{allow::Allow, preview::Options};

#[derive(Debug, Args)]
pub(crate) struct Exemptions {
    /// Let the pod's own loopback traffic pass
    #[arg(long)]
    keep_loopback: bool,
    /// Let kubelet's own probe connections pass, to the pod's probe ports; nothing else
    #[arg(long)]
    keep_probes: bool,
    /// A TCP port that the pod's probes call [default: those of its specification]; may be given several times
    #[arg(long = "probe-port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    probe_ports: Vec<u16>,
    /// Keep the scene: --keep-probes and --keep-loopback
    #[arg(long)]
    preserve: bool,
    /// Let the pod talk to these addresses: [in:|out:]CIDR[:PORT[/tcp|udp]]; may be given several times
    #[arg(long, value_name = "CIDR")]
    allow: Vec<Allow>,
}

impl Exemptions {
    /// What they come to.
    pub(crate) fn options(&self) -> Options {
        Options {
            keep_loopback: self.keep_loopback || self.preserve,
            keep_probes: self.keep_probes || self.preserve,
            probe_ports: self.probe_ports.iter().copied().collect(),
            allow: self.allow.clone(),
        }
    }
}
