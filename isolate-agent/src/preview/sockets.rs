//! The sockets of a pod, from its processes' /proc/PID/net: TCP and UDP, bounded in number.
//!
//! In a namespace of its own all sockets are the pod's; in the node's only those that its processes hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use isolate_common::Direction;

use super::{
    processes::PodProcesses,
    report::{Flow, Flows, Options},
};
use crate::{
    allow,
    inventory::Process,
    verify::{Allowed, Kind},
};

/// Most that is read of one table, in bytes: some 100,000 sockets.
const MAX_TABLE_BYTES: u64 = 16 * 1024 * 1024;
/// Most flows of a kind that are shown.
const MAX_FLOWS: usize = 200;
const TABLES: [(&str, &str); 4] = [("net/tcp", "tcp"), ("net/tcp6", "tcp"), ("net/udp", "udp"), ("net/udp6", "udp")];
/// As `ss` names the kernel's states (`include/net/tcp_states.h`).
const STATES: [&str; 13] = [
    "UNKNOWN",
    "ESTAB",
    "SYN-SENT",
    "SYN-RECV",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "TIME-WAIT",
    "UNCONN",
    "CLOSE-WAIT",
    "LAST-ACK",
    "LISTEN",
    "CLOSING",
    "SYN-RECV",
];

/// One line of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    protocol: &'static str,
    local: SocketAddr,
    peer: SocketAddr,
    state: &'static str,
    inode: u64,
}

/// The flows of a pod, and what isolation does to them.
pub(super) fn flows(pod: &PodProcesses, options: &Options) -> Flows {
    let holders = pod.sockets();
    let mut rows = Vec::new();
    for process in pod.one_of_each_namespace() {
        let mut own = read(process);
        if pod.is_in_node_network(process) {
            own.retain(|row| row.inode != 0 && holders.contains_key(&row.inode));
        }
        rows.append(&mut own);
    }
    sort(&rows, &holders, options)
}

fn read(process: &Process) -> Vec<Row> {
    let mut rows = Vec::new();
    for (table, protocol) in TABLES {
        let Ok(file) = process.open_at(table) else { continue };
        let lines = BufReader::new(File::from(file).take(MAX_TABLE_BYTES)).lines();
        rows.extend(lines.map_while(Result::ok).filter_map(|line| parse(&line, protocol)));
    }
    rows
}

fn sort(rows: &[Row], holders: &BTreeMap<u64, String>, options: &Options) -> Flows {
    let waits = |row: &Row| row.peer.port() == 0;
    let ports: BTreeSet<(&str, u16)> =
        rows.iter().filter(|row| waits(row)).map(|row| (row.protocol, row.local.port())).collect();
    let rules = allow::compile(&options.allow).unwrap_or_default();
    let mut flows = Flows::default();
    for row in rows {
        let inwards = ports.contains(&(row.protocol, row.local.port()));
        let loopback = row.local.ip().is_loopback() || row.peer.ip().is_loopback();
        let began = if inwards { Direction::In } else { Direction::Out };
        let kind = if row.protocol == "tcp" { Kind::Tcp } else { Kind::Udp };
        let allowed = || Allowed(&rules).first(kind, pair(row.local), pair(row.peer), began);
        let kept = if loopback { options.keep_loopback } else { !waits(row) && allowed() };
        let (list, direction) = match (waits(row), kept) {
            (true, _) => (&mut flows.listening, None),
            (false, true) => (&mut flows.kept, Some(inwards)),
            (false, false) => (&mut flows.cut, Some(inwards)),
        };
        if list.len() == MAX_FLOWS {
            flows.left_off += 1;
            continue;
        }
        list.push(Flow {
            protocol: row.protocol.to_owned(),
            direction: direction.map(|inwards| if inwards { "in" } else { "out" }.to_owned()),
            local: row.local.to_string(),
            peer: (!waits(row)).then(|| row.peer.to_string()),
            state: row.state.to_owned(),
            process: holders.get(&row.inode).cloned(),
        });
    }
    for list in [&mut flows.cut, &mut flows.kept, &mut flows.listening] {
        list.sort();
    }
    flows
}

fn pair(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip(), address.port())
}

