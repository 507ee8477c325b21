//! Where the agent works and how: flags and environment, then the configuration file, then the defaults.
//!
//! Reads one file, at the caller's request; knows nothing of how flags are spelled on a command line.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, de};
use thiserror::Error;

use crate::inventory::cri::endpoint;
use crate::spec::Kubelet;

/// Pods that can be isolated at once, unless set otherwise.
pub const DEFAULT_MAX_ISOLATED: u32 = 4096;
/// What that number may be set to.
pub const MAX_ISOLATED_RANGE: RangeInclusive<u32> = 1..=65_536;
/// How long the record of a pod that has left the node is kept, unless set otherwise.
const DEFAULT_RETENTION: Duration = Duration::from_hours(7 * 24);
const DEFAULT_RUN_DIR: &str = "/run/isolate-agent";
const DEFAULT_STATE_DIR: &str = "/var/lib/isolate-agent";
const DEFAULT_BPFFS: &str = "/sys/fs/bpf/isolate-agent";
const DEFAULT_KUBELET_URL: &str = "https://127.0.0.1:10250";
const DEFAULT_NRI_SOCKET: &str = "/var/run/nri/nri.sock";
const DEFAULT_METRICS_ADDR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9477);

/// Why the settings cannot be used.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no TOML, or holds a key or a value that is not known.
    #[error("the configuration file {} is not valid", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A path would depend on where the agent was started.
    #[error("{key} must be an absolute path, not {:?}", path.display())]
    Relative {
        /// The setting, as the configuration file spells it.
        key: &'static str,
        /// What was given.
        path: PathBuf,
    },
    /// More pods than the maps are made for, or none.
    #[error(
        "max_isolated must be between {} and {}, not {given}",
        MAX_ISOLATED_RANGE.start(),
        MAX_ISOLATED_RANGE.end()
    )]
    MaxIsolated {
        /// What was given.
        given: u32,
    },
}

/// Where the agent works and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Folder of the socket and the lock.
    pub run_dir: PathBuf,
    /// Folder of the records.
    pub state_dir: PathBuf,
    /// Folder on a BPF file system for pinned maps, programs and links.
    pub bpffs: PathBuf,
    /// The cgroup tree; found from the mounts if not set.
    pub cgroup_root: Option<PathBuf>,
    /// The container runtime's CRI socket; found in the usual places if not set.
    pub cri_endpoint: Option<PathBuf>,
    /// The cgroup that kubelet runs in; found from its process if not set.
    pub kubelet_cgroup: Option<PathBuf>,
    /// Whether the agent is an NRI plugin of the container runtime.
    pub nri: bool,
    /// The runtime's NRI socket.
    pub nri_socket: PathBuf,
    /// Pods that can be isolated at once; sizes the maps when they are made.
    pub max_isolated: u32,
    /// Where Prometheus scrapes.
    pub metrics_addr: SocketAddr,
    /// Which pods carry the programs before they are isolated.
    pub arm: Arm,
    /// How programs get onto the pods' interfaces.
    pub veth_hook: VethHook,
    /// Form of the log lines.
    pub log_format: LogFormat,
    /// How long a pod has to be seen away from the node until its record expires.
    pub retention: Duration,
    /// kubelet's read API, if it is to be asked for pods' specifications.
    pub kubelet: Option<Kubelet>,
}

/// Settings from one source; what it leaves out comes from the next. The keys of the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// See [`Settings::run_dir`].
    pub run_dir: Option<PathBuf>,
    /// See [`Settings::state_dir`].
    pub state_dir: Option<PathBuf>,
    /// See [`Settings::bpffs`].
    pub bpffs: Option<PathBuf>,
    /// See [`Settings::cgroup_root`].
    pub cgroup_root: Option<PathBuf>,
    /// See [`Settings::cri_endpoint`]; with or without `unix://` in front.
    pub cri_endpoint: Option<PathBuf>,
    /// See [`Settings::kubelet_cgroup`].
    pub kubelet_cgroup: Option<PathBuf>,
    /// See [`Settings::nri`].
    pub nri: Option<bool>,
    /// See [`Settings::nri_socket`].
    pub nri_socket: Option<PathBuf>,
    /// See [`Settings::max_isolated`].
    pub max_isolated: Option<u32>,
    /// See [`Settings::metrics_addr`].
    pub metrics_addr: Option<SocketAddr>,
    /// See [`Settings::arm`].
    pub arm: Option<Arm>,
    /// See [`Settings::veth_hook`].
    pub veth_hook: Option<VethHook>,
    /// See [`Settings::log_format`].
    pub log_format: Option<LogFormat>,
    /// See [`Settings::retention`].
    #[serde(default, deserialize_with = "duration")]
    pub retention: Option<Duration>,
    /// See [`Kubelet::url`]; its usual port on this node if only the others are set.
    pub kubelet_url: Option<String>,
    /// See [`Kubelet::token_file`].
    pub kubelet_token_file: Option<PathBuf>,
    /// See [`Kubelet::ca`].
    pub kubelet_ca: Option<PathBuf>,
    /// See [`Kubelet::client_cert`].
    pub kubelet_client_cert: Option<PathBuf>,
}

