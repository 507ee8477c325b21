//! Probes by calls, to the LSM hook: a process of the pod's cgroup asks for packet sockets, and must be refused each.
//!
//! What the hook says about sending and receiving on them cannot be tried beside that: it would need a socket that the pod's
//! cgroup has made.

use std::{ffi::c_int, fs::File, os::fd::AsFd as _, path::Path};

use socket2::{Domain, Socket, Type};

use super::{
    child::{self, Leaf, Order},
    judge::Evidence,
};

/// Packet sockets of each kind, for no protocol: they would see no frame.
const PACKET: [[c_int; 3]; 3] =
    [[libc::AF_PACKET, libc::SOCK_RAW, 0], [libc::AF_PACKET, libc::SOCK_DGRAM, 0], [libc::AF_XDP, libc::SOCK_RAW, 0]];

/// What becomes of the calls; why there are none. Each goes beside one of this process, which must succeed.
pub(super) fn probe(cgroup: &Path) -> Result<Evidence, String> {
    let own = File::open("/proc/thread-self/ns/net").map_err(|error| format!("no network namespace: {error}"))?;
    let leaf = Leaf::new(cgroup).map_err(|error| format!("no cgroup below the pod's: {error}"))?;
    let order = Order { namespace: own.as_fd(), sockets: &PACKET };
    let made = child::sockets(&leaf, &[order]).map_err(|error| error.to_string())?;
    let mut evidence = Evidence { how: "AF_PACKET and AF_XDP sockets asked for".to_owned(), ..Evidence::default() };
    for ([domain, style, _], made) in PACKET.into_iter().zip(made.iter().flatten()) {
        if Socket::new(Domain::from(domain), Type::from(style), None).is_ok() {
            evidence.sent += 1;
            evidence.came += 1;
            evidence.passed += u64::from(made.is_some());
        }
    }
    Ok(evidence)
}
