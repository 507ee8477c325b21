//! Time limits: they end by themselves, never early, and not without a daemon.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use isolate_tests::{
    channel::{Channel, Path},
    wait,
};

use crate::{scene::Scene, suite::trials};

trials![
    it_ends_by_itself,
    another_add_sets_it_anew,
    without_a_daemon_it_waits,
    a_reboot_does_not_shorten_it,
    what_makes_no_sense_changes_nothing,
];

/// Beyond the shortest limits of these tests, and long enough after the others for the daemon to end them.
const BRIEF: Duration = Duration::from_secs(4);

fn it_ends_by_itself() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let daemon = agent.daemon();
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    let kept = Path::shown(Channel::ORDINARY, neighbour.loopback(), neighbour.loopback());
    let said = agent.add(&[web.uid(), "--for", "5s"]);
    assert!(said.stdout.contains("it is released at "), "{}", said.text());
    agent.add(&[neighbour.uid()]);
    assert!(agent.isolation(web.uid())["until"].is_string());
    path.assert_cut();
    wait::until("the limit ends", || agent.isolated() == [neighbour.uid()]);
    assert!(daemon.log().contains("the time limit has ended"), "{}", daemon.log());
    let events = agent.run(&["events", web.uid()]).expect(0);
    assert!(events.stdout.contains("expired"), "{}", events.text());
    kept.assert_cut();
    agent.remove(&[neighbour.uid()]);
    path.assert_flows();
}

fn another_add_sets_it_anew() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let _daemon = agent.daemon();
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    let (extended, lifted) = (web, neighbour);
    // Long enough for the two commands after it, also where all is slow.
    let (limit, asked) = (Duration::from_secs(8), Instant::now());
    agent.add(&[extended.uid(), lifted.uid(), "--for", &format!("{}s", limit.as_secs())]);
    let said = agent.add(&[extended.uid(), "--for", "1h"]);
    assert!(said.stdout.contains("as before"), "{}", said.text());
    let said = agent.add(&[lifted.uid()]);
    assert!(said.stdout.contains("is lifted"), "{}", said.text());
    thread::sleep((limit + BRIEF).saturating_sub(asked.elapsed()));
    path.assert_cut();
    assert_eq!(agent.isolated().len(), 2);
    assert!(agent.isolation(lifted.uid()).get("until").is_none());
    let said = agent.add(&[extended.uid(), lifted.uid(), "--for", "1s"]);
    assert!(said.stdout.contains("it had no time limit before"), "{}", said.text());
    wait::until("both limits end", || agent.isolated().is_empty());
    path.assert_flows();
}

fn without_a_daemon_it_waits() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    let said = agent.add(&[web.uid(), "--for", "1s"]);
    assert!(said.stdout.contains("by the daemon, which does not run now"), "{}", said.text());
    thread::sleep(BRIEF);
    // A command of another kind ends it no more than time alone does.
    assert_eq!(agent.isolated(), [web.uid()]);
    agent.add(&[neighbour.uid()]);
    agent.remove(&[neighbour.uid()]);
    path.assert_cut();
    let _daemon = agent.daemon();
    wait::until("the next daemon ends it", || agent.isolated().is_empty());
    path.assert_flows();
}

/// What a reboot leaves: no maps, no links, another boot id, and a wall clock that says anything.
fn a_reboot_does_not_shorten_it() {
    /// Beyond the start of a daemon, and a look at all channels.
    const LEFT: u64 = 12;
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    let daemon = agent.daemon();
    agent.add(&[web.uid(), "--for", "1h"]);
    daemon.kill();
    let record = agent.state().join(format!("isolations/{}.json", web.uid()));
    let mut text: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&record).expect("the record is there")).expect("JSON");
    let up = fs::read_to_string("/proc/uptime").expect("procfs is there");
    let up: u64 = up.split('.').next().and_then(|secs| secs.parse().ok()).expect("seconds");
    // Of that other boot's, as much was left as this one has lasted already, and then these seconds.
    text["limit"]["boot"] = "another".into();
    text["limit"]["until"] = "2001-01-01T00:00:00Z".into();
    text["limit"]["from_secs"] = 1_000_000.into();
    text["limit"]["to_secs"] = (1_000_500 + up + LEFT).into();
    fs::write(&record, text.to_string()).expect("the record can be written");
    let seen = agent.state().join("last-seen.json");
    fs::write(&seen, r#"{ "boot": "another", "up_secs": 1000500 }"#).expect("the state folder can be written");
    let _daemon = agent.daemon();
    assert_eq!(agent.isolated(), [web.uid()], "the wall clock alone says that it is over");
    path.assert_cut();
    wait::until("what was left has passed", || agent.isolated().is_empty());
    path.assert_flows();
}

fn what_makes_no_sense_changes_nothing() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, .. } = &scene;
    let daemon = agent.daemon();
    let path = Path::shown(Channel::ORDINARY, web.end(), neighbour.end());
    for (arguments, said) in [
        (&["--until", "2001-01-01T00:00:00Z"][..], "is in the past"),
        (&["--until", "tomorrow"], "2026-03-01T08:00:00Z"),
        (&["--until", "2999-01-01T00:00:00"], "2026-03-01T08:00:00Z"),
        (&["--for", "0s"], "isolates nothing"),
        (&["--for", "soon"], "--for"),
        (&["--for", "99999years"], "year 9999"),
        (&["--for", "1h", "--until", "2999-01-01T00:00:00Z"], "--until"),
    ] {
        let output = agent.run(&[&["add", web.uid()], arguments].concat()).expect(2);
        assert!(output.stderr.contains(said), "{arguments:?}: {}", output.text());
    }
    let body = format!("{{\"uids\": [\"{}\"], \"until\": \"2001-01-01T00:00:00Z\"}}", web.uid());
    let (status, answer) = daemon.control("POST", "/v1/isolations", body.as_bytes());
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("is in the past"), "{answer}");
    path.assert_flows();
    assert!(agent.isolated().is_empty());
}
