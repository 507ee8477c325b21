//! `status`: the node, or one isolated pod, hook by hook.

use std::fmt::Write;

use isolate_agent::{
    control::protocol::{Code, Exempted, HookState, Isolation, Record, Status},
    pod::PodQuery,
    settings::Settings,
};
use jiff::Timestamp;

use super::{
    CliError,
    backend::Backend,
    list,
    output::{self, Cell, Style, Tint},
};
use crate::args::{Form, StatusOf};

pub(crate) async fn run(args: &StatusOf, settings: Settings) -> Result<Code, CliError> {
    let query = args.uid.as_ref().map(|text| Ok::<_, CliError>((text, text.parse::<PodQuery>()?))).transpose()?;
    let status = Backend::open(settings).await?.status().await?;
    let style = Style::of_stdout();
    let text = match query {
        None if args.output == Form::Text => node(&status, style),
        None => output::document(&status, args.output)?,
        Some((text, query)) => {
            let isolation = &status.isolations[status.find(text, &query)?];
            match args.output {
                Form::Text => pod(isolation, status.taken_at, style),
                form => output::document(isolation, form)?,
            }
        }
    };
    output::print(&text)?;
    Ok(Code::Done)
}

fn node(status: &Status, style: Style) -> String {
    let mut text = format!(
        "{} isolated; {} on the node, {} armed (agent {})\n",
        pods(status.isolations.len()),
        pods(status.pods),
        status.pods_armed,
        status.version,
    );
    for warning in &status.warnings {
        line(&mut text, "warning", &Cell::tinted(warning.as_str(), Tint::Bad), style);
    }
    for error in &status.kernel_errors {
        if error.count > 0 {
            let counted = format!("{} packets dropped in the kernel: {}", error.count, error.error);
            line(&mut text, "error", &Cell::tinted(counted, Tint::Bad), style);
        }
    }
    for isolation in &status.isolations {
        text.push('\n');
        text.push_str(&pod(isolation, status.taken_at, style));
    }
    if !status.unarmed.is_empty() {
        text.push_str("\nNot armed (no program waits on a host veth of theirs):\n");
        let rows = status.unarmed.iter().map(|unarmed| {
            vec![
                Cell::from(unarmed.uid.as_str()),
                Cell::from(unarmed.pod.as_deref().unwrap_or("-")),
                Cell::from(output::word(&unarmed.reason)),
                Cell::from(unarmed.detail.as_str()),
            ]
        });
        text.push_str(&output::table(&["UID", "POD", "REASON", "DETAIL"], rows.collect(), style));
    }
    text
}

fn pods(count: usize) -> String {
    if count == 1 { "1 pod".to_owned() } else { format!("{count} pods") }
}

fn pod(isolation: &Isolation, now: Timestamp, style: Style) -> String {
    let mut text = format!("Pod {}\n", output::printable(&isolation.uid));
    line(&mut text, "name", &Cell::from(isolation.pod().unwrap_or_else(|| "-".to_owned())), style);
    if !isolation.labels.is_empty() {
        let labels: Vec<String> = isolation.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        line(&mut text, "labels", &Cell::from(labels.join(",")), style);
    }
    if !isolation.ips.is_empty() {
        line(&mut text, "addresses", &Cell::from(isolation.ips.join(", ")), style);
    }
    let since = format!("{:.0} ({} ago)", isolation.since, output::age(isolation.since, now));
    line(&mut text, "since", &Cell::from(since), style);
    line(&mut text, "until", &until(isolation, now), style);
    line(&mut text, "by", &Cell::from(isolation.by.as_str()), style);
    line(&mut text, "reason", &Cell::from(isolation.reason.as_deref().unwrap_or("-")), style);
    line(&mut text, "coverage", &list::coverage(isolation.coverage), style);
    for open in &isolation.open {
        line(&mut text, "open", &Cell::tinted(open.as_str(), Tint::Bad), style);
    }
    line(&mut text, "present", &Cell::from(presence(isolation)), style);
    line(&mut text, "loopback", &Cell::from(if isolation.keep_loopback { "kept" } else { "cut" }), style);
    if !isolation.probe_ports.is_empty() {
        let ports: Vec<String> = isolation.probe_ports.iter().map(ToString::to_string).collect();
        line(&mut text, "probes", &Cell::from(format!("kubelet's, to port {}", ports.join(", "))), style);
    }
    for allowed in &isolation.allow {
        line(&mut text, "allowed", &Cell::from(allowed.as_str()), style);
    }
    line(&mut text, "record", &record(isolation.record), style);
    for drops in &isolation.drops {
        let dropped = format!("{} packets, {} bytes ({}, {})", drops.packets, drops.bytes, drops.hook, drops.direction);
        line(&mut text, "dropped", &Cell::from(dropped), style);
    }
    for passed in &isolation.exempted {
        let Exempted { exemption, hook, direction, packets, bytes } = passed;
        let passed = format!("{packets} packets, {bytes} bytes ({exemption}; {hook}, {direction})");
        line(&mut text, "passed", &Cell::from(passed), style);
    }
    let rows = isolation.hooks.iter().map(|hook| {
        let state = match hook.state {
            HookState::Holding => Cell::tinted("holding", Tint::Good),
            HookState::Pending => Cell::tinted("pending", Tint::Faint),
            HookState::Missing => Cell::tinted("missing", Tint::Bad),
            HookState::NotApplicable => Cell::tinted("not applicable", Tint::Faint),
        };
        vec![
            Cell::from(&*hook.hook),
            Cell::from(&*hook.direction),
            state,
            Cell::from(output::or_dash(hook.place.clone())),
            Cell::from(hook.detail.as_deref().unwrap_or("-")),
        ]
    });
    let header = ["HOOK", "DIRECTION", "STATE", "PLACE", "DETAIL"];
    text.push_str(&output::table(&header, rows.collect(), style));
    text
}