fn parse(line: &str, protocol: &'static str) -> Option<Row> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, peer) = (address(fields.next()?)?, address(fields.next()?)?);
    let state = usize::from_str_radix(fields.next()?, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok()?;
    Some(Row { protocol, local, peer, state: STATES.get(state).copied().unwrap_or("UNKNOWN"), inode })
}

/// An address as the kernel prints it: 32-bit words in the machine's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";

    fn rows() -> Vec<Row> {
        let table = |protocol: &'static str, text: &str| {
            text.lines().filter_map(move |line| parse(line, protocol)).collect::<Vec<_>>()
        };
        let tcp = format!(
            "{HEADER}
   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 10 1 0 100 0 0 10 0
   1: 0A00580A:0050 1400580A:9C40 01 00000000:00000000 00:00000000 00000000     0        0 11 1 0 20 4 30 10 -1
   2: 0A00580A:8AE0 08080808:01BB 02 00000000:00000000 01:00000019 00000000     0        0 12 2 0 100 0 0 10 -1
   3: 0100007F:D431 0100007F:0CEA 01 00000000:00000000 00:00000000 00000000     0        0 13 1 0 20 4 30 10 -1
   4: 0A00580A:0051 1400580A:9C41 06 00000000:00000000 03:00000FA0 00000000     0        0 0 3 0 -1"
        );
        let udp6 = format!(
            "{HEADER}
   9: 0000000000000000FFFF00000A00580A:0035 0000000000000000FFFF000001010101:0035 01 00000000:00000000 00:00000000 00000000     0        0 14 2 0 0
  10: 00000000000000000000000000000000:14E9 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 15 2 0 0"
        );
        let mut rows = table("tcp", &tcp);
        rows.extend(table("udp", &udp6));
        rows
    }

    fn short(flows: &[Flow]) -> Vec<String> {
        let show = |flow: &Flow| {
            let peer = flow.peer.as_deref().unwrap_or("-");
            let direction = flow.direction.as_deref().unwrap_or("-");
            let process = flow.process.as_deref().unwrap_or("-");
            format!("{} {direction} {} {peer} {} {process}", flow.protocol, flow.local, flow.state)
        };
        flows.iter().map(show).collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_tables_are_read() {
        let holders = BTreeMap::from([(11, "web (7)".to_owned())]);
        let flows = sort(&rows(), &holders, &Options { keep_loopback: true, ..Options::default() });
        assert_eq!(
            short(&flows.cut),
            [
                "tcp in 10.88.0.10:80 10.88.0.20:40000 ESTAB web (7)",
                "tcp out 10.88.0.10:35552 8.8.8.8:443 SYN-SENT -",
                "tcp out 10.88.0.10:81 10.88.0.20:40001 TIME-WAIT -",
                "udp out 10.88.0.10:53 1.1.1.1:53 ESTAB -",
            ]
        );
        assert_eq!(short(&flows.kept), ["tcp out 127.0.0.1:54321 127.0.0.1:3306 ESTAB -"]);
        assert_eq!(short(&flows.listening), ["tcp - 0.0.0.0:80 - LISTEN -", "udp - [::]:5353 - UNCONN -"]);
        let allow = ["10.88.0.20:80/tcp", "in:8.8.8.8", "out:1.1.1.1:53/udp"].map(|rule| rule.parse().expect("a rule"));
        let some = sort(&rows(), &holders, &Options { allow: allow.to_vec(), ..Options::default() });
        assert_eq!(
            short(&some.kept),
            ["tcp in 10.88.0.10:80 10.88.0.20:40000 ESTAB web (7)", "udp out 10.88.0.10:53 1.1.1.1:53 ESTAB -"],
            "the called side's port counts, and who called"
        );
        assert_eq!(some.cut.len(), 3);
        let plain = sort(&rows(), &holders, &Options::default());
        assert_eq!((plain.cut.len(), plain.kept.len()), (5, 0), "loopback is cut as well");
    }

    #[test]
    fn many_are_counted_and_not_shown() {
        let row = |port| Row {
            protocol: "tcp",
            local: ([10, 0, 0, 1], port).into(),
            peer: ([10, 0, 0, 2], 80).into(),
            state: "ESTAB",
            inode: 0,
        };
        let rows: Vec<Row> = (1..=1000).map(row).collect();
        let flows = sort(&rows, &BTreeMap::new(), &Options::default());
        assert_eq!((flows.cut.len(), flows.left_off), (MAX_FLOWS, 1000 - MAX_FLOWS));
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_passed_over(line in "\\PC{0,160}") {
            let _row = parse(&line, "tcp");
            let _address = address(&line);
        }
    }
}
