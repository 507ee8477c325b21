//! A container runtime that hangs, sends garbage and goes away: nothing waits for it.

use std::{
    fs,
    path::{Path as FilePath, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use isolate_tests::{
    agent::{Agent, Daemon, Output, output},
    channel::{Channel, Path},
    cri::hostile::{Hostile, Manner, Reply, Talk, Told, list},
    launch,
    node::Node,
    pod::{Pod, Spec},
    wait,
    wire::Family,
};

use super::knows;
use crate::{arming::is_armed, scene::Scene, suite::trials};

trials![
    whatever_it_does_a_cut_waits_for_nothing,
    what_is_no_socket_or_may_not_be_used,
    a_cut_is_made_while_it_is_still_silent,
    it_is_asked_less_and_less_often,
    one_that_comes_back_is_another,
    one_sandbox_that_hangs_hides_no_other,
    what_it_says_cannot_steer_a_terminal,
    a_crowd_of_sandboxes_costs_little needs Pace,
];

pub(super) const UDP: [Channel; 1] = [Channel::Udp(Family::V4)];

pub(super) fn socket(node: &Node) -> PathBuf {
    node.folder().join("cri.sock")
}

pub(super) fn asking(agent: &Agent, socket: &FilePath) -> Agent {
    agent.clone().with_variable("ISOLATE_CRI_ENDPOINT", socket.to_str().expect("names of tests are ASCII"))
}

/// A scene whose agent asks the runtime at [`socket`].
pub(super) fn scene() -> Scene {
    let mut scene = Scene::new();
    scene.agent = asking(&scene.agent, &socket(&scene.node));
    scene
}

pub(super) fn talks(sandboxes: &[Told]) -> Manner {
    Manner::Talks(Talk::of(sandboxes))
}

fn answers(list: Reply) -> Manner {
    Manner::Talks(Talk { list, each: [].into() })
}

fn metric(daemon: &Daemon, name: &str) -> u64 {
    let (_, page) = daemon.page("/metrics");
    let line = page.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

/// Each in a way in which runtimes, or what listens in their place, fail.
fn manners(web: &Told) -> Vec<(&'static str, Manner)> {
    let real = list(std::slice::from_ref(web));
    let half = real[..real.len() / 2].to_vec();
    let whole = u32::try_from(real.len()).expect("it is short");
    let http1 = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec();
    // SETTINGS in good form, then a header block without end.
    let preface = [&[0, 0, 0, 4, 0, 0, 0, 0, 0][..], &[0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 1], &[0x82; 512]].concat();
    vec![
        ("it never answers", Manner::Silent),
        ("it hangs on the list", answers(Reply::Nothing)),
        ("half a message", answers(Reply::Part { bytes: half.clone(), of: whole })),
        ("a message cut short", answers(Reply::Message(half))),
        ("garbage in place of a message", answers(Reply::Message(vec![0xff; 4096]))),
        ("garbage in place of HTTP", Manner::Bytes(vec![0xff; 1 << 20])),
        ("a header block without end", Manner::Bytes(preface)),
        ("HTTP/1.1", Manner::Bytes(http1)),
        ("64 MiB", answers(Reply::Message(vec![0; 64 << 20]))),
        ("a message without end", answers(Reply::Part { bytes: vec![0; 15 << 20], of: 16 << 20 })),
        ("messages without end", answers(Reply::Forever(real))),
        ("an error", answers(Reply::Error("disk%20full"))),
        ("it goes away in the middle of a call", answers(Reply::Gone)),
    ]
}

/// Cuts the pod off and releases it, which must do what it is to do; how long the cut took.
fn cut_and_release(agent: &Agent, pod: &Pod, path: &Path<'_>) -> Duration {
    let start = Instant::now();
    agent.add(&[pod.uid()]);
    let took = start.elapsed();
    path.assert_cut();
    agent.remove(&[pod.uid()]);
    path.assert_flows();
    took
}

/// The same: in one of some attempts at least as fast as without a runtime, but for what a busy machine adds. A wait for the
/// runtime would be in all of them, and is longer.
fn cut_as_fast(what: &str, without: Duration, cut: impl Fn() -> Duration) {
    let mut took = Vec::new();
    let fast = (0..10).any(|_| {
        took.push(cut());
        took.last().is_some_and(|with| *with < 5 * without)
    });
    assert!(fast, "{what}: {took:?}, and {without:?} without a runtime");
}

fn whatever_it_does_a_cut_waits_for_nothing() {
    let scene = scene();
    let Scene { agent, web, neighbour, node } = &scene;
    let other = node.pod(&Spec::default());
    let kubelet = node.process();
    let path = Path::shown(UDP, web.end(), neighbour.end());
    let healthy = Path::shown(UDP, neighbour.end(), other.end());
    let of_the_node = Path::shown(UDP, node.end(&kubelet), other.end());
    let usual = {
        let without = asking(agent, &node.folder().join("nobody.sock"));
        let _daemon = without.daemon();
        cut_and_release(&without, web, &path)
    };
    let runtime = Hostile::new(&socket(node), talks(&[Told::of(web.uid(), "web")]));
    let daemon = agent.daemon();
    // What it says is taken: it is not ignored for another reason.
    knows(agent, "default/web");
    // Of a pod that it has told nothing of it can only be asked anew.
    for (what, manner) in manners(&Told::of(neighbour.uid(), "neighbour")) {
        runtime.behave(manner);
        let failures = metric(&daemon, "isolate_cri_failures_total");
        let refused = agent.run(&["add", "default/neighbour"]);
        assert!(refused.code == 3, "{what}: {}\n{}", refused.code, refused.text());
        assert!(refused.text().contains("jsonpath"), "{what}: it does not say how to go on\n{}", refused.text());
        wait::until(what, || metric(&daemon, "isolate_cri_failures_total") > failures);
        assert_eq!(metric(&daemon, "isolate_cri_up"), 0, "{what}");
        assert_eq!(agent.isolated(), [""; 0], "{what}");
        cut_as_fast(what, usual, || cut_and_release(agent, web, &path));
        healthy.assert_flows();
        of_the_node.assert_flows();
        assert!(is_armed(node, &neighbour.host_veths()[0]), "{what}: a healthy pod is not armed");
    }
    assert!(resident(&daemon) < LIMIT, "{} KiB", resident(&daemon));
    assert_eq!(daemon.page("/readyz").0, 200);
    // And the same again, by commands that do the work themselves.
    drop(daemon);
    let usual = cut_and_release(&asking(agent, &node.folder().join("nobody.sock")), web, &path);
    for (what, manner) in manners(&Told::of(neighbour.uid(), "neighbour")).into_iter().step_by(2) {
        runtime.behave(manner);
        let refused = agent.run(&["add", "default/neighbour"]);
        assert!(refused.code == 3, "{what}: {}\n{}", refused.code, refused.text());
        cut_as_fast(what, usual, || cut_and_release(agent, web, &path));
    }
    healthy.assert_flows();
}

fn what_is_no_socket_or_may_not_be_used() {
    const DAC_OVERRIDE: u32 = 1;
    let scene = scene();
    let Scene { agent, web, neighbour, node } = &scene;
    let path = Path::shown(UDP, web.end(), neighbour.end());
    let daemon = agent.daemon();
    let place = socket(node);
    let nothing_works = |what: &str| {
        let refused = agent.run(&["add", "default/web"]).expect(3);
        assert!(refused.text().contains("jsonpath"), "{what}: {}", refused.text());
        agent.add(&[web.uid()]);
        path.assert_cut();
        agent.remove(&[web.uid()]);
        path.assert_flows();
    };
    nothing_works("there is nothing");
    fs::write(&place, "no socket").expect("the node's folder is writable");
    nothing_works("a file");
    fs::remove_file(&place).expect("it was there");
    fs::create_dir(&place).expect("the node's folder is writable");
    nothing_works("a folder");
    fs::remove_dir(&place).expect("it was there");
    let runtime = Hostile::new(&place, talks(&[Told::of(web.uid(), "web")]));
    knows(agent, "default/web");
    drop((daemon, runtime));
    // As the unit has it: root without the right to pass by permissions.
    let _runtime = Hostile::new(&place, talks(&[Told::of(web.uid(), "web")]));
    std::os::unix::fs::chown(&place, Some(1), Some(1)).expect("root may");
    fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("root may");
    let mut denied = agent.command(&["add", "default/web"]);
    launch::without(&mut denied, &[DAC_OVERRIDE]);
    let denied = output(&mut denied).expect(3);
    assert!(denied.text().contains("ermission denied"), "{}", denied.text());
    wait::until("the runtime tells in time", || agent.run(&["add", "default/web"]).code == 0);
    path.assert_cut();
}

/// Without a clock: the answer to `add` is there, and the runtime still owes the one that the agent asked it for before.
fn a_cut_is_made_while_it_is_still_silent() {
    let scene = scene();
    let Scene { agent, web, neighbour, node } = &scene;
    let path = Path::shown(UDP, web.end(), neighbour.end());
    let runtime = Hostile::new(&socket(node), answers(Reply::Nothing));
    let _daemon = agent.daemon();
    wait::until("a cut falls into a call", || {
        let mut named = agent.command(&["add", "default/web"]);
        let mut named = named.stderr(Stdio::null()).spawn().expect("the agent can be started");
        wait::until("the runtime is asked", || runtime.waiting() > 0);
        let asked = runtime.lists();
        agent.add(&[web.uid()]);
        let still = runtime.waiting() > 0 && runtime.lists() == asked;
        path.assert_cut();
        agent.remove(&[web.uid()]);
        let code = named.wait().expect("it ends").code();
        assert_eq!(code, Some(3), "of what names a pod that nobody knows");
        still
    });
    path.assert_flows();
}

fn it_is_asked_less_and_less_often() {
    let scene = scene();
    let Scene { agent, node, .. } = &scene;
    let runtime = Hostile::new(&socket(node), Manner::Bytes(b"no".to_vec()));
    let _daemon = agent.daemon();
    wait::until("a pause is more than twice as long as the first one", || {
        let times = runtime.connected();
        let pauses: Vec<Duration> = times.windows(2).map(|two| two[1] - two[0]).collect();
        pauses.iter().any(|pause| *pause > pauses[0] * 2)
    });
    // Who asks by a name does not wait for that.
    let before = runtime.connected().len();
    agent.run(&["add", "default/web"]).expect(3);
    assert!(runtime.connected().len() > before);
}

fn one_that_comes_back_is_another() {
    let scene = scene();
    let Scene { agent, web, neighbour, node } = &scene;
    let path = Path::shown(UDP, web.end(), neighbour.end());
    let runtime = Hostile::new(&socket(node), talks(&[Told::of(web.uid(), "web")]));
    let daemon = agent.daemon();
    knows(agent, "default/web");
    agent.add(&["default/web"]);
    path.assert_cut();
    runtime.behave(answers(Reply::Gone));
    agent.run(&["add", "default/nobody"]).expect(3);
    drop(runtime);
    agent.run(&["add", "default/nobody"]).expect(3);
    assert_eq!(agent.isolation(web.uid())["coverage"], "full");
    path.assert_cut();
    // It knows other pods than the one before; what was isolated is still called as it was.
    let _runtime = Hostile::new(&socket(node), talks(&[Told::of(neighbour.uid(), "other")]));
    knows(agent, "default/other");
    wait::until("it is up again", || metric(&daemon, "isolate_cri_up") == 1);
    path.assert_cut();
    agent.remove(&["default/web"]);
    path.assert_flows();
}

fn one_sandbox_that_hangs_hides_no_other() {
    let scene = scene();
    let Scene { agent, web, neighbour, node } = &scene;
    let sandboxes =
        [Told::of(web.uid(), "web"), Told { ip: "10.9.8.7".to_owned(), ..Told::of(neighbour.uid(), "neighbour") }];
    let mut talk = Talk::of(&sandboxes);
    talk.each.insert(sandboxes[0].id.clone(), Reply::Nothing);
    let runtime = Hostile::new(&socket(node), Manner::Talks(talk.clone()));
    let _daemon = agent.daemon();
    agent.add(&[neighbour.uid()]);
    wait::until("the other one's address is learned", || {
        agent.isolation(neighbour.uid())["ips"] == serde_json::json!(["10.9.8.7"])
    });
    // One that fails is asked again.
    talk.each.insert(sandboxes[0].id.clone(), Reply::Error("busy"));
    runtime.behave(Manner::Talks(talk));
    let asked = runtime.details();
    wait::until("it is asked again", || runtime.details() > asked + 1);
    runtime.behave(talks(&[Told { ip: "10.9.8.6".to_owned(), ..sandboxes[0].clone() }]));
    agent.add(&[web.uid()]);
    wait::until("it is learned in the end", || agent.isolation(web.uid())["ips"] == serde_json::json!(["10.9.8.6"]));
}

fn what_it_says_cannot_steer_a_terminal() {
    let scene = scene();
    let Scene { agent, web, neighbour, node } = &scene;
    let evil = |text: &str| format!("{text}\x1b[2J\x07\r\n\u{202e}").into_bytes();
    let huge = || vec![b'x'; 1 << 20];
    let web_told = Told {
        labels: vec![(evil("app"), b"x".to_vec()), (b"app".to_vec(), evil("x")), (b"tier".to_vec(), b"back".to_vec())],
        ip: "10.0.0.1\x1b[2J".to_owned(),
        ..Told::of(web.uid(), "web")
    };
    let told = [
        web_told,
        Told { name: evil("neighbour"), ..Told::of(neighbour.uid(), "neighbour") },
        Told { name: huge(), ..Told::of("0f0e0d0c-1234-4000-8000-0123456789ab", "") },
        Told { namespace: huge(), ..Told::of("0f0e0d0c-1234-4000-8000-0123456789ac", "") },
        Told { name: vec![0xff, 0xfe], ..Told::of("0f0e0d0c-1234-4000-8000-0123456789ad", "") },
        Told { uid: "../../etc\x1b[2J".to_owned(), ..Told::of(web.uid(), "web") },
    ];
    let runtime = Hostile::new(&socket(node), talks(&told));
    let daemon = agent.daemon();
    knows(agent, "default/web");
    agent.add(&[web.uid(), neighbour.uid()]);
    assert_eq!(agent.isolation(web.uid())["labels"], serde_json::json!({ "tier": "back" }));
    assert_eq!(agent.isolation(neighbour.uid())["name"], serde_json::Value::Null);
    // What it says about an error is told to a person.
    runtime.behave(answers(Reply::Error("evil%1B%5B2J%07%0Aisolate-agent:%20all%20is%20well")));
    let refused = agent.run(&["add", "default/nobody"]).expect(3);
    assert!(refused.text().contains("evil"), "it is not told\n{}", refused.text());
    let outputs = [
        agent.run(&["list"]),
        agent.run(&["list", "-o", "wide"]),
        agent.run(&["list", "-o", "json"]),
        agent.run(&["list", "-o", "yaml"]),
        agent.run(&["status"]),
        agent.run(&["status", web.uid()]),
        agent.run(&["events"]),
        agent.run(&["preview", web.uid()]),
        agent.run(&["doctor"]),
        agent.run(&["doctor", "-o", "json"]),
        refused,
    ];
    let texts = outputs.iter().map(Output::text);
    for text in texts.chain([daemon.log(), daemon.page("/metrics").1]) {
        let steers = |c: char| (c.is_control() && !matches!(c, '\n' | '\t')) || c == '\u{202e}';
        assert!(!text.contains(steers), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("isolate-agent: all is well")), "{text}");
        assert!(text.len() < 1 << 20, "{} bytes", text.len());
    }
}

/// What a daemon may hold, in KiB. The unit gives it 512 MiB, in which its maps count.
const LIMIT: u64 = 256 << 10;

/// The most that the daemon has had in memory so far, in KiB.
fn resident(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("the daemon runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the kernel tells it");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

fn a_crowd_of_sandboxes_costs_little() {
    let scene = scene();
    let Scene { agent, web, neighbour, node } = &scene;
    let path = Path::shown(UDP, web.end(), neighbour.end());
    let web_told = Told::of(web.uid(), "web");
    let uid = |number: u32| format!("{number:08x}-1111-4000-8000-0123456789ab");
    let hundred_thousand: Vec<Told> = std::iter::once(web_told.clone())
        .chain((0..100_000).map(|number| Told { id: number.to_string(), ..Told::of(&uid(number), "x") }))
        .collect();
    let many_pairs =
        |of: usize| -> Vec<_> { (0..of).map(|number| (format!("{number:x}").into(), Vec::new())).collect() };
    let padding =
        |number: u32| Told { annotations: many_pairs(60_000), labels: many_pairs(9), ..Told::of(&uid(number), "x") };
    let of_one_pod = |number: u32| Told {
        id: number.to_string(),
        netns: Some(format!("/run/netns/no-{number}").into()),
        ..web_told.clone()
    };
    let crowds = [
        ("a hundred thousand pods", hundred_thousand),
        ("pods of a megabyte", std::iter::once(web_told.clone()).chain((0..15).map(padding)).collect()),
        ("thousands of sandboxes of one pod", (0..3000).map(of_one_pod).collect()),
    ];
    let runtime = Hostile::new(&socket(node), Manner::Silent);
    let mut kept = Vec::new();
    for (what, crowd) in crowds {
        let details = runtime.details();
        runtime.behave(talks(&crowd));
        let daemon = agent.daemon();
        // The answer is taken, up to where it is too much.
        knows(agent, "default/web");
        wait::until("they are asked for", || runtime.details() > details);
        agent.add(&["default/web"]);
        path.assert_cut();
        agent.remove(&["default/web"]);
        path.assert_flows();
        kept.push((what, resident(&daemon)));
    }
    // Two bytes each, and some hundred when they are decoded.
    let mut empty = list(std::slice::from_ref(&web_told));
    empty.extend([10, 0].repeat((15 << 20) / 2));
    runtime.behave(answers(Reply::Message(empty)));
    let daemon = agent.daemon();
    knows(agent, "default/web");
    kept.push(("millions of empty ones", resident(&daemon)));
    eprintln!("most in memory, KiB: {kept:?}");
    assert!(kept.iter().all(|(_, kib)| *kib < LIMIT), "{kept:?}");
}
