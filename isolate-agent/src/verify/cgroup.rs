//! Probes by sockets of the pod's cgroup, to the hook on it.
//!
//! The hook is the same in every network namespace, so the proof is made in two of its own, where nothing else can be in
//! the way: each probe goes beside one of a socket that is not the pod's, on the same way, which must arrive. After that,
//! and only if all was cut, the pod's own namespace is tried, by datagrams to link-local addresses for experiments.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU32,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    time::Duration,
};

use isolate_common::Direction;
use socket2::Socket;

use super::{
    allowed::Allowed,
    child::{self, Leaf, Order},
    judge::Evidence,
    scratch::{LINK, LO, Line, Scratch, within},
    socket::{self, Kind, Mark, SET, Shape, Sockets},
};
use crate::{enforce, inventory::Pod};

/// How long a probe may take that is not cut.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long one is waited for that must not come, once one has come that was sent after it.
const GRACE: Duration = Duration::from_millis(30);
/// The discard port (RFC 863).
const DISCARD: u16 = 9;
/// Interfaces that are tried in the pod's own namespace.
const MOST: usize = 8;

/// What is sent in the pod's own namespace.
const INSIDE: [Shape; 6] = [
    Shape { kind: Kind::Udp, v6: false },
    Shape { kind: Kind::Icmp, v6: false },
    Shape { kind: Kind::Raw, v6: false },
    Shape { kind: Kind::Udp, v6: true },
    Shape { kind: Kind::Icmp, v6: true },
    Shape { kind: Kind::Raw, v6: true },
];

/// What becomes of packets into the cgroup and out of it; why there are none.
pub(super) fn probe(
    pod: &Pod,
    cgroup: &Path,
    keep_loopback: bool,
    allowed: Allowed<'_>,
) -> Result<[Evidence; 2], String> {
    let scratch = Scratch::new().map_err(|error| format!("no network namespaces to try it in: {error}"))?;
    let leaf = Leaf::new(cgroup).map_err(|error| format!("no cgroup below the pod's: {error}"))?;
    let lines: Vec<Line> = if keep_loopback { vec![LINK] } else { vec![LINK, LO] };
    let own = namespaces(pod);
    let (set, in_the_pods) = (SET.map(Shape::arguments), INSIDE.map(Shape::arguments));
    let mut orders = vec![Order { namespace: scratch.near.as_fd(), sockets: &set }; lines.len()];
    orders.extend(own.iter().map(|(_, namespace)| Order { namespace: namespace.as_fd(), sockets: &in_the_pods }));
    let mut made = child::sockets(&leaf, &orders).map_err(|error| error.to_string())?;
    let inside = made.split_off(lines.len());

    let (mut ways, mut families) = ([Evidence::default(), Evidence::default()], Vec::new());
    for (line, pods) in lines.iter().zip(made) {
        let side = |namespace: &File| {
            within(namespace, || SET.map(|shape| shape.open().ok()).into()).map(Sockets::new).map_err(|e| e.to_string())
        };
        let sides = Sides {
            pod: Sockets::new(pods),
            beside: side(&scratch.near)?,
            far: side(if line.is_loopback { &scratch.near } else { &scratch.far })?,
        };
        exchange(line, &sides, allowed, &mut ways, &mut families)?;
    }
    let [into, out] = &mut ways;
    into.how = format!("{} in a namespace of its own", families.join(", "));
    out.how.clone_from(&into.how);
    if out.passed == 0 && out.came > 0 {
        try_inside(&own, inside, allowed, out);
    }
    Ok(ways)
}

/// The sockets on both sides of a line.
struct Sides {
    /// Those of the pod's cgroup.
    pod: Sockets,
    /// Those beside them that are not.
    beside: Sockets,
    far: Sockets,
}

fn exchange(
    line: &Line,
    sides: &Sides,
    allowed: Allowed<'_>,
    ways: &mut [Evidence; 2],
    families: &mut Vec<String>,
) -> Result<(), String> {
    for (near, far) in line.near.into_iter().zip(line.far) {
        for kind in [Kind::Udp, Kind::Icmp, Kind::Raw, Kind::Tcp] {
            let name = format!("{} over {} ({})", kind.name(), if near.is_ipv6() { "IPv6" } else { "IPv4" }, line.name);
            let bound =
                || Ok([sides.pod.bound(kind, near)?, sides.beside.bound(kind, near)?, sides.far.bound(kind, far)?]);
            let sockets = match bound() {
                Ok(sockets) => sockets,
                Err(error) if is_not_offered(&error) => continue,
                Err(error) => return Err(format!("{name}: {error}")),
            };
            let may = may_pass(kind, &sockets, allowed).map_err(|error| format!("{name}: {error}"))?;
            let [into, out] = if kind == Kind::Tcp { connect(&sockets) } else { exchange_datagrams(kind, &sockets) }
                .map_err(|error| format!("{name}: {error}"))?;
            for ((way, one), may_pass) in ways.iter_mut().zip([into, out]).zip(may) {
                // Loopback is never exempted.
                if may_pass && !line.is_loopback {
                    way.allowed += 1;
                    continue;
                }
                way.sent += 1;
                way.came += u64::from(one.came);
                way.passed += u64::from(one.passed);
            }
            families.push(name);
        }
    }
    Ok(())
}

/// Whether the pod's rules let pass what comes to its socket, and what goes out of it.
fn may_pass(kind: Kind, [pod, _, far]: &[Vec<&Socket>; 3], allowed: Allowed<'_>) -> io::Result<[bool; 2]> {
    let end = |socket: &Socket| socket::address(socket).map(|address| (address.ip(), address.port()));
    // Of TCP the first listens, the second calls.
    let (listens, calls) = (pod[0], pod.get(1).unwrap_or(&pod[0]));
    let (called, calling) = (far[0], far.get(1).unwrap_or(&far[0]));
    Ok([
        allowed.first(kind, end(listens)?, end(calling)?, Direction::In),
        allowed.first(kind, end(calls)?, end(called)?, Direction::Out),
    ])
}

