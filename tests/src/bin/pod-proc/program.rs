//! Programs: an attacker's own on an interface, in front of all others, and those that others have loaded. Needs `CAP_BPF`.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use isolate_tests::{
    bpf,
    fuzz::{Frames, REFUSED},
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

/// The agent's pins say for what they are.
fn is_xdp(pin: &Path) -> bool {
    pin.file_name().is_some_and(|name| name.to_string_lossy().starts_with("xdp-"))
}

/// Runs programs on random frames; what each said, in its lowest byte.
pub(crate) fn fuzz(pins: &[PathBuf], ifindex: u32, mut frames: Frames, count: usize) -> io::Result<Done> {
    // One that is not pinned itself has a pinned link.
    let open = |pin: &PathBuf| {
        let is_link = pin.components().any(|part| part.as_os_str() == "links");
        if is_link { Ok(bpf::program_of_link(pin)) } else { program::open_pin(pin) }
    };
    let programs: Vec<OwnedFd> = pins.iter().map(open).collect::<io::Result<_>>()?;
    let mut verdicts = Vec::with_capacity(count);
    for _ in 0..count {
        let step = frames.step(programs.len());
        let came_in_on = if step.forwarded { ifindex } else { 0 };
        let program = programs[step.program].as_fd();
        let answer = if is_xdp(&pins[step.program]) {
            program::test_run_xdp(program, &step.frame, 1)
        } else {
            program::test_run_from(program, &step.frame, [came_in_on, ifindex], 1)
        };
        verdicts.push(match answer {
            Ok(verdict) => verdict.to_le_bytes()[0],
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => REFUSED,
            Err(error) => return Err(error),
        });
    }
    Ok(Done { data: verdicts, ..Done::default() })
}
