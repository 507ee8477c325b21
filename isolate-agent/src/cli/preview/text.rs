//! A preview for a person: what ends first, then what follows, then what is not known.

use std::fmt::Write as _;

use isolate_agent::preview::{
    Preview,
    prober::Window,
    report::{ContainerOutlook, Flow, Flows, Outcome, ServiceOutlook},
};

use crate::cli::output::{self, Cell, Style, Tint, or_dash};

/// The whole of it. Names and paths from elsewhere do not steer the terminal.
pub(super) fn render(preview: &Preview, style: Style) -> String {
    let mut page = Page { text: String::new(), style };
    page.head(preview);
    page.containers(&preview.containers);
    page.list("Lost", &preview.evidence.lost, Tint::Bad);
    page.list("Stays", &preview.evidence.kept, Tint::Plain);
    page.list("Loses less", &preview.evidence.advice, Tint::Good);
    page.service(&preview.service);
    page.hooks(preview);
    page.list("Stays open", &preview.open, Tint::Bad);
    page.list("Ways beside the network", &preview.beyond, Tint::Bad);
    page.flows(&preview.flows);
    page.list("Wrong in the specification", &preview.problems, Tint::Bad);
    page.list("Not known", &preview.unknown, Tint::Faint);
    page.text
}

struct Page {
    text: String,
    style: Style,
}

impl Page {
    fn line(&mut self, indent: usize, cell: &Cell) {
        let text = cell.render(self.style);
        writeln!(self.text, "{:indent$}{text}", "").expect("a String takes everything");
    }

    fn title(&mut self, title: &str) {
        self.text.push('\n');
        self.line(0, &Cell::from(title));
    }

    fn list(&mut self, title: &str, items: &[String], tint: Tint) {
        if items.is_empty() {
            return;
        }
        self.title(title);
        for item in items {
            self.line(2, &Cell::tinted(item, tint));
        }
    }

    fn head(&mut self, preview: &Preview) {
        let pod = &preview.pod;
        let name = match (&pod.namespace, &pod.name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name} ({})", preview.uid),
            _ => preview.uid.clone(),
        };
        self.line(0, &Cell::from(format!("Pod {name}")));
        let state = match (pod.present, pod.isolated) {
            (true, true) => "isolated already: what follows is what that did and does",
            (true, false) => "not isolated; this is what would be, from now",
            (false, true) => "isolated, and not on this node now",
            (false, false) => "not on this node",
        };
        self.line(2, &Cell::from(format!("state          {state}")));
        let network =
            if pod.host_network { "the node's own (hostNetwork): only its sockets are cut" } else { "its own" };
        self.line(2, &Cell::from(format!("processes      {}", pod.processes)));
        self.line(2, &Cell::from(format!("network        {network}")));
        if !preview.options.allow.is_empty() {
            let allowed: Vec<String> = preview.options.allow.iter().map(ToString::to_string).collect();
            self.line(2, &Cell::from(format!("may talk to    {}", allowed.join(", "))));
        }
        let specification = pod.specification.as_deref().unwrap_or("not known");
        self.line(2, &Cell::from(format!("specification  {specification}")));
    }

    fn containers(&mut self, containers: &[ContainerOutlook]) {
        if containers.is_empty() {
            return;
        }
        self.title("Containers");
        for one in containers {
            let (fate, tint) = match one.outcome {
                Outcome::KeepsRunning => ("keeps running", Tint::Good),
                Outcome::Ends => ("ends", Tint::Bad),
                Outcome::MayEnd => ("may end", Tint::Bad),
                Outcome::Unknown => ("not known", Tint::Bad),
            };
            let when = match (one.given_up_secs, one.ended_secs) {
                (Some(given_up), Some(ended)) => {
                    format!(", told to {}, gone {}", window(given_up), window(ended))
                }
                _ => String::new(),
            };
            self.line(2, &Cell::tinted(format!("{}: {fate}{when}: {}", one.name, one.why), tint));
            for probe in &one.probes {
                let port = probe.port.map(|port| format!(" {port}")).unwrap_or_default();
                let fails = probe.fails_secs.map(|fails| format!(", fails {}", window(fails))).unwrap_or_default();
                let what = format!(
                    "{} {}{port}: {}{fails}; {}",
                    probe.probe,
                    probe.kind,
                    output::word(&probe.effect),
                    probe.why
                );
                self.line(4, &Cell::tinted(what, Tint::Faint));
            }
            if let Some(life) = one.next_life_secs.filter(|_| one.restarted == Some(true)) {
                let waits: Vec<String> = one.back_off_secs.iter().map(ToString::to_string).collect();
                let what = format!(
                    "then started again and again: each lives {}, and kubelet waits at most {} s before the next",
                    lasting(life),
                    waits.join(", ")
                );
                self.line(4, &Cell::tinted(what, Tint::Faint));
            }
        }
    }

    fn service(&mut self, service: &ServiceOutlook) {
        self.title("Service");
        if let Some(not_ready) = service.not_ready_secs {
            self.line(2, &Cell::tinted(format!("not ready {}", window(not_ready)), Tint::Bad));
        }
        self.line(2, &Cell::from(&service.traffic));
        let owner = service.owner.as_deref().unwrap_or("nothing that is known");
        let comes = match service.replacement {
            Some(true) => "another pod comes",
            Some(false) => "no other pod comes",
            None => "whether another pod comes is not known",
        };
        self.line(2, &Cell::from(format!("made by {owner}: {comes}: {}", service.replacement_why)));
        if let Some(replicas) = &service.replicas {
            self.line(2, &Cell::from(format!("replicas: {replicas}")));
        }
        for danger in &service.dangers {
            self.line(2, &Cell::tinted(danger, Tint::Bad));
        }
        for command in &service.commands {
            self.line(2, &Cell::tinted(command, Tint::Faint));
        }
    }

    fn hooks(&mut self, preview: &Preview) {
        if preview.hooks.is_empty() {
            return;
        }
        self.text.push_str("\nHooks, once it is isolated\n");
        let rows = preview.hooks.iter().map(|hook| {
            vec![
                Cell::from(&*hook.hook),
                Cell::from(&*hook.direction),
                Cell::from(output::word(&hook.state)),
                Cell::from(or_dash(hook.place.clone())),
                Cell::from(hook.detail.as_deref().unwrap_or("-")),
            ]
        });
        let header = ["HOOK", "DIRECTION", "STATE", "PLACE", "DETAIL"];
        self.text.push_str(&output::table(&header, rows.collect(), self.style));
    }

    fn flows(&mut self, flows: &Flows) {
        for (title, list) in [
            ("Flows that are cut", &flows.cut),
            ("Flows that go on", &flows.kept),
            ("Waiting for somebody", &flows.listening),
        ] {
            if list.is_empty() {
                continue;
            }
            self.title(title);
            let header = ["PROTOCOL", "DIRECTION", "LOCAL", "PEER", "STATE", "PROCESS"];
            self.text.push_str(&output::table(&header, list.iter().map(row).collect(), self.style));
        }
        if flows.left_off > 0 {
            self.line(0, &Cell::from(format!("{} more sockets are not shown", flows.left_off)));
        }
    }
}

