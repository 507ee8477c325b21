//! Interfaces, addresses and routes, made with iproute2.

use std::{
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
    process::{Command, Stdio},
};

use crate::{feature, frame::Mac, launch, netns::Netns};

/// Runs `ip` commands in a namespace, all in one process; panics at the first that fails.
pub fn ip(netns: &Netns, commands: &[String]) {
    let mut child = Command::new("ip")
        .args(["-n", netns.name(), "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("iproute2 is installed");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(commands.join("\n").as_bytes()).expect("ip reads its commands");
    drop(stdin);
    let output = child.wait_with_output().expect("ip ends");
    assert!(output.status.success(), "{commands:#?}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// The commands that make a bridge with these addresses, as a CNI's bridge plugin would.
pub(crate) fn bridge(name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Vec<String> {
    // Of its own, as CNI plugins give it one: else it changes with the ports, and the ipvlans on the bridge with it.
    let [a, b, c, d] = v4.octets();
    vec![
        format!(
            "link add {name} address 0a:58:{a:02x}:{b:02x}:{c:02x}:{d:02x} type bridge forward_delay 0 mcast_snooping 0"
        ),
        format!("link set {name} up"),
        format!("addr add {v4}/24 dev {name}"),
        format!("addr add {v6}/64 dev {name} nodad"),
    ]
}

/// Makes a veth pair: `host` in `node`, `inner` in `pod`.
pub(crate) fn veth(node: &Netns, host: &str, pod: &Netns, inner: &str) {
    ip(node, &[format!("link add {host} type veth peer name {inner} netns {}", pod.name())]);
}

/// Removes an interface in a clean-up.
pub(crate) fn remove(netns: &Netns, name: &str) {
    launch::try_to(Command::new("ip").args(["-n", netns.name(), "link", "del", name]));
}

/// The names of a namespace's interfaces.
pub fn names(netns: &Netns) -> Vec<String> {
    links(netns).iter().map(|link| link["ifname"].as_str().expect("a link has a name").to_owned()).collect()
}

/// The index of an interface.
pub fn index(netns: &Netns, name: &str) -> u32 {
    let index = find(netns, name)["ifindex"].as_u64().expect("a link has an index");
    u32::try_from(index).expect("an interface index is 32 bits wide")
}

/// Whether an interface is a port of a bridge that forwards what comes from it. It is not for a moment after its carrier came.
pub fn forwards(netns: &Netns, name: &str) -> bool {
    let show = ["-n", netns.name(), "-details", "-json", "link", "show", "dev", name];
    let output = launch::succeed(Command::new("ip").args(show));
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).expect("ip prints JSON");
    links[0]["linkinfo"]["info_slave_data"]["state"] == "forwarding"
}

/// The hardware address of an interface.
pub fn mac(netns: &Netns, name: &str) -> Mac {
    find(netns, name)["address"]
        .as_str()
        .expect("an Ethernet link has an address")
        .parse()
        .expect("it is a MAC address")
}

fn find(netns: &Netns, name: &str) -> serde_json::Value {
    let found = links(netns).into_iter().find(|link| link["ifname"] == name);
    found.unwrap_or_else(|| panic!("no interface {name} in {}", netns.name()))
}

fn links(netns: &Netns) -> Vec<serde_json::Value> {
    let output = launch::succeed(Command::new("ip").args(["-n", netns.name(), "-json", "link", "show"]));
    serde_json::from_slice(&output.stdout).expect("ip prints JSON")
}

/// Gives an interface the qdisc that filters need, if this kernel has no tcx, as what makes pods may: making it later loses packets
/// of a healthy pod (`dev_deactivate` in `qdisc_graft`), whoever does it.
pub fn ready_for_filters(netns: &Netns, name: &str) {
    if !feature::has_tcx() {
        let mut tc = Command::new("tc");
        tc.args(["-n", netns.name(), "qdisc", "add", "dev", name, "clsact"]);
        // The agent may have made it.
        tc.stderr(Stdio::null()).status().expect("iproute2 is installed");
    }
}

/// Why this kernel makes no interfaces of a type: what an attempt in a namespace of its own gave.
pub fn missing(kind: &str) -> Option<String> {
    let netns = Netns::new();
    let add = ["link", "add", "probe0", "link", "lower0", "type", kind];
    ip(&netns, &["link add lower0 type veth peer name lower1".to_owned()]);
    let output = Command::new("ip").args(["-n", netns.name()]).args(add).output().expect("iproute2 is installed");
    let why = || format!("ip {}: {}", add.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    (!output.status.success()).then(why)
}
