//! Network namespaces with a name, as `ip netns` keeps them.

use std::{
    fs::File,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{launch, name};

/// Where `ip netns` keeps its names.
pub const FOLDER: &str = "/run/netns";

/// A network namespace that lives until this value is dropped (and until its last process ends).
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// A new one, with its loopback up and ready addresses (no duplicate address detection).
    pub fn new() -> Self {
        let name = name::unique();
        launch::succeed(Command::new("ip").args(["netns", "add", &name]));
        let file = File::open(Path::new(FOLDER).join(&name)).expect("ip netns leaves a file of this name");
        let netns = Self { name, file };
        for conf in ["all", "default", "lo"] {
            netns.sysctl(&format!("net/ipv6/conf/{conf}/accept_dad"), "0");
            netns.sysctl(&format!("net/ipv6/conf/{conf}/disable_ipv6"), "0");
        }
        launch::succeed(Command::new("ip").args(["-n", &netns.name, "link", "set", "lo", "up"]));
        netns
    }

    /// The one that a process lives in, under a name of its own. It is kept alive by it.
    pub fn of_process(pid: u32) -> Self {
        let name = name::unique();
        launch::succeed(Command::new("ip").args(["netns", "attach", &name, &pid.to_string()]));
        let file = File::open(Path::new(FOLDER).join(&name)).expect("ip netns leaves a file of this name");
        Self { name, file }
    }

    /// Its name for `ip -n`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A file that stands for it.
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// The open namespace.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Runs `inside` on a thread of its own that lives in the namespace. Sockets made there stay there.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root may enter a network namespace");
                inside()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Sets a variable below `/proc/sys` that belongs to the namespace.
    pub fn sysctl(&self, variable: &str, value: &str) {
        let path = Path::new("/proc/sys").join(variable);
        self.enter(|| std::fs::write(&path, value)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Takes the name away; the namespace ends with its last process. Says so on stderr when that fails: the residue check
/// is what makes a test fail.
pub(crate) fn remove(name: &str) {
    launch::try_to(Command::new("ip").args(["netns", "del", name]));
}
