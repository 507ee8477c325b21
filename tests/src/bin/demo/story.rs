//! The steps of the demo, and the commands that it shows. Every claim is checked with packets or by an exit code.

use std::process::{Command, ExitCode};

use isolate_tests::{
    agent::{Daemon, METRICS},
    pod::Pod,
    wait,
};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::{
    screen::Screen,
    town::{Town, page},
    traffic::Traffic,
};

const REASON: &str = "miner in the checkout image, INC-4711";
/// What curl says when nothing comes.
const CURL_TIMEOUT: i32 = 28;

/// Shows everything; succeeds if every claim held.
pub(crate) fn tell() -> ExitCode {
    // Without the guard nobody would clear up.
    set_parent_process_death_signal(Some(Signal::KILL)).expect("a process may ask for that");
    let screen = Screen::new();
    screen.step(
        "A node with three pods",
        "They are made of kernel objects: network namespaces, veth pairs on a bridge, cgroups named as kubelet names\n\
         them. Nothing of this machine's own is touched, and everything is removed at the end.",
    );
    let town = Town::new();
    for (name, pod) in town.pods() {
        println!("  {name:<10} {:<12} {}", pod.end().v4.to_string(), pod.uid());
    }
    let right = Traffic::during(&screen, &town, |traffic| Story { screen: &screen, town: &town, traffic }.tell());
    // Panics if anything is left.
    drop(town);
    if right {
        screen.step("Done", "What flows and what stopped was told by packets that arrived. Nothing of the demo is left on this machine.");
        return ExitCode::SUCCESS;
    }
    screen.step(
        "Failed",
        "What is marked WRONG above is not as it should be. Nothing of the demo is left on this machine.",
    );
    ExitCode::FAILURE
}

struct Story<'a, 'b> {
    screen: &'a Screen,
    town: &'a Town,
    traffic: &'a mut Traffic<'b>,
}

impl Story<'_, '_> {
    fn tell(&mut self) {
        let daemon = self.start();
        self.traffic_flows();
        self.cut();
        self.look_at_the_isolation();
        let daemon = self.survive(daemon);
        self.release();
        drop(daemon);
    }

    fn start(&self) -> Daemon {
        self.screen.step(
            "The daemon starts",
            "It finds the pods by itself and puts its programs on their host veths, where they let everything pass: to cut\n\
             a pod off will be a write into a map. (All commands here also get --run-dir, --state-dir, --bpffs and\n\
             --cgroup-root, which keep the demo to itself.)",
        );
        self.daemon()
    }

    fn traffic_flows(&mut self) {
        self.screen.step(
            "Traffic flows",
            "Web requests in, out and on loopback, a datagram every millisecond, and between web and client every other\n\
             way that there is: IPv4 and IPv6, both directions, with and without sockets.",
        );
        self.curl(&self.town.client, 0);
        self.traffic.look(false);
    }

    fn cut(&mut self) {
        self.screen.step(
            "The pod web is taken off the network",
            "By its UID alone. Its processes go on, with all their evidence; its neighbours notice nothing.",
        );
        self.agent(&["add", self.town.web.uid(), "--reason", REASON]);
        self.curl(&self.town.client, CURL_TIMEOUT);
        self.traffic.look(true);
    }

    fn look_at_the_isolation(&self) {
        self.screen
            .step("What is isolated", "Since when, by whom and why; which hooks hold; what the pod has tried since.");
        self.agent(&["list"]);
        self.agent(&["status", first_digits(&self.town.web)]);
        self.screen.step("The same for Prometheus", "Dropped packets, by pod, direction and hook.");
        let line = format!("curl --silent http://{METRICS}/metrics | grep ^isolate_dropped_packets_total");
        self.show("", &line, self.town.node.command("sh").args(["-c", &line]), 0);
    }

    fn survive(&mut self, daemon: Daemon) -> Daemon {
        self.screen.step(
            "The daemon is killed",
            "The hooks are the kernel's: they need no process. (When it starts again, it takes over what it finds.)",
        );
        self.screen.command("", &format!("kill -9 {}", daemon.pid()));
        daemon.kill();
        self.traffic.look(true);
        self.daemon()
    }

    fn release(&mut self) {
        self.screen.step("The pod web gets its network back", "At once, and with nothing left behind.");
        self.agent(&["remove", self.town.web.uid()]);
        self.curl(&self.town.client, 0);
        self.traffic.look(false);
    }

    /// Starts the daemon, and waits until it has armed every pod.
    fn daemon(&self) -> Daemon {
        self.screen.command("", "isolate-agent daemon &");
        let agent = &self.town.agent;
        let daemon = agent.daemon();
        let pods = self.town.pods().len();
        wait::until("every pod is armed", || {
            agent.run(&["status", "-o", "json"]).expect(0).json()["pods_armed"] == pods
        });
        println!("  {pods} of {pods} pods are armed");
        daemon
    }

    /// Shows a command of the agent, which must succeed.
    fn agent(&self, arguments: &[&str]) {
        let quoted: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
        let line = format!("isolate-agent {}", quoted.join(" "));
        self.show("", &line, &mut self.town.agent.command(arguments), 0);
    }

    /// Shows how a pod asks for the page of `web`.
    fn curl(&self, pod: &Pod, code: i32) {
        let line = format!("curl --silent --show-error --max-time 1 http://{}/", page(&self.town.web).ip());
        let mut words = line.split(' ');
        let mut command = pod.command(words.next().expect("a line has a word"));
        self.show("client", &line, command.args(words), code);
    }

    /// Shows a command with its output as it comes. One that ends otherwise than it should ends the demo.
    fn show(&self, place: &str, line: &str, command: &mut Command, code: i32) {
        self.screen.command(place, line);
        let status = command.status().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        assert!(status.code() == Some(code), "{line}: {status}, and not {code}");
    }
}

/// As much of a UID as a command needs.
fn first_digits(pod: &Pod) -> &str {
    pod.uid().split('-').next().expect("a split gives at least one part")
}

fn quoted(word: &str) -> String {
    if word.contains(' ') { format!("'{word}'") } else { word.to_owned() }
}