/// A duration as the flags spell it (`7days`, `12h 30m`).
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map(Some).map_err(|error| de::Error::custom(format!("{text:?}: {error}")))
}

/// Which pods carry the programs before they are isolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Arm {
    /// All: isolating one is a map write.
    All,
    /// None: the programs are attached with the isolation.
    OnDemand,
}

/// How programs get onto the pods' interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum VethHook {
    /// By tcx where the kernel has it, by clsact elsewhere.
    Auto,
    /// By tcx links, which run before all filters.
    Tcx,
    /// By filters of a clsact qdisc.
    Clsact,
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}

impl Layer {
    /// The layer that a configuration file holds.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = fs::read_to_string(path).map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| SettingsError::Parse { path: path.to_owned(), source: Box::new(source) })
    }

    fn kubelet(&self) -> Result<Option<Kubelet>, SettingsError> {
        let file = |key, path: &Option<PathBuf>| path.clone().map(|path| absolute(key, path)).transpose();
        let kubelet = Kubelet {
            url: self.kubelet_url.clone().unwrap_or_else(|| DEFAULT_KUBELET_URL.to_owned()),
            token_file: file("kubelet_token_file", &self.kubelet_token_file)?,
            ca: file("kubelet_ca", &self.kubelet_ca)?,
            client_cert: file("kubelet_client_cert", &self.kubelet_client_cert)?,
        };
        let asked = self.kubelet_url.is_some() || kubelet.token_file.is_some() || kubelet.client_cert.is_some();
        Ok(asked.then_some(kubelet))
    }

    /// This layer, completed from a weaker one.
    #[must_use]
    pub fn or(self, weaker: Self) -> Self {
        Self {
            run_dir: self.run_dir.or(weaker.run_dir),
            state_dir: self.state_dir.or(weaker.state_dir),
            bpffs: self.bpffs.or(weaker.bpffs),
            cgroup_root: self.cgroup_root.or(weaker.cgroup_root),
            cri_endpoint: self.cri_endpoint.or(weaker.cri_endpoint),
            kubelet_cgroup: self.kubelet_cgroup.or(weaker.kubelet_cgroup),
            nri: self.nri.or(weaker.nri),
            nri_socket: self.nri_socket.or(weaker.nri_socket),
            max_isolated: self.max_isolated.or(weaker.max_isolated),
            metrics_addr: self.metrics_addr.or(weaker.metrics_addr),
            arm: self.arm.or(weaker.arm),
            veth_hook: self.veth_hook.or(weaker.veth_hook),
            log_format: self.log_format.or(weaker.log_format),
            retention: self.retention.or(weaker.retention),
            kubelet_url: self.kubelet_url.or(weaker.kubelet_url),
            kubelet_token_file: self.kubelet_token_file.or(weaker.kubelet_token_file),
            kubelet_ca: self.kubelet_ca.or(weaker.kubelet_ca),
            kubelet_client_cert: self.kubelet_client_cert.or(weaker.kubelet_client_cert),
        }
    }
}

impl TryFrom<Layer> for Settings {
    type Error = SettingsError;

    /// Completes a layer with the defaults and checks the whole.
    fn try_from(layer: Layer) -> Result<Self, SettingsError> {
        let max_isolated = layer.max_isolated.unwrap_or(DEFAULT_MAX_ISOLATED);
        if !MAX_ISOLATED_RANGE.contains(&max_isolated) {
            return Err(SettingsError::MaxIsolated { given: max_isolated });
        }
        let kubelet = layer.kubelet()?;
        Ok(Self {
            run_dir: absolute("run_dir", layer.run_dir.unwrap_or_else(|| DEFAULT_RUN_DIR.into()))?,
            state_dir: absolute("state_dir", layer.state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into()))?,
            bpffs: absolute("bpffs", layer.bpffs.unwrap_or_else(|| DEFAULT_BPFFS.into()))?,
            cgroup_root: layer.cgroup_root.map(|path| absolute("cgroup_root", path)).transpose()?,
            cri_endpoint: layer
                .cri_endpoint
                .map(|given| absolute("cri_endpoint", endpoint::path(&given)))
                .transpose()?,
            kubelet_cgroup: layer.kubelet_cgroup.map(|path| absolute("kubelet_cgroup", path)).transpose()?,
            nri: layer.nri.unwrap_or(false),
            nri_socket: absolute("nri_socket", layer.nri_socket.unwrap_or_else(|| DEFAULT_NRI_SOCKET.into()))?,
            max_isolated,
            metrics_addr: layer.metrics_addr.unwrap_or(DEFAULT_METRICS_ADDR),
            arm: layer.arm.unwrap_or(Arm::All),
            veth_hook: layer.veth_hook.unwrap_or(VethHook::Auto),
            log_format: layer.log_format.unwrap_or(LogFormat::Text),
            retention: layer.retention.unwrap_or(DEFAULT_RETENTION),
            kubelet,
        })
    }
}