fn until(isolation: &Isolation, now: Timestamp) -> Cell {
    match isolation.until {
        None => Cell::from("somebody releases it"),
        Some(until) if until > now => Cell::from(format!("{until:.0} ({})", list::left(until, now))),
        Some(until) => Cell::tinted(format!("{until:.0}: released as soon as a daemon runs"), Tint::Bad),
    }
}

fn presence(isolation: &Isolation) -> &'static str {
    match (isolation.present, isolation.host_network) {
        (false, _) => "no: cut again as soon as it comes back",
        (true, false) => "yes",
        (true, true) => "yes, on the node's own network: its sockets are cut, the node's interfaces are not touched",
    }
}

fn record(record: Record) -> Cell {
    match record {
        Record::Saved => Cell::from("saved"),
        Record::Unsaved => {
            Cell::tinted("not on disk: the isolation would not survive a reboot; add it again", Tint::Bad)
        }
        Record::Unreadable => {
            Cell::tinted("unreadable: the pod is cut off entirely until it is added again or removed", Tint::Bad)
        }
    }
}

fn line(text: &mut String, name: &str, value: &Cell, style: Style) {
    let value = value.render(style);
    let written =
        if style.terminal { writeln!(text, "  {name:<9} {value}") } else { writeln!(text, "{name}\t{value}") };
    written.expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;

    #[test]
    fn everything_that_was_asked_for_is_said() {
        let style = Style { terminal: true, colour: false, width: Some(160) };
        let text = node(&sample::status(), style);
        for said in [
            "1 pod isolated; 3 pods on the node, 2 armed",
            "1h2m ago",
            "2026-03-01T05:02:10Z (in 1h)",
            "alice (uid 0) with isolate-agent, pid 123",
            sample::LONG_REASON,
            "partial",
            "frames from the pod on net1",
            "holding",
            "missing",
            "not applicable",
            "net1 has no host end",
            "40 packets, 4000 bytes (cgroup, out)",
            "7 packets, 700 bytes (probe; veth, in)",
            "kubelet's, to port 8080",
            "in:192.0.2.7/32:22/tcp",
            "3 packets dropped in the kernel: no_gate",
            "host_network",
            "default/web-0",
            "app=web",
            "10.88.0.7",
        ] {
            assert!(text.contains(said), "{said:?} is missing in\n{text}");
        }
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn a_pipe_gets_whole_fields_between_tabs() {
        let text = node(&sample::status(), Style { terminal: false, colour: false, width: None });
        assert!(text.contains(&format!("\nreason\t{}\n", sample::LONG_REASON)), "{text}");
        assert!(text.contains("\ncgroup\tout\tholding\t/sys/fs/cgroup/kubepods/pod1\t-\n"), "{text}");
    }

    #[test]
    fn text_from_elsewhere_does_not_steer_the_terminal() {
        let mut status = sample::status();
        status.isolations[0].by = "x\x1b]0;owned\x07".to_owned();
        status.isolations[0].hooks[0].place = "a\nb".into();
        let text = node(&status, Style { terminal: true, colour: false, width: Some(160) });
        assert!(!text.contains(['\x1b', '\x07']) && !text.contains("a\nb"), "{text:?}");
    }
}
