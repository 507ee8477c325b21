//! The system calls, one function each.

use std::{
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    thread,
    time::Duration,
};

use isolate_tests::{
    observe,
    wire::{Family, Kind},
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, capabilities, remove_capability_from_bounding_set, set_capabilities,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Object;

const BACKLOG: i32 = 16;
const LONGEST: usize = 65536;
/// For experiments (RFC 3692); Linux has no handler for it.
const EXPERIMENT: i32 = 253;

/// What a call gave.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) value: i64,
    pub(crate) data: Vec<u8>,
    pub(crate) made: Option<Object>,
}

impl Done {
    pub(crate) fn value(value: i64) -> Self {
        Self { value, ..Self::default() }
    }

    pub(crate) fn made(object: Object) -> Self {
        Self { made: Some(object), ..Self::default() }
    }

    pub(crate) fn bytes(length: usize) -> Self {
        Self::value(i64::try_from(length).unwrap_or(i64::MAX))
    }
}

pub(crate) fn socket(kind: Kind, family: Family, timeout: Duration) -> io::Result<Done> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let (style, protocol) = match (kind, family) {
        (Kind::Tcp, _) => (Type::STREAM, Protocol::TCP),
        (Kind::Udp, _) => (Type::DGRAM, Protocol::UDP),
        (Kind::Icmp, Family::V4) => (Type::RAW, Protocol::ICMPV4),
        (Kind::Icmp, Family::V6) => (Type::RAW, Protocol::ICMPV6),
        (Kind::Raw, _) => (Type::RAW, Protocol::from(EXPERIMENT)),
    };
    let socket = Socket::new(domain, style, Some(protocol))?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    Ok(Done::made(Object::Socket(socket)))
}

pub(crate) fn packet(device: &str, timeout: Duration) -> io::Result<Done> {
    observe::packet_socket(device, timeout).map(|socket| Done::made(Object::Socket(socket)))
}

pub(crate) fn bind(socket: &Socket, address: SocketAddr) -> io::Result<Done> {
    socket.bind(&address.into())?;
    if socket.r#type()? == Type::STREAM {
        socket.listen(BACKLOG)?;
    }
    let port = socket.local_addr()?.as_socket().map_or(0, |bound| bound.port());
    Ok(Done::value(port.into()))
}

pub(crate) fn connect(socket: &Socket, address: SocketAddr) -> io::Result<Done> {
    socket.connect(&address.into()).map(|()| Done::default())
}

pub(crate) fn accept(socket: &Socket) -> io::Result<Done> {
    let (accepted, _from) = socket.accept()?;
    accepted.set_read_timeout(socket.read_timeout()?)?;
    accepted.set_write_timeout(socket.write_timeout()?)?;
    Ok(Done::made(Object::Socket(accepted)))
}

pub(crate) fn send(mut socket: &Socket, data: &[u8]) -> io::Result<Done> {
    socket.write(data).map(Done::bytes)
}

pub(crate) fn send_to(socket: &Socket, address: SocketAddr, data: &[u8]) -> io::Result<Done> {
    socket.send_to(data, &address.into()).map(Done::bytes)
}

pub(crate) fn recv(mut socket: &Socket) -> io::Result<Done> {
    let mut data = vec![0; LONGEST];
    let length = socket.read(&mut data)?;
    data.truncate(length);
    Ok(Done { data, ..Done::bytes(length) })
}

pub(crate) fn leave_network() -> io::Result<Done> {
    // SAFETY: new namespaces for this process, which has one thread, change nothing that memory safety rests on. Everybody
    // may make a user namespace, and a network namespace in it.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNET) }?;
    Ok(Done::default())
}

pub(crate) fn hide_capabilities() -> io::Result<Done> {
    drop(thread::spawn(|| thread::sleep(Duration::MAX)));
    for capability in capabilities(None)?.permitted.iter() {
        remove_capability_from_bounding_set(capability)?;
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(Done::default())
}