fn row(flow: &Flow) -> Vec<Cell> {
    vec![
        Cell::from(&flow.protocol),
        Cell::from(flow.direction.as_deref().unwrap_or("-")),
        Cell::from(&flow.local),
        Cell::from(flow.peer.as_deref().unwrap_or("-")),
        Cell::from(&flow.state),
        Cell::from(flow.process.as_deref().unwrap_or("-")),
    ]
}

/// When, counted from the cut.
fn window(Window { earliest, latest }: Window) -> String {
    match latest {
        Some(latest) => format!("{} to {} after the cut", secs(earliest), secs(latest)),
        None => format!("{} after the cut or later", secs(earliest)),
    }
}

fn lasting(Window { earliest, latest }: Window) -> String {
    match latest {
        Some(latest) => format!("{} to {}", secs(earliest), secs(latest)),
        None => format!("{} or longer", secs(earliest)),
    }
}

/// Seconds, or what is easier to read once they are many.
fn secs(secs: u64) -> String {
    if secs < 600 {
        format!("{secs} s")
    } else {
        humantime::format_duration(std::time::Duration::from_secs(secs)).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::documented::preview;

    #[test]
    fn everything_that_a_responder_needs_is_said() {
        let text = render(&preview(), Style { terminal: true, colour: false, width: Some(160) });
        for said in [
            "Pod shop/web-5d6f7c8b9-x2x4z (3f1c2d64-9b0e-4c57-8a21-5d7e6f0a1b2c)",
            "web: ends, told to 20 s to 31 s after the cut, gone 20 s to 61 s after the cut: its liveness probe is cut",
            "liveness tcp 80: cut, fails 20 s to 31 s after the cut",
            "each lives 21 s to 31 s, and kubelet waits at most 0, 10, 20, 40, 80, 160, 300 s before the next",
            "worker: keeps running: it has no liveness probe",
            "web: memory, processes and open files",
            "not ready 20 s to 31 s after the cut",
            "made by Deployment web: no other pod comes",
            "kubectl -n shop get deployment web",
            "10.88.0.11:48500",
            "web (4711)",
            "holding",
            "Not known",
        ] {
            assert!(text.contains(said), "{said:?} is missing in\n{text}");
        }
        assert!(!text.contains("Stays open") && !text.contains('\x1b'), "{text}");
    }

    #[test]
    fn names_from_elsewhere_do_not_steer_the_terminal() {
        let mut preview = preview();
        preview.pod.name = Some("x\x1b]0;owned\x07".to_owned());
        preview.containers[0].name = "a\nb".to_owned();
        preview.flows.cut[0].process = Some("\x1b[2J".to_owned());
        let text = render(&preview, Style { terminal: false, colour: false, width: None });
        assert!(!text.contains(['\x1b', '\x07']) && !text.contains("a\nb"), "{text:?}");
    }

    #[test]
    fn long_times_are_readable() {
        assert_eq!(window(Window { earliest: 0, latest: Some(3700) }), "0 s to 1h 1m 40s after the cut");
        assert_eq!(lasting(Window { earliest: 599, latest: None }), "599 s or longer");
    }
}
