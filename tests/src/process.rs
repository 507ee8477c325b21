//! A process in a pod, told what to do over its stdin.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use crate::{
    launch,
    netns::Netns,
    wire::{Answer, Family, Handle, Kind, Request},
};

/// Names the helper program, where it does not lie beside the running one.
const PROGRAM_ENV: &str = "ISOLATE_POD_PROC";

/// A running `pod-proc`; dropping it ends it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Process {
    /// Starts one in a namespace and a cgroup.
    pub fn start(netns: &Netns, cgroup: &Path) -> Self {
        Self::spawn(launch::command(program(), netns, cgroup), Command::spawn)
    }

    /// Starts one by the command of a copy of the program.
    pub fn run(command: Command) -> Self {
        Self::spawn(command, Command::spawn)
    }

    /// Starts one as a container's first process: in a process namespace of its own, with no capabilities but a container's
    /// and these.
    pub fn in_container(netns: &Netns, cgroup: &Path, more: &'static [u32]) -> Self {
        Self::spawn(launch::container_command(program(), netns, cgroup, more), launch::spawn_as_init)
    }

    /// Starts one in a process namespace of its own behind another program, which is given its path as the last argument.
    pub fn behind(mut command: Command) -> Self {
        command.arg(program());
        Self::spawn(command, launch::spawn_as_init)
    }

    fn spawn(mut command: Command, spawn: impl FnOnce(&mut Command) -> io::Result<Child>) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(&mut command)
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", command.get_program().display()));
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Self { child, pipes: Mutex::new((stdin, stdout)) }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it do one thing and returns what came of it.
    pub fn call(&self, request: &Request) -> Answer {
        let mut line = serde_json::to_string(request).expect("a request can be written as JSON");
        line.push('\n');
        let mut pipes = self.pipes.lock().expect("no call panicked half-way");
        let (stdin, stdout) = &mut *pipes;
        stdin.write_all(line.as_bytes()).unwrap_or_else(|error| panic!("pod-proc {}: {error}", self.child.id()));
        let mut answer = String::new();
        stdout.read_line(&mut answer).expect("pod-proc writes UTF-8");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{request:?}: {error}: {answer:?}"))
    }

    /// Has it make a socket that gives up after `timeout`.
    pub fn socket(&self, kind: Kind, family: Family, timeout: Duration) -> Socket<'_> {
        self.made(&Request::Socket { kind, family, timeout }).0
    }

    /// Has it make an `AF_PACKET` socket.
    pub fn packet(&self, device: &str, timeout: Duration) -> Socket<'_> {
        self.made(&Request::Packet { device: device.to_owned(), timeout }).0
    }

    /// The same, for a process that may be refused one.
    pub fn try_packet(&self, device: &str, timeout: Duration) -> Result<Socket<'_>, Answer> {
        let answer = self.call(&Request::Packet { device: device.to_owned(), timeout });
        answer.handle.map(|handle| Socket { process: self, handle }).ok_or(answer)
    }

    /// Has it make a socket, and what it said of it.
    pub fn made(&self, request: &Request) -> (Socket<'_>, Answer) {
        let answer = self.call(request);
        let handle = answer.handle.unwrap_or_else(|| panic!("{request:?}: {}", answer.errno_name()));
        (Socket { process: self, handle }, answer)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of its stdin would end it as well; a kill does so in whatever call it blocks.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("clean-up: pod-proc {}: {error}", self.child.id());
        }
    }
}

/// A socket of a [`Process`]; dropping it closes it.
#[derive(Debug)]
pub struct Socket<'a> {
    process: &'a Process,
    handle: Handle,
}

impl<'a> Socket<'a> {
    /// Its number in the process.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Binds it (a TCP socket listens then); returns the address with the port that it got.
    pub fn bind(&self, address: SocketAddr) -> SocketAddr {
        let answer = self.process.call(&Request::Bind(self.handle, address));
        assert!(answer.is_ok(), "bind {address}: {}", answer.errno_name());
        SocketAddr::new(address.ip(), u16::try_from(answer.value).expect("a port has 16 bits"))
    }

    /// Connects it.
    pub fn connect(&self, address: SocketAddr) -> Answer {
        self.process.call(&Request::Connect(self.handle, address))
    }

    /// Accepts a connection.
    pub fn accept(&self) -> Result<Socket<'a>, Answer> {
        let answer = self.process.call(&Request::Accept(self.handle));
        answer.handle.map(|handle| Socket { process: self.process, handle }).ok_or(answer)
    }

    /// Sends.
    pub fn send(&self, data: &[u8]) -> Answer {
        self.process.call(&Request::Send(self.handle, data.to_vec()))
    }

    /// Sends to an address.
    pub fn send_to(&self, address: SocketAddr, data: &[u8]) -> Answer {
        self.process.call(&Request::SendTo(self.handle, address, data.to_vec()))
    }

    /// Receives once.
    pub fn recv(&self) -> Answer {
        self.process.call(&Request::Recv(self.handle))
    }
}

impl Drop for Socket<'_> {
    fn drop(&mut self) {
        // On a panic the process may be gone already, and a second panic would abort before anything is cleaned up.
        if !std::thread::panicking() {
            self.process.call(&Request::Close(self.handle));
        }
    }
}

/// The helper lies where cargo leaves the programs of this workspace: beside the running one, or above `deps`.
pub fn program() -> PathBuf {
    program_of("pod-proc", PROGRAM_ENV)
}

/// A helper program, where it lies or where this variable says.
pub(crate) fn program_of(name: &str, variable: &str) -> PathBuf {
    if let Some(path) = env::var_os(variable) {
        return path.into();
    }
    beside(name).unwrap_or_else(|| panic!("{name} is not built: `cargo build -p isolate-tests`, or {variable}=PATH"))
}

/// A program of this workspace that was built in the same profile as the running one.
pub(crate) fn beside(name: &str) -> Option<PathBuf> {
    let here = env::current_exe().expect("the running program has a path");
    here.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file())
}
