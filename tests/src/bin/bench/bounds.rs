//! What keeps a figure from its target, with the floor as the same run measured it.

use isolate_common::names;

use crate::{
    floor::WORK,
    report::{Report, figure},
};

/// What bounds the figure of this name.
pub(crate) fn of(name: &str, report: &Report) -> String {
    let median =
        |name: &str| report.summary(name).map_or_else(|| "(not measured)".to_owned(), |summary| figure(summary.median));
    let p99 =
        |name: &str| report.summary(name).map_or_else(|| "(not measured)".to_owned(), |summary| figure(summary.p99));
    let parts: Vec<&str> = name.split('.').collect();
    match parts.as_slice() {
        ["micro", hook, "1000_isolated", _] => format!(
            "with one other pod isolated it is {} ns, with a thousand {} ns: a load, an array read and some branches, however many are \
             isolated; what is more is the machine's noise.",
            median(&format!("micro.{hook}.1_isolated.over_empty")),
            median(&format!("micro.{hook}.1000_isolated.over_empty")),
        ),
        ["micro", ..] => "the gate: one load and one branch; what is more is the machine's noise.".to_owned(),
        ["healthy", traffic, _] => {
            let spread = report.summary(&format!("healthy.{traffic}.throughput_ratio"));
            let spread = spread.map_or_else(String::new, |spread| format!(" ({:.2} – {:.2})", spread.p25, spread.p75));
            format!(
                "two programs of {} ns each are all that is added to a packet; the spread of this figure{spread} is wider than \
                 what they can make.",
                median("micro.veth_in.0_isolated.over_empty"),
            )
        }
        ["flood", flow, load, _, over] => {
            let (hook, program) =
                if *flow == "in" { ("bare_tcx", names::VETH_IN) } else { ("bare_cgroup", names::CGROUP_OUT) };
            let of_floor = median(&format!("flood.{flow}.{load}.isolate.over_{hook}"));
            let own = median(&format!("micro.isolated.{program}.dropped.over_bare"));
            if over.ends_with(hook) {
                return format!(
                    "attribution and counting: {own} ns over a bare program by test run, for array reads (gate, table of keys, policy, \
                     counters) and, at the cgroup hook, one call of the kernel that tells the packet's cgroup."
                );
            }
            let bare = median(&format!("flood.{flow}.{load}.{hook}.over_iptables_nft"));
            let (why, profile) = if *flow == "in" {
                let why = "what is left is the sender's: its system call, its stack and the veth, which every way of dropping pays \
                           here, since one core does it all";
                (why, "")
            } else {
                let profile = " By profile (perf) of this flood, the program and its call for the cgroup's id are a twentieth of a \
                               packet's time, and no one step is more than an eighth of that.";
                ("iptables' OUTPUT comes before the cgroup hook on a packet's way through the IP layer", profile)
            };
            format!(
                "the floor, a program that only drops on the same hook, is at {bare} itself: {why}. isolate is {of_floor} of the \
                 floor, for it finds out whose packet it is, and counts: {own} ns over it by test run, with all of its maps in the \
                 cache.{profile}"
            )
        }
        ["cut", "daemon_armed", _] => format!(
            "the median is {} µs, so it is the machine's tail. In turns with the cuts, a thread with the agent's priority was asked in \
             the same way for a loop that takes {} µs where nothing disturbs it, and does nothing else: it came to its end after {} µs \
             in the median, and {} µs at the 99th percentile. The request alone reaches a thread after {} and {} µs.",
            median("cut.daemon_armed.last_out"),
            WORK.as_micros(),
            median("cut.floor.work"),
            p99("cut.floor.work"),
            median("cut.floor.request"),
            p99("cut.floor.request"),
        ),
        ["cut", "cli_armed", _] => format!(
            "the pod is off the network after {} µs of the {} µs (the iptables way: {} of {}). The daemon's answer takes {} µs; the \
             record's way to the disk alone takes {} µs beside the pod's stream, and a process that does nothing {} µs.",
            median("cut.cli_armed.last_out"),
            median("cut.cli_armed.whole"),
            median("cut.nsenter_iptables.last_out"),
            median("cut.nsenter_iptables.whole"),
            median("cut.daemon_armed.whole"),
            median("cut.floor.record"),
            median("cut.floor.process"),
        ),
        ["scale", "boot", ..] => format!(
            "nothing is left of the pins after a reboot, so the programs are loaded anew: with one pod it takes {} ms. The rest is the \
             look at the node, and two attaches to the cgroup and two filters on the host end of each of the 50 pods.",
            median("scale.boot.1"),
        ),
        ["scale", "scrape", ..] => format!(
            "26 samples a pod, 2.6 MB of text for a thousand. {} ms are the figures that they come from (by profile a third of it looks \
             each hook up, a quarter reads counters); the rest is the text and its way through the socket.",
            median("scale.described.1000"),
        ),
        _ => String::new(),
    }
}
