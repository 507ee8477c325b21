//! What was measured at each size of node: a table, the fitted order, plots.

use std::collections::BTreeMap;

use crate::{
    plot::{Axis, Kind, Plot},
    report::{Table, figure},
    stats::{self, Series},
};

/// Something that may grow with the number of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// From the daemon's start until every pod is armed.
    ArmAll,
    /// From the request to the last packet of any pod.
    CutAll,
    /// From the request to the answer.
    AddAll,
    /// The same for a release of all.
    RemoveAll,
    /// A scrape with all pods isolated.
    Scrape,
    /// What it takes without the text: the daemon describes the node.
    Described,
    /// `list -o json`, the whole command, with all pods isolated.
    List,
    /// A start with all isolated and pinned.
    Restart,
    /// A start without pins, to every record enforced.
    Boot,
    /// The same until every pod is armed.
    BootArmed,
    /// Memory with all pods armed.
    Resident,
    /// Memory with all pods isolated.
    ResidentIsolated,
    /// CPU while nothing happens.
    RestCpu,
    /// CPU while twenty pods a second come and go.
    ChurnCpu,
    /// From a pod's start until it is armed, then.
    ChurnArmed,
}

impl Measure {
    /// All of them.
    pub(crate) const ALL: [Self; 15] = [
        Self::ArmAll,
        Self::CutAll,
        Self::AddAll,
        Self::RemoveAll,
        Self::Scrape,
        Self::Described,
        Self::List,
        Self::Restart,
        Self::Boot,
        Self::BootArmed,
        Self::Resident,
        Self::ResidentIsolated,
        Self::RestCpu,
        Self::ChurnCpu,
        Self::ChurnArmed,
    ];

    /// Its name in the JSON file.
    pub(crate) const fn id(self) -> &'static str {
        match self {
            Self::ArmAll => "arm_all",
            Self::CutAll => "cut_all",
            Self::AddAll => "add_all",
            Self::RemoveAll => "remove_all",
            Self::Scrape => "scrape",
            Self::Described => "described",
            Self::List => "list",
            Self::Restart => "restart",
            Self::Boot => "boot",
            Self::BootArmed => "boot_armed",
            Self::Resident => "resident",
            Self::ResidentIsolated => "resident_isolated",
            Self::RestCpu => "rest_cpu",
            Self::ChurnCpu => "churn_cpu",
            Self::ChurnArmed => "churn_armed",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::ArmAll => "arming all, from the daemon's start",
            Self::CutAll => "isolating all armed pods: last packet out",
            Self::AddAll => "isolating all: answer",
            Self::RemoveAll => "releasing all: answer",
            Self::Scrape => "scrape of /metrics, all isolated",
            Self::Described => "the same without its text (/healthz)",
            Self::List => "list -o json, whole command, all isolated",
            Self::Restart => "restart to ready, all isolated",
            Self::Boot => "start after a reboot to ready",
            Self::BootArmed => "the same, until the others are armed",
            Self::Resident => "memory, all armed",
            Self::ResidentIsolated => "memory, all isolated",
            Self::RestCpu => "CPU at rest",
            Self::ChurnCpu => "CPU, 20 pods a second come and go",
            Self::ChurnArmed => "then: from a pod's start to armed",
        }
    }

    /// Its unit.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::Resident | Self::ResidentIsolated => "MiB",
            Self::RestCpu | Self::ChurnCpu => "%",
            _ => "ms",
        }
    }
}

/// Samples by measure and number of pods.
#[derive(Debug, Default)]
pub(crate) struct Measures(BTreeMap<Measure, BTreeMap<u32, Series>>);

impl Measures {
    /// Adds a sample.
    pub(crate) fn put(&mut self, measure: Measure, pods: u32, value: f64) {
        self.0.entry(measure).or_default().entry(pods).or_default().push(value);
    }

    /// What was measured, by number of pods.
    pub(crate) fn of(&self, measure: Measure) -> impl Iterator<Item = (u32, &Series)> {
        self.0.get(&measure).into_iter().flatten().map(|(pods, series)| (*pods, series))
    }

    fn points(&self, measure: Measure) -> Vec<(f64, f64)> {
        self.of(measure).map(|(pods, series)| (f64::from(pods), series.median())).collect()
    }
}

/// A row for each measure, a column for each size of node.
pub(crate) fn table(measures: &Measures) -> Table {
    let mut sizes: Vec<u32> =
        Measure::ALL.iter().flat_map(|measure| measures.of(*measure)).map(|(pods, _)| pods).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut table = Table::new(&["pods"]);
    table.head.extend(sizes.iter().map(ToString::to_string));
    table.head.push("order".to_owned());
    for measure in Measure::ALL {
        let cell = |size: &u32| {
            let found = measures.of(measure).find(|(pods, _)| pods == size);
            found
                .map_or_else(|| "–".to_owned(), |(_, series)| format!("{} {}", figure(series.median()), measure.unit()))
        };
        let order = order(measures, measure).map_or_else(|| "–".to_owned(), |order| format!("{order:.2}"));
        table.row([measure.name().to_owned()].into_iter().chain(sizes.iter().map(cell)).chain([order]));
    }
    table
}

/// The exponent that fits best, from where the fixed cost of everything does not hide it.
fn order(measures: &Measures, measure: Measure) -> Option<f64> {
    const FROM: f64 = 10.0;
    let points: Vec<(f64, f64)> =
        measures.points(measure).into_iter().filter(|(pods, value)| *pods >= FROM && *value > 0.0).collect();
    (points.len() > 1).then(|| stats::order(&points))
}

/// The plots.
pub(crate) fn plots(measures: &Measures) -> Vec<Plot> {
    let plot = |name: &str, title: &str, y: &'static str, of: &[Measure]| {
        let line = |measure: &Measure| {
            let order = order(measures, *measure).map_or_else(String::new, |order| format!(" (order {order:.2})"));
            (format!("{}{order}", measure.name()), measures.points(*measure))
        };
        let lines = of.iter().map(line).filter(|(_, points)| !points.is_empty()).collect();
        let pods = Axis { title: "pods on the node", logarithmic: true };
        let kind = Kind::Lines { x: pods, y: Axis { title: y, logarithmic: true }, lines };
        Plot { name: name.to_owned(), title: title.to_owned(), kind }
    };
    vec![
        plot(
            "growth-cut",
            "One request for all pods",
            "milliseconds",
            &[Measure::CutAll, Measure::AddAll, Measure::RemoveAll, Measure::ArmAll],
        ),
        plot(
            "growth-start",
            "Starting the daemon",
            "milliseconds",
            &[Measure::Restart, Measure::Boot, Measure::BootArmed],
        ),
        plot(
            "growth-ask",
            "Asking the daemon, all isolated; pods that come and go",
            "milliseconds",
            &[Measure::Scrape, Measure::List, Measure::ChurnArmed],
        ),
        plot("growth-memory", "Memory of the daemon", "MiB", &[Measure::Resident, Measure::ResidentIsolated]),
        plot("growth-cpu", "CPU of the daemon", "% of a core", &[Measure::RestCpu, Measure::ChurnCpu]),
    ]
}
