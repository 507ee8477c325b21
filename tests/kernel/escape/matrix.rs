//! docs/containment.md: every channel under every cut, from real runs.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use isolate_tests::launch;

use super::{
    FAMILIES,
    cut::Cut,
    known,
    run::{Row, Setting, Verdict, perform},
    window,
};

/// Names the file to write.
pub(super) const PATH: &str = "ISOLATE_MATRIX";

const INTRODUCTION: &str = "\
# Containment: what gets out of an isolated pod

<!-- Made by `cargo xtask containment`; do not edit. -->

Every channel is tried by an attacker inside the pod, or from a neighbour on the same bridge into it, and decided by an observer
outside: the packet arrives, or it does not. Each cut gets pods of its own, and each channel must get through on them before the
cut and again after it is lifted, or it says nothing.

**The attacker** is root in the pod with the runtimes' default capabilities, `CAP_NET_RAW` among them, in the initial user namespace;
where it changes the pod's network (tampering, macvlan, host network) it has `CAP_NET_ADMIN` as well, and `isolate-agent` says
then that the pod is partly covered. It has no `CAP_SYS_ADMIN`, and `CAP_BPF` only in the channels that say so. It opened sockets
before the cut, has `/dev/net/tun`, and may make user namespaces. Forwarding, TCP fast open and unprivileged ping are switched on
in the pod's namespace beforehand, since a pod with a writable `/proc/sys` can do it.

**The cuts**: *iptables INPUT*, what the field uses: `iptables -I INPUT -j DROP` in the pod's namespace. *iptables + ip6tables, all
chains*: the same in INPUT, OUTPUT and FORWARD of both. *nftables netdev*: a table that drops ingress and egress on the host ends
of the pod's veths. *link down*: the host ends set down. *isolate-agent*: `isolate-agent add` with its daemon running.
*isolate-agent --keep-probes*: the same with that option, while kubelet probes the pod and gets its answers. Where an attacker takes a
cut away, it is made again before the next channel.

`·` nothing got through, **open** something did, `–` the kernel does not offer it (see below), `refused` the agent does not isolate
such a pod in this way, and says so.

What this does not try: `AF_VSOCK` reaches the hypervisor and no other pod, no interface of any namespace carries it, and none of
the cuts above sees it (container runtimes deny it by seccomp). Unix sockets on shared volumes are files.
";

/// Runs everything and writes the file.
pub(super) fn write(path: &Path) {
    let columns: Vec<(Cut, Vec<Row>)> = Cut::ALL
        .into_iter()
        .map(|cut| {
            eprintln!("containment: {}", cut.title());
            (cut, Setting::ALL.into_iter().flat_map(|setting| perform(setting, cut)).collect())
        })
        .collect();
    let blind: Vec<String> =
        columns.iter().flat_map(|(cut, rows)| rows.iter().filter_map(|row| blind(*cut, row))).collect();
    assert!(blind.is_empty(), "channels that show nothing:\n{}", blind.join("\n"));
    eprintln!("containment: the window of what appears late");
    let windows = window::table(&window::measure_all());
    fs::write(path, document(&columns, &windows)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    eprintln!("{}", summary(&columns));
}

fn blind(cut: Cut, row: &Row) -> Option<String> {
    match &row.verdict {
        Verdict::Blind(why) => Some(format!("{} with {}: {why}", row.name, cut.title())),
        _ => None,
    }
}

fn summary(columns: &[(Cut, Vec<Row>)]) -> String {
    let offered = |rows: &[Row]| rows.iter().filter(|row| !matches!(row.verdict, Verdict::NotOffered(_))).count();
    let open = |rows: &[Row]| rows.iter().filter(|row| row.verdict == Verdict::Open).count();
    let all = columns.first().map_or(0, |(_, rows)| offered(rows));
    let counts: Vec<String> = columns.iter().map(|(cut, rows)| format!("{} {}", open(rows), cut.title())).collect();
    format!("Of {all} channels, still open: {all} with no rule, {}.", counts.join(", "))
}

fn document(columns: &[(Cut, Vec<Row>)], windows: &str) -> String {
    let mut text = INTRODUCTION.to_owned();
    let mut line = |args: std::fmt::Arguments<'_>| writeln!(text, "{args}").expect("a string takes it");
    line(format_args!("\nLinux {}, {}.\n\n**{}**", kernel(), today(), summary(columns)));
    let titles: Vec<&str> = columns.iter().map(|(cut, _)| cut.title()).collect();
    for (family, _) in FAMILIES {
        line(format_args!("\n## {family}\n\n| channel | no rule | {} |", titles.join(" | ")));
        line(format_args!("|---|---|{}", "---|".repeat(titles.len())));
        let (_, first) = &columns[0];
        for row in first.iter().filter(|row| row.family == family) {
            let cells: Vec<&str> = columns.iter().map(|(_, rows)| cell(rows, row.name)).collect();
            let healthy = if matches!(row.verdict, Verdict::NotOffered(_)) { "–" } else { "open" };
            line(format_args!("| {} | {healthy} | {} |", row.name, cells.join(" | ")));
        }
    }
    line(format_args!("\n## What isolate-agent leaves open, and why\n"));
    match known::lsm_missing() {
        None => line(format_args!("This kernel has the LSM hook.\n")),
        Some(why) => line(format_args!("This kernel has no LSM hook: {why}.\n")),
    }
    for known in known::LEAKS {
        let closed = if known.closed_by_lsm { " (where the LSM hook holds, this is closed)" } else { "" };
        line(format_args!("- {}: {}{closed}", known.channel, known.why));
    }
    line(format_args!("\n## The window of what appears late\n\n{}\n\n{windows}", window::INTRODUCTION));
    line(format_args!("## Not offered by this kernel\n"));
    for row in columns.first().into_iter().flat_map(|(_, rows)| rows) {
        if let Verdict::NotOffered(probe) = &row.verdict {
            line(format_args!("- {}: `{}`", row.name, probe.lines().next().unwrap_or_default()));
        }
    }
    text
}

fn cell(rows: &[Row], name: &str) -> &'static str {
    let row = rows.iter().find(|row| row.name == name).expect("every cut has every channel");
    match row.verdict {
        Verdict::Open => "**open**",
        Verdict::NotOffered(_) => "–",
        Verdict::Refused => "refused",
        Verdict::Cut | Verdict::Blind(_) => "·",
    }
}

fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs is mounted");
    // What follows is the builder's own mark.
    release.trim().split('-').next().unwrap_or_default().to_owned()
}

fn today() -> String {
    let output = launch::succeed(Command::new("date").args(["--utc", "+%Y-%m-%d"]));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
