//! An attacker's own program on an interface, in front of all others. Needs `CAP_BPF`.

use std::{fs::File, io};

use isolate_tests::{
    program::{self, Place},
    wire::Hook,
};

use crate::{Object, calls::Done};

/// The chain ends and the packet goes on.
const TCX_PASS: i32 = 0;
const XDP_PASS: i32 = 2;

/// The link lives until its handle is closed.
pub(crate) fn attach(hook: Hook, device: &str) -> io::Result<Done> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None)?;
    let ifindex = rustix::net::netdevice::name_to_index(&socket, device)?;
    let (place, answer) = match hook {
        Hook::TcIn => (Place::TcxIngress, TCX_PASS),
        Hook::TcOut => (Place::TcxEgress, TCX_PASS),
        Hook::Xdp => (Place::Xdp, XDP_PASS),
    };
    let link = program::answer_first(place, ifindex, answer)?;
    Ok(Done::made(Object::File(File::from(link))))
}
