//! Probes: what they do and how often, with the defaults of Kubernetes.
//!
//! Defaults: `SetDefaults_Probe` in pkg/apis/core/v1/defaults.go (0 means the default). Limits: `validateProbe` in
//! pkg/apis/core/validation.

use super::field::{At, Problems};

/// The largest number that an `int32` field takes.
const INT32: u64 = i32::MAX as u64;
/// The largest grace period.
const INT64: u64 = i64::MAX as u64;
const ACTIONS: [&str; 4] = ["exec", "grpc", "httpGet", "tcpSocket"];
const NUMBERS: [&str; 6] = [
    "initialDelaySeconds",
    "periodSeconds",
    "timeoutSeconds",
    "successThreshold",
    "failureThreshold",
    "terminationGracePeriodSeconds",
];

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Failing, before it succeeded once, restarts the container; the others wait for it.
    Startup,
    /// Failing restarts the container.
    Liveness,
    /// Failing takes the pod out of its services.
    Readiness,
}

impl ProbeKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// As a person says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }

    /// The field of a container.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Startup => "startupProbe",
            Self::Liveness => "livenessProbe",
            Self::Readiness => "readinessProbe",
        }
    }
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which.
    pub kind: ProbeKind,
    /// What kubelet does.
    pub action: Action,
    /// When and how often.
    pub timing: Timing,
    /// How long the container may take to end when this probe ends it, if it says so.
    pub grace_secs: Option<u64>,
}

/// The numbers of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Not before the container is so old, in seconds.
    pub initial_delay_secs: u64,
    /// From the beginning of one attempt to that of the next, in seconds.
    pub period_secs: u64,
    /// How long an attempt waits for an answer, in seconds.
    pub timeout_secs: u64,
    /// Failures in a row that make a failure.
    pub failure_threshold: u64,
    /// Successes in a row that make a success.
    pub success_threshold: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { initial_delay_secs: 0, period_secs: 10, timeout_secs: 1, failure_threshold: 3, success_threshold: 1 }
    }
}

/// What kubelet does to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connects from the node.
    Network(Network),
    /// Runs a command in the container.
    Exec,
    /// None of those that this version knows.
    Unknown(String),
}

/// A probe that connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its protocol.
    pub protocol: Protocol,
    /// The port, with names resolved; none if it is not valid.
    pub port: Option<u16>,
    /// Another host than the pod, if it names one.
    pub host: Option<String>,
}

/// How a probe talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A GET request.
    Http,
    /// The same over TLS.
    Https,
    /// A connection, nothing else.
    Tcp,
    /// The gRPC health service.
    Grpc,
}

/// A port of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: Option<String>,
    /// Its number in the pod.
    pub number: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// Reads a probe, if the container has it. `ports` are those of its container.
pub(super) fn read(container: &At<'_>, kind: ProbeKind, ports: &[Port], problems: &mut Problems) -> Option<Probe> {
    let probe = container.get(kind.field())?;
    if !probe.value.is_object() {
        probe.expected("a probe", problems);
        return None;
    }
    let action = action(&probe, ports, problems);
    let timing = timing(&probe, kind, problems);
    let grace_secs = match kind {
        ProbeKind::Readiness => None,
        ProbeKind::Startup | ProbeKind::Liveness => probe.whole("terminationGracePeriodSeconds", 1..=INT64, problems),
    };
    Some(Probe { kind, action, timing, grace_secs })
}

fn timing(probe: &At<'_>, kind: ProbeKind, problems: &mut Problems) -> Timing {
    let standard = Timing::default();
    let mut number = |key, or| probe.whole(key, 0..=INT32, problems).filter(|number| *number != 0).unwrap_or(or);
    let mut timing = Timing {
        initial_delay_secs: number("initialDelaySeconds", standard.initial_delay_secs),
        period_secs: number("periodSeconds", standard.period_secs),
        timeout_secs: number("timeoutSeconds", standard.timeout_secs),
        failure_threshold: number("failureThreshold", standard.failure_threshold),
        success_threshold: number("successThreshold", standard.success_threshold),
    };
    if kind != ProbeKind::Readiness && timing.success_threshold != 1 {
        let what = format!("{} is not 1, which a {} probe has to have", timing.success_threshold, kind.name());
        if let Some(field) = probe.get("successThreshold") {
            field.problem(what, problems);
        }
        timing.success_threshold = 1;
    }
    timing
}

fn action(probe: &At<'_>, ports: &[Port], problems: &mut Problems) -> Action {
    let given: Vec<&str> = probe.keys().filter(|key| probe.get(key).is_some() && !NUMBERS.contains(key)).collect();
    let known: Vec<&str> = given.iter().copied().filter(|key| ACTIONS.contains(key)).collect();
    match (known[..].first(), known.len()) {
        (Some(&name), 1) => known_action(probe, name, ports, problems),
        (Some(_), _) => {
            probe.problem(format!("a probe does one thing, this one several: {}", known.join(", ")), problems);
            Action::Unknown(known.join("+"))
        }
        (None, _) => {
            let name = if given.is_empty() { "none".to_owned() } else { given.join("+") };
            probe.problem(format!("unknown type of probe: {name}; known are {}", ACTIONS.join(", ")), problems);
            Action::Unknown(name)
        }
    }
}

fn known_action(probe: &At<'_>, name: &str, ports: &[Port], problems: &mut Problems) -> Action {
    let Some(at) = probe.get(name) else { return Action::Unknown(name.to_owned()) };
    let protocol = match name {
        "exec" => return Action::Exec,
        "grpc" => Protocol::Grpc,
        "tcpSocket" => Protocol::Tcp,
        _ if at.text("scheme", problems).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) => Protocol::Https,
        _ => Protocol::Http,
    };
    let host = at.text("host", problems).filter(|host| !host.is_empty());
    Action::Network(Network { protocol, port: port(&at, protocol, ports, problems), host })
}

/// The port that kubelet connects to: a number, or the name of one of the container's ports.
fn port(at: &At<'_>, protocol: Protocol, ports: &[Port], problems: &mut Problems) -> Option<u16> {
    let Some(field) = at.get("port") else {
        at.problem("it has no port".to_owned(), problems);
        return None;
    };
    let Some(name) = field.value.as_str().filter(|_| protocol != Protocol::Grpc) else {
        return field.as_whole(1..=65_535, problems).and_then(|number| u16::try_from(number).ok());
    };
    let named = ports.iter().find(|port| port.name.as_deref() == Some(name));
    // kubelet reads a number that is written as text as well (`ResolveContainerPort`).
    let number = named.map(|port| port.number).or_else(|| name.parse().ok().filter(|number| *number != 0));
    if number.is_none() {
        let known: Vec<&str> = ports.iter().filter_map(|port| port.name.as_deref()).collect();
        let has = if known.is_empty() { "it names none".to_owned() } else { format!("it has {}", known.join(", ")) };
        field.problem(format!("the container has no port named {name:?} ({has})"), problems);
    }
    number
}
