//! Writes `docs/metrics.md`. The page is committed, and a test compares it with what this makes.

use std::{
    env,
    fmt::{self, Write as _},
    fs,
    path::Path,
    process::Command,
};

use super::{
    alerts::{ALERTS, Alert},
    family::{Descriptor, Family, Kind},
};

const HEAD: &str = "\
# Metrics

<!-- Made from isolate-agent/src/metrics by `ISOLATE_BLESS=1 cargo test -p isolate-agent metrics`; do not edit. -->

The daemon serves three paths on `--metrics-addr` (127.0.0.1:9477 unless set otherwise):

| path | answer |
|---|---|
| `/metrics` | every metric below, in the OpenMetrics text format; 503 while the reconcile loop does not answer |
| `/healthz` | 200 while the reconcile loop answers within 5 seconds, else 503: restart the agent (that releases nothing) |
| `/readyz` | 200 once the first pass is done and every recorded isolation is enforced, else 503 |

All names start with `isolate_`. Gauges and the counters of the kernel are read at the scrape, so they are right also
after a restart of the agent; a released pod's series end with its isolation. Values of `hook` are `cgroup` and
`veth`, values of `direction` are `in` (into the pod) and `out`.

";

fn page() -> String {
    let mut page = HEAD.to_owned();
    write_page(&mut page).expect("a String takes every write");
    page
}

fn write_page(page: &mut String) -> fmt::Result {
    writeln!(page, "| name | type | unit | labels | what it tells | when to alert |\n|---|---|---|---|---|---|")?;
    for family in Family::ALL {
        let Descriptor { kind, unit, labels, help, alert, .. } = family.descriptor();
        let name = family.sample_name();
        let unit = unit.unwrap_or("-");
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let labels = if labels.is_empty() { "-".to_owned() } else { labels };
        writeln!(page, "| `{name}` | {} | {unit} | {labels} | {help} | {alert} |", kind.name())?;
    }
    write!(page, "\n## Alert rules to begin with\n\n```yaml\n{}```\n", rules())
}

fn rules() -> String {
    let mut rules = "groups:\n  - name: isolate\n    rules:\n".to_owned();
    for Alert { name, expr, hold, severity, summary } in ALERTS {
        let rule = format!(
            "      - alert: {name}\n        expr: {expr}\n        for: {hold}\n        labels:\n          severity: {severity}\n        annotations:\n          summary: >-\n            {summary}\n"
        );
        rules.push_str(&rule);
    }
    rules
}

#[test]
fn the_page_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    if env::var_os("ISOLATE_BLESS").is_some() {
        fs::write(&path, page()).expect("docs/metrics.md can be written");
    }
    let committed = fs::read_to_string(&path).expect("docs/metrics.md is committed");
    assert_eq!(committed, page(), "regenerate with: ISOLATE_BLESS=1 cargo test -p isolate-agent metrics");
}

#[test]
fn alerts_ask_for_series_that_exist() {
    let known: Vec<String> = Family::ALL
        .into_iter()
        .flat_map(|family| {
            let name = family.sample_name();
            let suffixes = if family.descriptor().kind == Kind::Histogram {
                ["_bucket", "_count", "_sum"].as_slice()
            } else {
                [""].as_slice()
            };
            suffixes.iter().map(move |suffix| format!("{name}{suffix}"))
        })
        .collect();
    for alert in ALERTS {
        let words = alert.expr.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for word in words.filter(|word| word.starts_with("isolate_")) {
            assert!(known.iter().any(|name| name == word), "{} asks for {word}", alert.name);
        }
    }
}

#[test]
fn prometheus_accepts_the_alerts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("rules.yml");
    fs::write(&file, rules()).expect("the rules can be written");
    let Ok(output) = Command::new("promtool").args(["check", "rules"]).arg(&file).output() else {
        eprintln!("skipped: promtool (package prometheus) is not installed");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
