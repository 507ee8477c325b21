//! A process in a pod: does what its stdin says, one system call a line, and answers on stdout. Ends with its stdin.
//!
//! It knows nothing of the agent, its maps or its hooks.

mod calls;
mod frames;
mod program;
mod raw;
mod ring;
mod stream;
mod xsk;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead as _, Write as _},
    os::fd::{AsFd as _, BorrowedFd},
    time::Instant,
};

use isolate_tests::{
    fuzz::Frames,
    wire::{Answer, Call, Handle, Raw, Request, Ring},
};

use crate::{
    calls::Done,
    stream::{Flood, Sink},
};

enum Object {
    Socket(socket2::Socket),
    Flood(Flood),
    Sink(Sink),
    /// A device or a link that lives until it is closed.
    File(File),
}

#[derive(Default)]
struct Objects {
    last: u32,
    all: HashMap<Handle, Object>,
    memory: Vec<u8>,
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, device] = arguments.as_slice()
        && mode == "flood"
    {
        frames::flood(device);
    }
    let mut objects = Objects::default();
    for line in io::stdin().lock().lines() {
        let request = serde_json::from_str(&line?)?;
        let answer = objects.answer(request);
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &answer)?;
        writeln!(out)?;
    }
    Ok(())
}

impl Objects {
    fn answer(&mut self, request: Request) -> Answer {
        let start = Instant::now();
        let done = self.carry_out(request);
        let elapsed = start.elapsed();
        match done {
            Ok(Done { value, data, made }) => {
                let handle = made.map(|object| self.keep(object));
                Answer { value, errno: 0, elapsed, data, handle }
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
                Answer { value: -1, errno, elapsed, data: Vec::new(), handle: None }
            }
        }
    }

    fn keep(&mut self, object: Object) -> Handle {
        self.last += 1;
        let handle = Handle(self.last);
        self.all.insert(handle, object);
        handle
    }

    fn carry_out(&mut self, request: Request) -> io::Result<Done> {
        match request {
            Request::Socket { kind, family, timeout } => calls::socket(kind, family, timeout),
            Request::Packet { device, timeout } => calls::packet(&device, timeout),
            Request::Bind(handle, address) => calls::bind(self.socket(handle)?, address),
            Request::Connect(handle, address) => calls::connect(self.socket(handle)?, address),
            Request::Accept(handle) => calls::accept(self.socket(handle)?),
            Request::Send(handle, data) => calls::send(self.socket(handle)?, &data),
            Request::SendTo(handle, address, data) => calls::send_to(self.socket(handle)?, address, &data),
            Request::Recv(handle) => calls::recv(self.socket(handle)?),
            Request::LeaveNetwork => calls::leave_network(),
            Request::HideCapabilities => calls::hide_capabilities(),
            Request::Remember(data) => {
                self.memory = data;
                Ok(Done::default())
            }
            Request::Recall => Ok(Done { data: self.memory.clone(), ..Done::default() }),
            Request::Write(path, data) => std::fs::write(path, data).map(|()| Done::default()),
            Request::Read(path) => Ok(Done { data: std::fs::read(path)?, ..Done::default() }),
            Request::Close(handle) => {
                self.all.remove(&handle);
                Ok(Done::default())
            }
            Request::Flood { to, pause } => Ok(Done::made(Object::Flood(Flood::start(to, pause)?))),
            Request::StopFlood(handle) => match self.all.remove(&handle) {
                Some(Object::Flood(flood)) => Ok(Done::value(flood.stop())),
                _ => Err(no_such()),
            },
            Request::Sink(address) => {
                let (sink, port) = Sink::start(address)?;
                Ok(Done { value: port.into(), ..Done::made(Object::Sink(sink)) })
            }
            Request::Counted(handle) => match self.all.get(&handle) {
                Some(Object::Sink(sink)) => Ok(Done::value(sink.counted())),
                _ => Err(no_such()),
            },
            Request::Raw(raw) => self.carry_out_raw(raw),
        }
    }

    fn carry_out_raw(&self, raw: Raw) -> io::Result<Done> {
        match raw {
            Raw::Open { domain, style, protocol } => raw::open(domain, style, protocol),
            Raw::Set { socket, level, name, value } => raw::set(self.socket(socket)?, level, name, &value),
            Raw::Bind(socket, address) => raw::bind(self.socket(socket)?, &address),
            Raw::Send { socket, flags, to, data } => raw::send(self.descriptor(socket)?, flags, to.as_deref(), &data),
            Raw::SendBy(socket, Call::Many, data) => raw::send_many(self.socket(socket)?, &data),
            Raw::SendBy(socket, Call::File, data) => raw::send_file(self.socket(socket)?, &data),
            Raw::SendBy(socket, Call::Splice, data) => raw::splice(self.socket(socket)?, &data),
            Raw::SendBy(socket, Call::Uring, data) => ring::uring(self.socket(socket)?, &data),
            Raw::SendThrough(Ring::Packet, device, frame) => ring::packet(&device, &frame),
            Raw::SendThrough(Ring::Xdp, device, frame) => xsk::send(&device, &frame),
            Raw::Give(socket, path) => raw::give(self.socket(socket)?, &path),
            Raw::Take(path) => raw::take(&path),
            Raw::Tun(name) => raw::tun(&name),
            Raw::Program(hook, device) => program::attach(hook, &device),
            Raw::Fuzz { programs, ifindex, seed, actors, frames } => {
                program::fuzz(&programs, ifindex, Frames::new(seed, actors), frames)
            }
        }
    }

    fn descriptor(&self, handle: Handle) -> io::Result<BorrowedFd<'_>> {
        match self.all.get(&handle) {
            Some(Object::Socket(socket)) => Ok(socket.as_fd()),
            Some(Object::File(file)) => Ok(file.as_fd()),
            _ => Err(no_such()),
        }
    }

    fn socket(&self, handle: Handle) -> io::Result<&socket2::Socket> {
        match self.all.get(&handle) {
            Some(Object::Socket(socket)) => Ok(socket),
            _ => Err(no_such()),
        }
    }
}

fn no_such() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}