impl Settings {
    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    /// The lock of whoever listens on it.
    pub fn socket_lock(&self) -> PathBuf {
        self.socket().with_extension("sock.lock")
    }

    /// The lock that whoever changes anything holds.
    pub fn lock(&self) -> PathBuf {
        self.run_dir.join("lock")
    }
}

fn absolute(key: &'static str, path: PathBuf) -> Result<PathBuf, SettingsError> {
    if path.is_absolute() { Ok(path) } else { Err(SettingsError::Relative { key, path }) }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn file(text: &str) -> Result<Layer, SettingsError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("agent.toml");
        fs::write(&path, text).expect("a file");
        Layer::read(&path)
    }

    #[test]
    fn the_stronger_layer_wins_key_by_key() {
        let flags = Layer { run_dir: Some("/flag".into()), arm: Some(Arm::All), ..Layer::default() };
        let below = file("run_dir = '/file'\nstate_dir = '/file-state'\narm = 'on-demand'\nlog_format = 'json'")
            .expect("a valid file");
        let settings = Settings::try_from(flags.or(below)).expect("valid settings");
        assert_eq!(settings.run_dir, Path::new("/flag"), "flag over file");
        assert_eq!(settings.arm, Arm::All, "flag over file");
        assert_eq!(settings.state_dir, Path::new("/file-state"), "file over default");
        assert_eq!(settings.log_format, LogFormat::Json, "file over default");
        assert_eq!(settings.bpffs, Path::new(DEFAULT_BPFFS), "default");
        assert_eq!(settings.cgroup_root, None);
        assert_eq!(settings.kubelet, None, "kubelet is not asked unless it is told how");
        let token = Layer { kubelet_token_file: Some("/t".into()), ..Layer::default() };
        let kubelet = Settings::try_from(token).expect("valid settings").kubelet.expect("asked");
        assert_eq!(kubelet.url, DEFAULT_KUBELET_URL);
    }

    #[test]
    fn every_key_of_the_file_arrives() {
        let text = "run_dir = '/r'\nstate_dir = '/s'\nbpffs = '/b'\ncgroup_root = '/c'\nkubelet_cgroup = '/k'\nmax_isolated = 7\n\
                    cri_endpoint = 'unix:///c/cri.sock'\nnri = true\nnri_socket = '/n'\nmetrics_addr = '[::1]:80'\narm = 'on-demand'\nveth_hook = 'clsact'\nlog_format = 'json'\n\
                    retention = '36h'\nkubelet_url = 'https://node1:10250'\nkubelet_token_file = '/t'\nkubelet_ca = '/k'\n\
                    kubelet_client_cert = '/p'\n";
        let settings = Settings::try_from(Layer::default().or(file(text).expect("a valid file"))).expect("valid");
        let expected = Settings {
            run_dir: "/r".into(),
            state_dir: "/s".into(),
            bpffs: "/b".into(),
            cgroup_root: Some("/c".into()),
            cri_endpoint: Some("/c/cri.sock".into()),
            kubelet_cgroup: Some("/k".into()),
            nri: true,
            nri_socket: "/n".into(),
            max_isolated: 7,
            metrics_addr: "[::1]:80".parse().expect("an address"),
            arm: Arm::OnDemand,
            veth_hook: VethHook::Clsact,
            log_format: LogFormat::Json,
            retention: Duration::from_hours(36),
            kubelet: Some(Kubelet {
                url: "https://node1:10250".into(),
                token_file: Some("/t".into()),
                ca: Some("/k".into()),
                client_cert: Some("/p".into()),
            }),
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn a_bad_file_is_refused_and_the_key_named() {
        for (text, named) in [
            ("runn_dir = '/r'", "runn_dir"),
            ("[daemon]\narm = 'all'", "daemon"),
            ("arm = 'some'", "some"),
            ("max_isolated = -1", "max_isolated"),
            ("metrics_addr = 'localhost'", "metrics_addr"),
            ("retention = 'a while'", "retention"),
            ("run_dir = ", "run_dir"),
        ] {
            let error = file(text).expect_err(text);
            let cause = error.source().map(ToString::to_string).expect("a cause");
            assert!(cause.contains(named), "{text}: {cause}");
        }
        assert!(matches!(Layer::read(Path::new("/nonexistent/agent.toml")), Err(SettingsError::Read { .. })));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let paths = [
            "run_dir",
            "state_dir",
            "bpffs",
            "cgroup_root",
            "cri_endpoint",
            "kubelet_cgroup",
            "kubelet_token_file",
            "kubelet_ca",
        ];
        for key in paths {
            let layer = file(&format!("{key} = 'relative/path'")).expect("a valid file");
            let error = Settings::try_from(layer).expect_err(key);
            assert!(error.to_string().contains(key), "{error}");
        }
        for (given, valid) in [(0, false), (1, true), (65_536, true), (65_537, false)] {
            let layer = Layer { max_isolated: Some(given), ..Layer::default() };
            assert_eq!(Settings::try_from(layer).is_ok(), valid, "{given}");
        }
    }
}