/// A kernel without IPv6, or with it switched off.
fn is_not_offered(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// What became of one probe.
struct One {
    /// Whether the one beside it arrived.
    came: bool,
    passed: bool,
}

fn exchange_datagrams(kind: Kind, [pod, beside, far]: &[Vec<&Socket>; 3]) -> io::Result<[One; 2]> {
    let (pod, beside, far) = (pod[0], beside[0], far[0]);
    // The first one waits for the neighbour's address; those behind it in that queue would be thrown away.
    let first = mark()?;
    socket::send(beside, kind, socket::address(far)?, &first)?;
    socket::received(far, &first, &first, PATIENCE);
    let (probe, last) = (mark()?, mark()?);
    match socket::send(pod, kind, socket::address(far)?, &probe) {
        Ok(()) => {}
        Err(error) if is_refusal(&error) => {}
        Err(error) => return Err(error),
    }
    socket::send(beside, kind, socket::address(far)?, &last)?;
    let (came, passed) = socket::received(far, &last, &probe, PATIENCE);
    let out = One { came, passed };

    let (probe, last) = (mark()?, mark()?);
    socket::send(far, kind, socket::address(pod)?, &probe)?;
    socket::send(far, kind, socket::address(beside)?, &last)?;
    let (came, _) = socket::received(beside, &last, &last, PATIENCE);
    let (passed, _) = socket::received(pod, &probe, &probe, GRACE);
    Ok([One { came, passed }, out])
}

/// What a send that the egress hook drops gives.
fn is_refusal(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM)
}

fn connect([pod, beside, far]: &[Vec<&Socket>; 3]) -> io::Result<[One; 2]> {
    let start = |from: &Socket, to: &Socket| match from.connect(&socket::address(to)?.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) || is_refusal(&error) => Ok(()),
        other => other,
    };
    far[0].listen(8)?;
    start(pod[1], far[0])?;
    start(beside[1], far[0])?;
    let probe = socket::address(pod[1])?;
    let (came, passed) = socket::accepted(far[0], socket::address(beside[1])?, probe, PATIENCE);
    let passed = passed || socket::accepted(far[0], probe, probe, GRACE).1;
    let out = One { came, passed };

    pod[0].listen(8)?;
    beside[0].listen(8)?;
    start(far[1], pod[0])?;
    start(far[2], beside[0])?;
    let last = socket::address(far[2])?;
    let (came, _) = socket::accepted(beside[0], last, last, PATIENCE);
    let probe = socket::address(far[1])?;
    let (passed, _) = socket::accepted(pod[0], probe, probe, GRACE);
    Ok([One { came, passed }, out])
}

/// The interfaces that are tried in the pod's own namespaces, by name: what goes out of one without a host end could leave
/// the node.
fn namespaces(pod: &Pod) -> Vec<((u32, &str), OwnedFd)> {
    let places = pod.interfaces.iter().filter(|interface| interface.host.is_some()).filter_map(|interface| {
        let inside = interface.inside.as_ref()?;
        let namespace = enforce::namespace(&inside.way, inside.namespace).ok()?;
        Some(((inside.index, interface.name.as_str()), namespace.into()))
    });
    places.take(MOST).collect()
}

/// Adds to the evidence what datagrams in the pod's own namespace come to.
fn try_inside(
    own: &[((u32, &str), OwnedFd)],
    made: Vec<Vec<Option<OwnedFd>>>,
    allowed: Allowed<'_>,
    out: &mut Evidence,
) {
    for (((index, name), _), sockets) in own.iter().zip(made) {
        let (mut tried, mut refused) = (0, 0);
        for (shape, socket) in INSIDE.iter().zip(sockets) {
            let Some(socket) = socket.map(Socket::from) else { continue };
            // What is let pass here would get to the node.
            let any: IpAddr = if shape.v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            if allowed.first(shape.kind, (any, 0), (sentinel(*shape), DISCARD), Direction::Out) {
                out.allowed += 1;
                continue;
            }
            match send_to_sentinel(&socket, *shape, *index) {
                Ok(()) => tried += 1,
                Err(error) if is_refusal(&error) => {
                    tried += 1;
                    refused += 1;
                }
                // No address, no route: nothing was sent.
                Err(error) => tracing::debug!(%error, ?shape, "not tried in the pod's namespace"),
            }
        }
        out.sent += tried - refused;
        out.passed += tried - refused;
        out.how = format!("{}; in the pod's namespace {refused} of {tried} sends on {name} were refused", out.how);
    }
}

fn send_to_sentinel(socket: &Socket, shape: Shape, index: u32) -> io::Result<()> {
    let mark = mark()?;
    if shape.v6 {
        socket.bind_device_by_index_v6(NonZeroU32::new(index))?;
        socket.set_multicast_loop_v6(false)?;
        socket.set_multicast_hops_v6(1)?;
    } else {
        socket.bind_device_by_index_v4(NonZeroU32::new(index))?;
        socket.set_multicast_loop_v4(false)?;
        socket.set_multicast_ttl_v4(1)?;
    }
    socket::send(socket, shape.kind, (sentinel(shape), DISCARD).into(), &mark)
}

/// For experiments (RFC 4727); no router forwards them.
fn sentinel(shape: Shape) -> IpAddr {
    if shape.v6 { Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x114).into() } else { Ipv4Addr::new(224, 0, 0, 254).into() }
}

fn mark() -> io::Result<Mark> {
    let mut mark = Mark::default();
    super::fill(&mut mark)?;
    Ok(mark)
}
