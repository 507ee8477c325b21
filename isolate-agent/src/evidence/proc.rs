//! One process, as procfs shows it. Opens nothing that the pod named: links are read, never followed.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, readlinkat, statat};
use serde::Serialize;

/// Longest file of procfs that is read; the maps of a large process are some hundred KiB.
pub(super) const MOST_BYTES: u64 = 4 << 20;
/// Open files that are listed of one process.
const MOST_FILES: usize = 16_384;
/// Bytes of `fdinfo` that are kept; position, flags and locks stand in front.
const FDINFO_BYTES: u64 = 4096;

/// A process by its directory in procfs: it stays that process's, whoever gets the id next.
#[derive(Clone, Debug)]
pub(super) struct Process {
    directory: Arc<OwnedFd>,
    pub(super) pid: i32,
}

/// What can be told without waiting for the process's own memory.
#[derive(Debug, Serialize)]
pub(super) struct Facts {
    pid: i32,
    parent: Option<i32>,
    name: String,
    state: String,
    started: Option<Timestamp>,
    /// Lines of `status`: ids, groups, capabilities, threads, seccomp.
    status: BTreeMap<String, String>,
    cgroup: String,
    /// Inode numbers, by kind.
    namespaces: BTreeMap<String, u64>,
    working_directory: Option<String>,
    root: Option<String>,
    executable: Option<Executable>,
    files: Vec<OpenFile>,
    /// More were open than are listed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more_files: bool,
}

/// What a process runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Executable {
    /// Where it was, in the process's own root.
    pub(super) path: String,
    /// No name leads to it any more: replaced, removed, or never written to a disk (memfd).
    pub(super) deleted: bool,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) bytes: u64,
}

#[derive(Debug, Serialize)]
struct OpenFile {
    number: i32,
    target: String,
    info: String,
}

/// What stands in the process's own memory.
#[derive(Debug, Serialize)]
pub(super) struct Strings {
    command: Vec<String>,
    /// Names alone, or whole.
    environment: Vec<String>,
}

