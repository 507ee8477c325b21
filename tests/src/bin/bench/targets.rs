//! What is to be reached, and whether it is.

use serde::Serialize;

use crate::{
    bounds,
    report::{Report, figure},
};

/// One target beside what was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Target {
    /// What is measured.
    pub(crate) figure: String,
    /// What it is to be.
    pub(crate) bound: String,
    /// What it is.
    pub(crate) measured: String,
    /// Whether it is reached; none if it was not measured.
    pub(crate) reached: Option<bool>,
    /// What bounds it, where it is not reached.
    pub(crate) note: String,
}

/// Which figure of a series counts.
#[derive(Clone, Copy)]
enum At {
    Median,
    P99,
}

/// A target: what, the bound as text, the figure's name, which figure of it, lowest and highest value, unit.
struct Wanted {
    what: &'static str,
    bound: &'static str,
    name: &'static str,
    at: At,
    range: std::ops::RangeInclusive<f64>,
    unit: &'static str,
}

const fn at_most(what: &'static str, bound: &'static str, name: &'static str, most: f64, unit: &'static str) -> Wanted {
    Wanted { what, bound, name, at: At::Median, range: f64::NEG_INFINITY..=most, unit }
}

const fn p99(what: &'static str, bound: &'static str, name: &'static str, most: f64, unit: &'static str) -> Wanted {
    Wanted { at: At::P99, ..at_most(what, bound, name, most, unit) }
}

const fn at_least(
    what: &'static str,
    bound: &'static str,
    name: &'static str,
    least: f64,
    unit: &'static str,
) -> Wanted {
    Wanted { what, bound, name, at: At::Median, range: least..=f64::INFINITY, unit }
}

#[rustfmt::skip]
const WANTED: &[Wanted] = &[
    at_most("healthy pod, nothing isolated, veth in: our program over an empty one", "≤ 2 ns", "micro.veth_in.0_isolated.over_empty", 2.0, " ns"),
    at_most("healthy pod, nothing isolated, veth out: our program over an empty one", "≤ 2 ns", "micro.veth_out.0_isolated.over_empty", 2.0, " ns"),
    at_most("healthy pod, 1000 others isolated, veth in: over an empty program", "≤ 8 ns", "micro.veth_in.1000_isolated.over_empty", 8.0, " ns"),
    at_most("healthy pod, 1000 others isolated, veth out: over an empty program", "≤ 8 ns", "micro.veth_out.1000_isolated.over_empty", 8.0, " ns"),
    at_least("throughput of a healthy pod, armed / not armed: UDP in", "≥ 0.98", "healthy.udp_in.throughput_ratio", 0.98, ""),
    at_least("throughput of a healthy pod, armed / not armed: UDP out", "≥ 0.98", "healthy.udp_out.throughput_ratio", 0.98, ""),
    at_least("throughput of a healthy pod, armed / not armed: TCP in", "≥ 0.98", "healthy.tcp_in.throughput_ratio", 0.98, ""),
    at_least("throughput of a healthy pod, armed / not armed: TCP out", "≥ 0.98", "healthy.tcp_out.throughput_ratio", 0.98, ""),
    at_most("drop into the pod / iptables INPUT DROP: UDP, 18 bytes", "≤ 0.60", "flood.in.udp18.isolate.over_iptables_nft", 0.60, ""),
    at_most("drop into the pod / iptables INPUT DROP: UDP, 1400 bytes", "≤ 0.60", "flood.in.udp1400.isolate.over_iptables_nft", 0.60, ""),
    at_most("drop into the pod / iptables INPUT DROP: TCP", "≤ 0.60", "flood.in.tcp1400.isolate.over_iptables_nft", 0.60, ""),
    at_most("drop out of the pod / iptables OUTPUT DROP: UDP, 18 bytes", "≤ 1.00", "flood.out.udp18.isolate.over_iptables_nft", 1.00, ""),
    at_most("drop out of the pod / iptables OUTPUT DROP: UDP, 1400 bytes", "≤ 1.00", "flood.out.udp1400.isolate.over_iptables_nft", 1.00, ""),
    at_most("drop out of the pod / iptables OUTPUT DROP: TCP", "≤ 1.00", "flood.out.tcp1400.isolate.over_iptables_nft", 1.00, ""),
    at_most("drop into the pod / bare drop on the same hook: UDP, 18 bytes", "≤ 1.05", "flood.in.udp18.isolate.over_bare_tcx", 1.05, ""),
    at_most("drop into the pod / bare drop on the same hook: UDP, 1400 bytes", "≤ 1.05", "flood.in.udp1400.isolate.over_bare_tcx", 1.05, ""),
    at_most("drop into the pod / bare drop on the same hook: TCP", "≤ 1.05", "flood.in.tcp1400.isolate.over_bare_tcx", 1.05, ""),
    at_most("drop out of the pod / bare drop on the same hook: UDP, 18 bytes", "≤ 1.05", "flood.out.udp18.isolate.over_bare_cgroup", 1.05, ""),
    at_most("drop out of the pod / bare drop on the same hook: UDP, 1400 bytes", "≤ 1.05", "flood.out.udp1400.isolate.over_bare_cgroup", 1.05, ""),
    at_most("drop out of the pod / bare drop on the same hook: TCP", "≤ 1.05", "flood.out.tcp1400.isolate.over_bare_cgroup", 1.05, ""),
    p99("cut, armed, daemon: request to last packet out, p99", "≤ 500 µs", "cut.daemon_armed.last_out", 500.0, " µs"),
    at_most("CLI add, whole process / the nsenter iptables way", "≤ 0.5", "cut.cli_armed.whole_over_iptables", 0.5, ""),
    at_most("110 armed pods in one request, to the last packet", "≤ 20 ms", "scale.cut_all.110", 20.0, " ms"),
    at_most("a scrape with 1000 isolated pods", "≤ 10 ms", "scale.scrape.1000", 10.0, " ms"),
    at_most("daemon at rest with 250 pods: memory", "≤ 25 MiB", "scale.resident.250", 25.0, " MiB"),
    at_most("daemon at rest with 250 pods: CPU", "not measurable (≤ 0.5 %)", "scale.rest_cpu.250", 0.5, " %"),
    at_most("start-up to ready with 250 pods, 50 isolated", "≤ 1 s", "scale.boot.250", 1000.0, " ms"),
    at_most("release binary", "≤ 15 MiB", "binary", 15.0, " MiB"),
];

/// Every target beside what the report has.
pub(crate) fn of(report: &Report) -> Vec<Target> {
    WANTED.iter().map(|wanted| wanted.beside(report)).collect()
}

impl Wanted {
    fn beside(&self, report: &Report) -> Target {
        let value = report.summary(self.name).map(|summary| match self.at {
            At::Median => summary.median,
            At::P99 => summary.p99,
        });
        Target {
            figure: self.what.to_owned(),
            bound: self.bound.to_owned(),
            measured: value
                .map_or_else(|| "not measured".to_owned(), |value| format!("{}{}", figure(value), self.unit)),
            reached: value.map(|value| self.range.contains(&value)),
            note: match value {
                Some(value) if !self.range.contains(&value) => bounds::of(self.name, report),
                _ => String::new(),
            },
        }
    }
}

impl Target {
    /// For a table.
    pub(crate) fn verdict(&self) -> String {
        match self.reached {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "–",
        }
        .to_owned()
    }
}
