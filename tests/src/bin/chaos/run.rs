//! The sequence of steps, and what must hold after each.

use std::{
    fs,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use isolate_tests::{
    agent::{Agent, Daemon},
    netdev,
    node::Node,
    process::Process,
    wait,
};

use crate::{dice::Dice, member::Member, stranger::Stranger};

/// Something that happens. Those with a number happen to this pod.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Add(usize),
    AddAgain(usize),
    Remove(usize),
    Kill,
    Stop,
    Start,
    Sandbox(usize),
    Interface(usize),
    Stranger(usize),
    StrangerLeaves(usize),
}

/// What tells of a failure, for whoever prints it.
static TOLD: Mutex<(Option<Agent>, Vec<Step>)> = Mutex::new((None, Vec::new()));

/// The steps so far, the journal and the daemon's log.
pub(crate) fn evidence() -> String {
    let told = TOLD.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (Some(agent), steps) = told else { return "before the first step".to_owned() };
    let numbered = steps.iter().enumerate().map(|(number, step)| format!("step {}: {step:?}\n", number + 1));
    let events = agent.run(&["events"]).text();
    let log = agent.state().with_file_name("daemon.log");
    let log = fs::read_to_string(log).unwrap_or_default();
    let tail = |text: &str| {
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(100)..].join("\n")
    };
    let steps: String = numbered.collect();
    format!("{steps}--- the journal\n{}\n--- the daemon's log\n{}\n---", tail(&events), tail(&log))
}

/// Dropped from top to bottom.
pub(crate) struct Run {
    daemon: Option<Daemon>,
    hub: (Process, SocketAddr),
    members: Vec<Member>,
    agent: Agent,
    node: Node,
    dice: Dice,
    steps: usize,
    judged: i64,
}

impl Run {
    pub(crate) fn new(seed: u64, pods: u8) -> Self {
        let node = Node::new();
        let agent = Agent::new(&node);
        TOLD.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(agent.clone());
        let process = node.process();
        let address = (node.end(&process).v4, 0).into();
        let hub = (process, address);
        let mut members: Vec<Member> = (0..pods).map(|_| Member::start(&node)).collect();
        let daemon = Some(agent.daemon());
        for member in &mut members {
            member.begin(&hub);
        }
        Self { daemon, hub, members, agent, node, dice: Dice::new(seed), steps: 0, judged: 0 }
    }

    /// What is next; depends on the seed and the steps before alone.
    fn choose(&mut self) -> Step {
        let pod = self.dice.below(self.members.len());
        let Member { isolated, stranger, .. } = &self.members[pod];
        match self.dice.below(100) {
            0..50 if !isolated => Step::Add(pod),
            0..35 => Step::Remove(pod),
            35..50 => Step::AddAgain(pod),
            50..65 => Step::Sandbox(pod),
            65..75 => Step::Interface(pod),
            75..88 if stranger.is_none() => Step::Stranger(pod),
            75..88 => Step::StrangerLeaves(pod),
            88..97 if self.daemon.is_some() => Step::Kill,
            97..100 if self.daemon.is_some() => Step::Stop,
            _ => Step::Start,
        }
    }

    pub(crate) fn step(&mut self) {
        let step = self.choose();
        self.steps += 1;
        TOLD.lock().unwrap_or_else(PoisonError::into_inner).1.push(step);
        self.carry_out(step);
        self.cover();
        self.members.iter().for_each(|member| member.check(&self.hub));
    }

    fn carry_out(&mut self, step: Step) {
        let Self { agent, node, hub, members, .. } = self;
        match step {
            Step::Add(pod) => {
                let member = &mut members[pod];
                self.judged += member.end(hub);
                agent.add(&[member.pod.uid(), "--reason", "chaos"]);
                member.isolated = true;
                member.begin(hub);
            }
            Step::AddAgain(pod) => {
                // A new sandbox may not be covered yet; then the code is another.
                let told = agent.run(&["add", members[pod].pod.uid(), "--reason", "again"]);
                assert!(matches!(told.code, 0 | 5), "{}", told.text());
            }
            Step::Remove(pod) => {
                let member = &mut members[pod];
                self.judged += member.end(hub);
                agent.remove(&[member.pod.uid()]);
                (member.isolated, member.uncovered) = (false, false);
                member.begin(hub);
            }
            Step::Kill => self.daemon.take().expect("it was chosen because it runs").kill(),
            Step::Stop => {
                let code = self.daemon.take().expect("it was chosen because it runs").stop();
                assert_eq!(code, Some(0), "SIGTERM is an ordinary end");
            }
            Step::Start if self.daemon.is_none() => self.daemon = Some(agent.daemon()),
            Step::Start => {}
            Step::Sandbox(pod) => {
                let member = &mut members[pod];
                self.judged += member.end(hub);
                member.renew(node);
                member.begin(hub);
            }
            Step::Interface(pod) => {
                let veth = &members[pod].pod.host_veths()[0];
                let mtu = 1400 + self.steps % 100;
                netdev::ip(
                    node.netns(),
                    &[format!("link set {veth} mtu {mtu}"), format!("link set {veth} alias a{mtu}")],
                );
            }
            Step::Stranger(pod) => {
                let veth = &members[pod].pod.host_veths()[0];
                members[pod].stranger = Some(Stranger::come(node.netns(), veth));
            }
            Step::StrangerLeaves(pod) => {
                let Member { pod, stranger, .. } = &mut members[pod];
                stranger.take().expect("it was chosen because it is there").leave(node.netns(), &pod.host_veths()[0]);
            }
        }
    }

    /// What only the veth hook cuts begins when the agent says that a new sandbox is covered: a daemon sees to it soon.
    fn cover(&mut self) {
        if self.daemon.is_none() || self.members.iter().all(|member| !member.uncovered) {
            return;
        }
        for member in self.members.iter_mut().filter(|member| member.uncovered) {
            let uid = member.pod.uid();
            let covered = || {
                let isolation = self.agent.isolation(uid);
                let holds = |hook: &serde_json::Value| hook["hook"] != "veth" || hook["state"] == "holding";
                isolation["present"] == true
                    && isolation["hooks"]
                        .as_array()
                        .is_some_and(|hooks| hooks.iter().any(|hook| hook["hook"] == "veth"))
                    && isolation["hooks"].as_array().is_some_and(|hooks| hooks.iter().all(holds))
            };
            wait::until(&format!("the new sandbox of {uid} is covered"), covered);
            member.cover(&self.hub);
        }
    }

    /// Releases everybody: all flow, and nobody is isolated any more.
    pub(crate) fn finish(&mut self) {
        if self.daemon.is_none() {
            self.daemon = Some(self.agent.daemon());
        }
        self.cover();
        for member in &mut self.members {
            self.judged += member.end(&self.hub);
        }
        self.agent.remove(&["--all"]);
        assert_eq!(self.agent.isolated(), Vec::<String>::new());
        for member in &mut self.members {
            (member.isolated, member.uncovered) = (false, false);
            member.begin(&self.hub);
        }
        for member in &mut self.members {
            self.judged += member.end(&self.hub);
        }
    }

    /// Nothing keeps the node any more: it goes with this, and says what it leaves.
    pub(crate) fn end(self) {
        TOLD.lock().unwrap_or_else(PoisonError::into_inner).0 = None;
        drop(self);
    }

    pub(crate) fn summary(&self) -> String {
        format!(
            "{} steps; of {} datagrams none passed an isolated pod's hooks, and none of a healthy pod's was lost",
            self.steps, self.judged
        )
    }
}
