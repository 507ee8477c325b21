//! What becomes of a container and its probes. Pure.

use jiff::Timestamp;

use super::{
    prober::{self, Age, BACK_OFF_SECS, Window},
    report::{ContainerOutlook, Effect, Options, Outcome, ProbeOutlook},
};
use crate::spec::{Action, Container, PodSpec, Probe, ProbeKind, Protocol, RestartPolicy, Role};

/// Least time that kubelet gives a container to end (`minimumGracePeriodInSeconds`), in seconds.
const LEAST_GRACE_SECS: u64 = 2;

/// A pod, how it would be isolated and what is known of its age.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene<'a> {
    pub(super) pod: &'a PodSpec,
    pub(super) options: &'a Options,
    pub(super) now: Timestamp,
    /// All of its containers are at least so old, in seconds.
    pub(super) age_at_least: u64,
}

/// One way that a container may go.
struct Way {
    by: ProbeKind,
    window: Window,
    certain: bool,
}

impl Scene<'_> {
    /// What becomes of each container that runs.
    pub(super) fn containers(&self) -> Vec<ContainerOutlook> {
        self.pod.containers.iter().filter(|one| one.role != Role::Init).map(|one| self.container(one)).collect()
    }

    /// When a readiness probe of the container has failed, if it is cut.
    pub(super) fn readiness(&self, container: &Container) -> Option<Window> {
        let probe = container.probe(ProbeKind::Readiness)?;
        (self.effect(probe).0 == Effect::Cut).then(|| prober::fails(&probe.timing, self.age(container)))
    }

    fn age(&self, container: &Container) -> Age {
        let since = container.state.and_then(|state| state.running_since);
        let known = since.and_then(|since| u64::try_from(self.now.as_second() - since.as_second()).ok());
        known.map_or(Age { at_least: self.age_at_least, at_most: None }, Age::about)
    }

    /// Whether its startup probe has succeeded; none if that is not known.
    fn has_started(&self, container: &Container) -> Option<bool> {
        let Some(startup) = container.probe(ProbeKind::Startup) else { return Some(true) };
        let reported = container.state.and_then(|state| state.started);
        // One that had not would have been ended by now.
        reported.or_else(|| (prober::startup_ends(&startup.timing, self.age(container)) == 0).then_some(true))
    }

    fn container(&self, container: &Container) -> ContainerOutlook {
        let started = self.has_started(container);
        let ways = self.ways(container, started);
        let probes = container.probes.iter().map(|probe| self.probe(container, probe, started)).collect();
        let mut outlook = ContainerOutlook {
            name: container.name.clone(),
            outcome: Outcome::KeepsRunning,
            why: String::new(),
            given_up_secs: None,
            ended_secs: None,
            restarted: None,
            next_life_secs: None,
            back_off_secs: Vec::new(),
            probes,
        };
        let ending: Vec<&Way> = ways.iter().flatten().collect();
        if let Some(window) = ending.iter().map(|way| way.window).reduce(Window::or) {
            let certain = ending.len() == ways.len() && ending.iter().all(|way| way.certain);
            outlook.outcome = if certain { Outcome::Ends } else { Outcome::MayEnd };
            self.end(container, window, &ending, &mut outlook);
        }
        outlook.why = why(container, &ending, &outlook);
        if outlook.probes.iter().any(|probe| probe.effect == Effect::Unknown && probe.probe != "readiness") {
            outlook.outcome = Outcome::Unknown;
        }
        outlook
    }

    /// What may come: one way if the container has started, one if not; each ends it or (none) does not.
    fn ways(&self, container: &Container, started: Option<bool>) -> Vec<Option<Way>> {
        let mut ways = Vec::new();
        if started != Some(false) {
            ways.push(self.liveness(container, |probe| prober::fails(&probe.timing, self.age(container))));
        }
        if let Some(startup) = container.probe(ProbeKind::Startup).filter(|_| started != Some(true)) {
            ways.push(match self.effect(startup).0 {
                Effect::Cut => Some(Way {
                    by: ProbeKind::Startup,
                    window: prober::startup_fails(&startup.timing, self.age(container)),
                    certain: true,
                }),
                _ => self.liveness(container, |probe| {
                    prober::fails_after_startup(&probe.timing, &startup.timing, self.age(container))
                }),
            });
        }
        ways
    }

    fn liveness(&self, container: &Container, window: impl FnOnce(&Probe) -> Window) -> Option<Way> {
        let probe = container.probe(ProbeKind::Liveness)?;
        let certain = match self.effect(probe).0 {
            Effect::Cut => true,
            Effect::RunsOn => false,
            _ => return None,
        };
        Some(Way { by: ProbeKind::Liveness, window: window(probe), certain })
    }

    fn end(&self, container: &Container, window: Window, ending: &[&Way], outlook: &mut ContainerOutlook) {
        let own = ending.iter().filter_map(|way| container.probe(way.by)?.grace_secs).max();
        let grace = own.unwrap_or(self.pod.grace_secs);
        // A preStop hook may take all of it, and then the least is left.
        let longest = if container.has_pre_stop && grace > 0 {
            grace.saturating_add(LEAST_GRACE_SECS)
        } else {
            grace.max(LEAST_GRACE_SECS)
        };
        let restarted = container.role == Role::Sidecar || self.pod.restart_policy != RestartPolicy::Never;
        outlook.given_up_secs = Some(window);
        outlook.ended_secs = Some(window.and_up_to(longest));
        outlook.restarted = Some(restarted);
        if restarted {
            outlook.next_life_secs = self.next_life(container);
            outlook.back_off_secs = BACK_OFF_SECS.to_vec();
        }
    }

    /// How long one that is started while the pod is isolated lives.
    fn next_life(&self, container: &Container) -> Option<Window> {
        let startup = container.probe(ProbeKind::Startup);
        if let Some(probe) = startup.filter(|probe| self.effect(probe).0 == Effect::Cut) {
            return Some(prober::fails(&probe.timing, Age::NEW));
        }
        let liveness = container.probe(ProbeKind::Liveness)?;
        Some(match startup {
            Some(startup) => prober::fails_after_startup(&liveness.timing, &startup.timing, Age::NEW),
            None => prober::fails(&liveness.timing, Age::NEW),
        })
    }

    fn probe(&self, container: &Container, probe: &Probe, started: Option<bool>) -> ProbeOutlook {
        let (kind, port) = match &probe.action {
            Action::Exec => ("exec".to_owned(), None),
            Action::Unknown(name) => (name.clone(), None),
            Action::Network(network) => (protocol(network.protocol).to_owned(), network.port),
        };
        let (mut effect, mut why) = self.effect(probe);
        if probe.kind == ProbeKind::Startup && started == Some(true) {
            (effect, why) =
                (Effect::Over, "the container has started; it counts again if it is started anew".to_owned());
        }
        let age = self.age(container);
        let fails_secs = match (effect, probe.kind) {
            (Effect::Cut | Effect::RunsOn, ProbeKind::Startup) => Some(prober::startup_fails(&probe.timing, age)),
            (Effect::Cut | Effect::RunsOn, _) => Some(prober::fails(&probe.timing, age)),
            _ => None,
        };
        ProbeOutlook { probe: probe.kind.name().to_owned(), kind, port, effect, why, fails_secs }
    }

    /// What isolation does to a probe, and why.
    fn effect(&self, probe: &Probe) -> (Effect, String) {
        let (effect, why) = match &probe.action {
            Action::Unknown(_) => (Effect::Unknown, "this version does not know such a probe"),
            Action::Exec if self.options.keep_loopback => {
                (Effect::RunsOn, "it runs in the container; it fails if its command needs more than loopback")
            }
            Action::Exec => (
                Effect::RunsOn,
                "it runs in the container; it fails if its command needs the network, 127.0.0.1 included (see --keep-loopback)",
            ),
            Action::Network(network) => match (&network.host, network.port) {
                (Some(_), _) => (Effect::Unaffected, "it asks another host than the pod"),
                (None, None) => (Effect::Unaffected, "its port is not valid: kubelet can never have carried it out"),
                (None, Some(_)) if self.options.keep_probes && self.pod.host_network => {
                    (Effect::Cut, "--keep-probes is refused for a pod on the node's network: its probes are cut")
                }
                (None, Some(port)) if self.options.keep_probes && self.options.probe_ports.contains(&port) => {
                    (Effect::Kept, "--keep-probes lets kubelet through to this port")
                }
                (None, Some(_)) if self.options.keep_probes => (
                    Effect::Cut,
                    "--keep-probes does not name its port: kubelet's packets are dropped, each attempt times out",
                ),
                (None, Some(_)) => (Effect::Cut, "kubelet's packets are dropped: each attempt times out"),
            },
        };
        (effect, why.to_owned())
    }
}

const fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "http",
        Protocol::Https => "https",
        Protocol::Tcp => "tcp",
        Protocol::Grpc => "grpc",
    }
}

fn why(container: &Container, ending: &[&Way], outlook: &ContainerOutlook) -> String {
    if let Some(way) = ending.first() {
        let mut text = match (outlook.outcome, container.probe(way.by).map(|probe| &probe.action)) {
            (_, Some(Action::Exec)) => {
                format!("only if the command of its {} probe needs the network", way.by.name())
            }
            (Outcome::Ends, _) => format!("its {} probe is cut", way.by.name()),
            (_, _) => format!("its {} probe is cut, and whether it counts now is not known", way.by.name()),
        };
        if outlook.restarted == Some(false) {
            text += "; the pod's restartPolicy is Never, so no other one is started";
        }
        return text;
    }
    match container.probe(ProbeKind::Liveness) {
        None => "it has no liveness probe".to_owned(),
        Some(probe) => {
            let of = |outlook: &&ProbeOutlook| outlook.probe == probe.kind.name();
            let why = outlook.probes.iter().find(of).map(|outlook| outlook.why.as_str()).unwrap_or_default();
            format!("its liveness probe does not fail: {why}")
        }
    }
}
