//! The command line: types only. Which settings they are is in `layer`, what they mean in `cli` and `settings`.

mod exemptions;
mod layer;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use isolate_agent::settings::{Arm, LogFormat, VethHook};
use jiff::Timestamp;

use self::exemptions::Exemptions;

/// Version and commit.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("ISOLATE_GIT_REVISION"), ")");
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: the message says what is still enforced
  2  usage: a malformed UID, a prefix that means several pods, settings that make no sense
  3  no such pod on this node
  4  refused without --force
  5  done, but the pod is only partly covered: the message says what that leaves open
Of several pods the gravest decides: 1, 2, 3, 4, 5, 0.";

/// Takes a compromised pod off the network of this node, at once and both ways, and keeps it off.
#[derive(Debug, Parser)]
#[command(name = "isolate-agent", version = VERSION, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub places: Places,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Keep pods isolated, armed and measured until told to end; what is isolated then stays isolated
    Daemon(Daemon),
    /// Isolate pods: every packet, both ways, every protocol
    Add(Add),
    /// Release pods: give them their network back
    Remove(Remove),
    /// List isolated pods
    List(List),
    /// Prove by probes that isolated pods are cut off, hook by hook; exit code 0 only if all is proved
    Verify(Verify),
    /// Show what is isolated, since when, by whom and why, every hook, and the drops so far
    Status(StatusOf),
    /// Collect what a pod is at this moment into one archive: processes, sockets, routes, rules, executables
    Evidence(Evidence),
    /// Say what isolating a pod will do: which containers end and when, what is lost, what goes on
    Preview(Preview),
    /// Show what happened to isolations, oldest first
    Events(EventsOf),
    /// Take the agent's state off this node: programs, pins, records and folders; refused while a pod is isolated
    Uninstall(Uninstall),
    /// Examine what this node offers to isolate pods with, what that means, and what to fix
    Doctor(Doctor),
    /// Write a completion script for a shell to standard output
    Completions(Completions),
}

/// Where the agent works.
#[derive(Debug, Args)]
#[command(next_help_heading = "Places")]
pub(crate) struct Places {
    /// TOML file with settings; flags and environment are stronger
    #[arg(long, global = true, value_name = "FILE", env = "ISOLATE_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Folder of the control socket and the lock [default: /run/isolate-agent]
    #[arg(long, global = true, value_name = "DIR", env = "ISOLATE_RUN_DIR", hide_env_values = true)]
    pub run_dir: Option<PathBuf>,
    /// Folder of the records [default: /var/lib/isolate-agent]
    #[arg(long, global = true, value_name = "DIR", env = "ISOLATE_STATE_DIR", hide_env_values = true)]
    pub state_dir: Option<PathBuf>,
    /// Folder on a BPF file system for pinned maps, programs and links [default: /sys/fs/bpf/isolate-agent]
    #[arg(long, global = true, value_name = "DIR", env = "ISOLATE_BPFFS", hide_env_values = true)]
    pub bpffs: Option<PathBuf>,
    /// Root of the cgroup tree [default: found from the mounts]
    #[arg(long, global = true, value_name = "DIR", env = "ISOLATE_CGROUP_ROOT", hide_env_values = true)]
    pub cgroup_root: Option<PathBuf>,
    /// The container runtime's CRI socket, for the names of pods [default: the first of the usual ones that answers]
    #[arg(long, global = true, value_name = "SOCKET", env = "ISOLATE_CRI_ENDPOINT", hide_env_values = true)]
    pub cri_endpoint: Option<PathBuf>,
    /// How to attach to the pods' interfaces [default: auto]
    #[arg(long, global = true, value_enum, env = "ISOLATE_VETH_HOOK", hide_env_values = true, help_heading = "Hooks")]
    pub veth_hook: Option<VethHook>,
}