impl Process {
    pub(super) fn open(pid: i32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty())?;
        Ok(Self { directory: Arc::new(directory), pid })
    }

    pub(super) fn facts(&self, boot: Timestamp) -> io::Result<Facts> {
        let stat = String::from_utf8_lossy(&self.read("stat", MOST_BYTES)?).into_owned();
        // The name may hold blanks and parentheses: the last one ends it.
        let (head, tail) = stat.rsplit_once(')').unwrap_or(("", ""));
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let (files, more_files) = self.files();
        Ok(Facts {
            pid: self.pid,
            parent: fields.get(1).and_then(|field| field.parse().ok()),
            name: text(head.split_once('(').map_or("", |(_, name)| name).as_bytes()),
            state: fields.first().map(|state| text(state.as_bytes())).unwrap_or_default(),
            started: fields.get(19).and_then(|field| field.parse().ok()).and_then(|ticks| started(boot, ticks)),
            status: self.status(),
            cgroup: self.read("cgroup", MOST_BYTES).map(|bytes| text(&bytes)).unwrap_or_default(),
            namespaces: self.namespaces(),
            working_directory: self.link("cwd"),
            root: self.link("root"),
            executable: self.executable(),
            files,
            more_files,
        })
    }

    /// Waits for the pages that hold them: whoever serves these may never answer.
    pub(super) fn strings(&self, with_values: bool) -> io::Result<Strings> {
        let parts = |bytes: Vec<u8>| -> Vec<Vec<u8>> {
            bytes.split(|byte| *byte == 0).filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
        };
        let shown = |entry: Vec<u8>| {
            let end = if with_values { None } else { entry.iter().position(|byte| *byte == b'=') };
            text(&entry[..end.unwrap_or(entry.len())])
        };
        Ok(Strings {
            command: parts(self.read("cmdline", MOST_BYTES)?).iter().map(|part| text(part)).collect(),
            environment: parts(self.read("environ", MOST_BYTES)?).into_iter().map(shown).collect(),
        })
    }

    /// What it runs; none for a kernel thread and for one that has ended.
    pub(super) fn executable(&self) -> Option<Executable> {
        let path = readlinkat(&*self.directory, "exe", Vec::new()).ok()?;
        // The link itself leads to the file, whatever is at that path by now.
        let stat = statat(&*self.directory, "exe", AtFlags::empty()).ok()?;
        Some(Executable {
            path: text(path.as_bytes()),
            deleted: stat.st_nlink == 0 || path.as_bytes().ends_with(b" (deleted)"),
            device: stat.st_dev,
            inode: stat.st_ino,
            bytes: u64::try_from(stat.st_size).unwrap_or_default(),
        })
    }

    /// The file that it runs, open for reading. Cannot be a FIFO or a device: those are not executed.
    pub(super) fn executable_file(&self) -> io::Result<File> {
        Ok(openat(&*self.directory, "exe", OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?.into())
    }

    /// A file of its directory, at most so long.
    pub(super) fn read(&self, path: &str, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file: File = openat(&*self.directory, path, flags, Mode::empty())?.into();
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Names of the plain files in a folder of its directory.
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(&*self.directory, path, flags, Mode::empty()).and_then(Dir::new);
        let entries = folder.into_iter().flatten().flatten();
        let plain = entries.filter(|entry| entry.file_type() == rustix::fs::FileType::RegularFile);
        plain.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned)).collect()
    }

    /// Inode numbers of its namespaces.
    pub(super) fn namespaces(&self) -> BTreeMap<String, u64> {
        let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
        let inode = |kind: &str| statat(&*self.directory, format!("ns/{kind}"), AtFlags::empty()).ok();
        kinds.into_iter().filter_map(|kind| Some((kind.to_owned(), inode(kind)?.st_ino))).collect()
    }

    /// Its network namespace, held open.
    pub(super) fn network_namespace(&self) -> io::Result<OwnedFd> {
        Ok(openat(&*self.directory, "ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    fn status(&self) -> BTreeMap<String, String> {
        let status = self.read("status", MOST_BYTES).unwrap_or_default();
        let lines = status.split(|byte| *byte == b'\n').filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((text(&line[..colon]), text(line[colon + 1..].trim_ascii())))
        });
        lines.collect()
    }

    fn link(&self, path: &str) -> Option<String> {
        readlinkat(&*self.directory, path, Vec::new()).ok().map(|target| text(target.as_bytes()))
    }

    fn files(&self) -> (Vec<OpenFile>, bool) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(&*self.directory, "fd", flags, Mode::empty()).and_then(Dir::new);
        let entries = folder.into_iter().flatten().flatten();
        let mut numbers = entries.filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok());
        let files = numbers.by_ref().take(MOST_FILES).map(|number: i32| OpenFile {
            number,
            target: self.link(&format!("fd/{number}")).unwrap_or_default(),
            info: self.read(&format!("fdinfo/{number}"), FDINFO_BYTES).map(|bytes| text(&bytes)).unwrap_or_default(),
        });
        let files = files.collect();
        (files, numbers.next().is_some())
    }
}

/// Text in which every byte that is not plain ASCII, and the backslash, is escaped: nothing is lost, and nothing in it
/// steers a terminal.
pub(super) fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// When the machine started, by the wall clock of now.
pub(super) fn boot_time() -> io::Result<Timestamp> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
    Timestamp::from_second(seconds.ok_or(io::ErrorKind::InvalidData)?).map_err(io::Error::other)
}

fn started(boot: Timestamp, ticks: i64) -> Option<Timestamp> {
    let per_second = i64::try_from(rustix::param::clock_ticks_per_second()).ok().filter(|ticks| *ticks > 0)?;
    let millis = ticks.checked_mul(1000)? / per_second;
    boot.checked_add(SignedDuration::from_millis(millis)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_read() {
        let pid = i32::try_from(std::process::id()).expect("a process id");
        let process = Process::open(pid).expect("it runs");
        let facts = process.facts(boot_time().expect("read")).expect("read");
        let age = Timestamp::now().as_second() - facts.started.expect("it has a start").as_second();
        assert!((-2..3600).contains(&age), "{age}");
        assert!(facts.files.iter().any(|file| file.number == 0));
        assert!(facts.status.contains_key("CapEff") && facts.namespaces.contains_key("net"));
        assert!(!facts.executable.expect("it runs something").deleted);
        let strings = process.strings(false).expect("read");
        assert!(!strings.command.is_empty());
        assert!(strings.environment.iter().all(|name| !name.contains('=')), "a value stands there");
        assert!(strings.environment.iter().any(|name| name == "PATH"));
    }

    #[test]
    fn text_loses_nothing_and_steers_nothing() {
        assert_eq!(text(b"a\x1b[31m\\\xff\n"), "a\\x1b[31m\\\\\\xff\\n");
    }
}
