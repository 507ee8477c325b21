//! The ways to cut a pod off that are compared.

use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
};

use isolate_tests::{agent::Daemon, launch, netdev};

use super::{
    known,
    prober::{self, Prober},
    run::Setting,
};
use crate::{probes::kubelet, scene::Scene};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// `iptables -I INPUT -j DROP` in the pod's namespace.
    IptablesInput,
    /// The same in INPUT, OUTPUT and FORWARD, of iptables and ip6tables.
    IptablesAll,
    /// An nftables table of the netdev family that drops both ways on the host ends of the pod's veths.
    NftNetdev,
    /// The host ends of the pod's veths set down.
    LinkDown,
    /// `isolate-agent add`, with its daemon running.
    Agent,
    /// The same with `--keep-probes`, while kubelet probes.
    AgentKeepingProbes,
}

/// What runs beside a cut. Dropped from top to bottom.
#[derive(Default)]
pub(super) struct Beside {
    prober: Option<Prober>,
    _daemon: Option<Daemon>,
}

const TABLES: [&str; 2] = ["iptables", "ip6tables"];

impl Cut {
    pub(super) const ALL: [Self; 6] = [
        Self::IptablesInput,
        Self::IptablesAll,
        Self::NftNetdev,
        Self::LinkDown,
        Self::Agent,
        Self::AgentKeepingProbes,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::IptablesInput => "iptables INPUT",
            Self::IptablesAll => "iptables + ip6tables, all chains",
            Self::NftNetdev => "nftables netdev",
            Self::LinkDown => "link down",
            Self::Agent => "isolate-agent",
            Self::AgentKeepingProbes => "isolate-agent --keep-probes",
        }
    }

    /// What has to run before.
    pub(super) fn prepare(self, scene: &Scene, setting: Setting) -> Beside {
        match self {
            Self::Agent => Beside { _daemon: Some(scene.agent.daemon()), prober: None },
            Self::AgentKeepingProbes => {
                Beside { prober: Some(Prober::start(scene, setting)), _daemon: Some(kubelet::agent(scene).daemon()) }
            }
            _ => Beside::default(),
        }
    }

    pub(super) fn apply(self, scene: &Scene, setting: Setting, beside: &Beside) {
        match self {
            Self::IptablesInput => rules(scene, "-I", &TABLES[..1], &["INPUT"]),
            Self::IptablesAll => rules(scene, "-I", &TABLES, &["INPUT", "OUTPUT", "FORWARD"]),
            Self::NftNetdev => nft(scene, &netdev_table(scene)),
            Self::LinkDown => links(scene, "down"),
            Self::Agent => isolate(scene, setting, &[]),
            Self::AgentKeepingProbes => {
                isolate(scene, setting, &["--keep-probes", "--probe-port", &prober::PORT.to_string()]);
                beside.prober.as_ref().expect("it was started").assert_answered();
            }
        }
    }

    /// Once more after an attacker may have taken it away, so that the next channel meets it again.
    pub(super) fn renew(self, scene: &Scene) {
        match self {
            Self::IptablesInput | Self::IptablesAll => {
                self.lift(scene, Setting::Changing);
                self.apply(scene, Setting::Changing, &Beside::default());
            }
            Self::LinkDown => links(scene, "down"),
            Self::NftNetdev | Self::Agent | Self::AgentKeepingProbes => {}
        }
    }

    pub(super) fn lift(self, scene: &Scene, setting: Setting) {
        match self {
            Self::IptablesInput | Self::IptablesAll => {
                for table in TABLES {
                    launch::succeed(in_pod(scene, table).arg("-F"));
                }
            }
            Self::NftNetdev => nft(scene, "delete table netdev isolate\n"),
            Self::LinkDown => {
                links(scene, "up");
                if setting.is_routed() {
                    routes(scene);
                }
            }
            Self::Agent | Self::AgentKeepingProbes => {
                scene.agent.remove(&[scene.web.uid()]);
            }
        }
    }
}

/// The exit code and the status must say what the suite is about to find.
fn isolate(scene: &Scene, setting: Setting, options: &[&str]) {
    let partly = known::is_partly_covered(setting);
    let added = scene.agent.run(&[&["add", scene.web.uid()], options].concat()).expect(if partly { 5 } else { 0 });
    let coverage = &scene.agent.isolation(scene.web.uid())["coverage"];
    assert_eq!(coverage, if partly { "partial" } else { "full" }, "{}", added.text());
}

fn in_pod(scene: &Scene, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", scene.web.netns().path().display())).args([program, "-w"]);
    command
}

fn rules(scene: &Scene, operation: &str, tables: &[&str], chains: &[&str]) {
    for table in tables {
        for chain in chains {
            launch::succeed(in_pod(scene, table).args([operation, chain, "-j", "DROP"]));
        }
    }
}

fn netdev_table(scene: &Scene) -> String {
    let mut table = "table netdev isolate {\n".to_owned();
    for (number, veth) in scene.web.host_veths().iter().enumerate() {
        for hook in ["ingress", "egress"] {
            writeln!(
                table,
                "chain {hook}{number} {{ type filter hook {hook} device \"{veth}\" priority -500; policy drop; }}"
            )
            .expect("a string takes it");
        }
    }
    table + "}\n"
}

fn nft(scene: &Scene, script: &str) {
    let mut command = scene.node.command("nft");
    let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nftables is installed");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(script.as_bytes()).expect("nft reads its script");
    drop(stdin);
    assert!(child.wait().expect("nft ends").success(), "{script}");
}

fn links(scene: &Scene, state: &str) {
    let commands: Vec<String> = scene.web.host_veths().iter().map(|veth| format!("link set {veth} {state}")).collect();
    netdev::ip(scene.node.netns(), &commands);
}

/// What the kernel forgets of a routed veth's host end when it goes down.
fn routes(scene: &Scene) {
    let (veth, end) = (&scene.web.host_veths()[0], scene.web.end());
    let commands = [
        format!("addr replace fe80::1/64 dev {veth} nodad"),
        format!("route replace {}/32 dev {veth}", end.v4),
        format!("route replace {}/128 dev {veth}", end.v6),
    ];
    netdev::ip(scene.node.netns(), &commands);
}
