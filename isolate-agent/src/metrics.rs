//! What Prometheus sees: what the loop feeds, and at every scrape the node's figures. Metrics never steer.

#[cfg(test)]
mod alerts;
#[cfg(test)]
mod docs;
mod family;
mod samples;
mod scrape;
pub mod server;

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use isolate_common::HOOKS;
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

pub use self::family::{Descriptor, Family, Kind, PREFIX};
use crate::{
    control::SocketCounters, inventory::cri::CriCounters, nri::NriCounters, reconcile::Repaired, status::Figures,
};

/// Upper bounds in seconds, from 50 µs (twice a map write) to 1 s.
const ENFORCEMENT_BUCKETS: [f64; 14] =
    [50e-6, 100e-6, 200e-6, 300e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0];
/// Upper bounds in seconds: a pass over an idle node to one that attaches to hundreds of new pods.
const PASS_BUCKETS: [f64; 11] = [1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0, 2.5, 10.0];

/// What the agent tells Prometheus. Clones share their values.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started_secs: f64,
    enforcement: Histogram,
    repairs: [Counter; HOOKS.len()],
    entry_repairs: Counter,
    pin_repairs: Counter,
    passes: Counter,
    failures: Counter,
    pass_duration: Histogram,
    /// Writes both of them.
    histograms: Registry,
    /// Zero before the first pass.
    last_pass_secs: Gauge<f64, AtomicU64>,
    socket: SocketCounters,
    cri: CriCounters,
    nri: NriCounters,
}

impl Metrics {
    /// Nothing counted but what the control socket counts by itself; the agent counts as started now.
    pub fn new(socket: SocketCounters) -> Self {
        let [enforcement, pass_duration] = [Histogram::new(ENFORCEMENT_BUCKETS), Histogram::new(PASS_BUCKETS)];
        let histograms = [(Family::EnforcementDuration, &enforcement), (Family::ReconcileDuration, &pass_duration)];
        Self(Arc::new(Inner {
            started_secs: unix_now_secs(),
            histograms: registry(histograms),
            enforcement,
            repairs: Default::default(),
            entry_repairs: Counter::default(),
            pin_repairs: Counter::default(),
            passes: Counter::default(),
            failures: Counter::default(),
            pass_duration,
            last_pass_secs: Gauge::default(),
            socket,
            cri: CriCounters::default(),
            nri: NriCounters::default(),
        }))
    }

    /// What whoever asks the container runtime counts with.
    pub fn cri(&self) -> CriCounters {
        self.0.cri.clone()
    }

    /// What the NRI plugin counts with.
    pub fn nri(&self) -> NriCounters {
        self.0.nri.clone()
    }

    /// A pass of the reconcile loop ended so, after `took`.
    pub fn pass_finished<T, E>(&self, took: Duration, result: &Result<T, E>) {
        self.0.passes.inc();
        if result.is_err() {
            self.0.failures.inc();
        }
        self.0.pass_duration.observe(took.as_secs_f64());
        self.0.last_pass_secs.set(unix_now_secs());
    }

    /// A pod was cut off, `took` after the request for it arrived.
    pub fn enforced(&self, took: Duration) {
        self.0.enforcement.observe(took.as_secs_f64());
    }

    /// Something that did not hold any more was put back.
    pub fn repaired(&self, what: Repaired) {
        match what {
            Repaired::Hook(hook) => self.0.repairs[hook as usize].inc(),
            Repaired::Entry => self.0.entry_repairs.inc(),
            Repaired::Pin => self.0.pin_repairs.inc(),
        };
    }

    /// Everything, in the `OpenMetrics` text format. `figures` are the node's at this moment.
    pub fn encode(&self, figures: &Figures) -> String {
        let mut text = String::with_capacity(3 * 1024 * (figures.isolations.len() + 8));
        scrape::write(&mut text, &self.0, figures);
        match text::encode(&mut text, &self.0.histograms) {
            Ok(()) => text,
            Err(fmt::Error) => unreachable!("a String takes every write"),
        }
    }
}

/// A registry that writes these.
fn registry<const N: usize>(histograms: [(Family, &Histogram); N]) -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    for (family, histogram) in histograms {
        let Descriptor { stem, help, unit, .. } = family.descriptor();
        // It adds the full stop.
        let help = help.trim_end_matches('.');
        match unit {
            Some(unit) => registry.register_with_unit(stem, help, Unit::Other(unit.to_owned()), histogram.clone()),
            None => registry.register(stem, help, histogram.clone()),
        }
    }
    registry
}

pub(crate) fn unix_now_secs() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests;