#[derive(Debug, Args)]
pub(crate) struct Daemon {
    /// Address of /metrics, /healthz and /readyz [default: 127.0.0.1:9477]
    #[arg(long, value_name = "ADDR:PORT", env = "ISOLATE_METRICS_ADDR", hide_env_values = true)]
    pub metrics_addr: Option<SocketAddr>,
    /// Be an NRI plugin of the container runtime: new sandboxes are armed or cut before their containers start
    #[arg(long, env = "ISOLATE_NRI", hide_env_values = true)]
    pub nri: bool,
    /// The container runtime's NRI socket [default: /var/run/nri/nri.sock]
    #[arg(long, value_name = "SOCKET", env = "ISOLATE_NRI_SOCKET", hide_env_values = true)]
    pub nri_socket: Option<PathBuf>,
    /// Which pods carry the programs before they are isolated [default: all]
    #[arg(long, value_enum, env = "ISOLATE_ARM", hide_env_values = true)]
    pub arm: Option<Arm>,
    /// Form of the log lines on standard error [default: text]
    #[arg(long, value_enum, env = "ISOLATE_LOG_FORMAT", hide_env_values = true)]
    pub log_format: Option<LogFormat>,
    /// How long a pod has to be seen away from the node until its record expires [default: 7days]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, env = "ISOLATE_RETENTION", hide_env_values = true)]
    pub retention: Option<Duration>,
    #[command(flatten)]
    pub limit: Limit,
}

#[derive(Debug, Args)]
pub(crate) struct Limit {
    /// Cgroup directory that kubelet runs in; counts where no daemon runs [default: found from its process]
    #[arg(long, value_name = "DIR", env = "ISOLATE_KUBELET_CGROUP", hide_env_values = true)]
    pub kubelet_cgroup: Option<PathBuf>,
    /// Pods that can be isolated at once, 1 to 65536; counts when the maps are made [default: 4096]
    #[arg(long, value_name = "PODS", env = "ISOLATE_MAX_ISOLATED", hide_env_values = true)]
    pub max_isolated: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Pods: UIDs in any spelling, unique prefixes of 8 hex digits or more, or namespace/name
    #[arg(required = true, value_name = "POD")]
    pub uids: Vec<String>,
    /// Why, for the record: one line, at most 1024 bytes
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    #[command(flatten)]
    pub exemptions: Exemptions,
    /// Release the pods after this time (2h, 30m, 1day 12h); the daemon does it
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "until")]
    pub lasting: Option<Duration>,
    /// Release the pods at this time (2026-03-01T08:00:00Z, or with an offset); the daemon does it
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub until: Option<Timestamp>,
    /// Isolate what is refused otherwise: the agent's own pod, processes of the node, static pods, kube-system
    #[arg(long)]
    pub force: bool,
    /// Resolve and check, change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub before: Before,
    #[command(flatten)]
    pub specification: Specification,
    /// Prove by probes that the pods are cut off, as `verify` does
    #[arg(long, conflicts_with = "dry_run")]
    pub verify: bool,
    /// Form of the outcome
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    pub output: Form,
    #[command(flatten)]
    pub limit: Limit,
}

/// Where a pod's specification is read.
#[derive(Debug, Args)]
#[command(next_help_heading = "Specification of the pod")]
pub(crate) struct Specification {
    /// Manifest that the pod is in: YAML or JSON, as kubectl get -o yaml gives it, or what makes the pod
    #[arg(long, value_name = "FILE")]
    pub pod_manifest: Option<PathBuf>,
    /// kubelet's read API: https, or http for its read-only port [default: port 10250 of 127.0.0.1, if it is to be asked]
    #[arg(long, value_name = "URL", env = "ISOLATE_KUBELET_URL", hide_env_values = true)]
    pub kubelet_url: Option<String>,
    /// File with a bearer token for it
    #[arg(long, value_name = "FILE", env = "ISOLATE_KUBELET_TOKEN_FILE", hide_env_values = true)]
    pub kubelet_token_file: Option<PathBuf>,
    /// File with its CA or its own certificate [default: where kubelet keeps the latter]
    #[arg(long, value_name = "FILE", env = "ISOLATE_KUBELET_CA", hide_env_values = true)]
    pub kubelet_ca: Option<PathBuf>,
    /// PEM file with a client certificate for it and the key
    #[arg(long, value_name = "FILE", env = "ISOLATE_KUBELET_CLIENT_CERT", hide_env_values = true)]
    pub kubelet_client_cert: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Preview {
    /// The pod: its UID in any spelling, a unique prefix of 8 hex digits or more, or its namespace/name
    #[arg(value_name = "POD")]
    pub pod: String,
    #[command(flatten)]
    pub exemptions: Exemptions,
    #[command(flatten)]
    pub specification: Specification,
    /// Form of the preview
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    pub output: Form,
}

/// What is done before a pod is cut off.
#[derive(Debug, Args)]
pub(crate) struct Before {
    /// Collect evidence first, for at most 2 s, and its executables after the cut; one pod only
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub evidence: Option<PathBuf>,
    /// With the values of environment variables in it: they may be secrets
    #[arg(long, requires = "evidence")]
    pub with_env: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Isolated pods: UIDs in any spelling, unique prefixes of 8 hex digits or more, or namespace/name
    #[arg(required = true, value_name = "POD")]
    pub uids: Vec<String>,
    /// Form of what was found
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    pub output: Form,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Pods: UIDs in any spelling, unique prefixes of 8 hex digits or more, or namespace/name
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "POD")]
    pub uids: Vec<String>,
    /// Every isolated pod
    #[arg(long)]
    pub all: bool,
    /// Form of the outcome
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    pub output: Form,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Form of the list
    #[arg(short, long, value_enum, default_value_t = Listing::Table)]
    pub output: Listing,
}

#[derive(Debug, Args)]
pub(crate) struct StatusOf {
    /// One isolated pod: its UID in any spelling, a unique prefix of 8 hex digits or more, or namespace/name
    #[arg(value_name = "POD")]
    pub uid: Option<String>,
    /// Form of the description
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    pub output: Form,
}

#[derive(Debug, Args)]
pub(crate) struct Evidence {
    /// The pod: its UID in any spelling, a unique prefix of 8 hex digits or more, or namespace/name
    #[arg(value_name = "POD")]
    pub uid: String,
    /// The archive to write, .tar.zst; it must not exist
    #[arg(short, long, value_name = "FILE")]
    pub write: PathBuf,
    /// Take the values of environment variables as well: they may be secrets
    #[arg(long)]
    pub with_env: bool,
    /// Collect for another process of this program, whose turn it is after so many milliseconds
    #[arg(long, hide = true, value_name = "MILLISECONDS")]
    pub in_turns: Option<u64>,
    /// Form of the outcome
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    pub output: Form,
}

#[derive(Debug, Args)]
pub(crate) struct EventsOf {
    /// One pod, isolated or not any more: its UID in any spelling, a prefix of 8 hex digits or more, or namespace/name
    #[arg(value_name = "POD")]
    pub uid: Option<String>,
    /// Form of the list
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    pub output: Form,
}

#[derive(Debug, Args)]
pub(crate) struct Uninstall {
    /// Release pods that are isolated, too
    #[arg(long)]
    pub force: bool,
    /// Leave the records and the journal: an agent that is installed later isolates the same pods again
    #[arg(long)]
    pub keep_records: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Form of the report
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    pub output: Form,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    pub shell: Shell,
}

/// Form of an outcome or a description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For a person
    Text,
    /// The types of the control socket, as JSON
    Json,
    /// The same as YAML
    Yaml,
}

/// Form of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Listing {
    /// One line a pod
    Table,
    /// The same with hooks and drops by direction
    Wide,
    /// The types of the control socket, as JSON
    Json,
    /// The same as YAML
    Yaml,
    /// UIDs only
    Name,
}

/// A point in time that means the same on every machine.
fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|error: jiff::Error| {
        format!("{error}; give a date and a time with Z or an offset, as 2026-03-01T08:00:00Z")
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn remove_takes_pods_or_all() {
        assert!(parse("isolate-agent remove").is_err());
        assert!(parse("isolate-agent remove --all 0f0e0d0c").is_err());
        assert!(parse("isolate-agent remove --all").is_ok());
        assert!(parse("isolate-agent remove 0f0e0d0c 0f0e0d0d").is_ok());
        assert!(parse("isolate-agent add").is_err());
    }
}
