//! A file system that stops answering when it is told to: a server of the kernel's own FUSE protocol
//! (`include/uapi/linux/fuse.h`), with one program in it and files that others make.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

/// The largest request: some of a file, and its head.
const REQUEST: usize = 256 << 10;
const MOST_WRITTEN: u32 = 64 << 10;
const TURN: Duration = Duration::from_millis(10);
/// Of a request: its length, what it asks, its number, of which file; the rest of its head is passed over.
const HEAD: usize = 40;

const ROOT: u64 = 1;
const PROGRAM: u64 = 2;
const NAME: &str = "program";

/// The mounted file system. Dropping it answers whoever waits with an error, and unmounts it.
#[derive(Debug)]
pub struct Fuse {
    folder: PathBuf,
    server: Arc<Server>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Server {
    device: File,
    files: Mutex<BTreeMap<u64, (String, Vec<u8>)>>,
    holding: AtomicBool,
    stop: AtomicBool,
    held: Mutex<Vec<Vec<u8>>>,
}

impl Fuse {
    /// Mounts one at a folder, which is made, with a program of these bytes in it.
    pub fn mount(folder: &Path, program: &[u8]) -> Self {
        std::fs::create_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let device: File = rustix::fs::open("/dev/fuse", flags, Mode::empty()).expect("the kernel has FUSE").into();
        let options = format!("fd={},rootmode=40755,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let options = std::ffi::CString::new(options).expect("no zero in it");
        mount("isolate-test", folder, "fuse", MountFlags::empty(), Some(options.as_c_str())).expect("root may mount");
        let server = Arc::new(Server {
            device,
            files: Mutex::new([(PROGRAM, (NAME.to_owned(), program.to_vec()))].into()),
            holding: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            held: Mutex::default(),
        });
        let shared = Arc::clone(&server);
        Self { folder: folder.to_owned(), server, thread: Some(thread::spawn(move || shared.serve())) }
    }

    /// The program in it.
    pub fn program(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// From now on it takes requests and answers none.
    pub fn hold(&self) {
        self.server.holding.store(true, Ordering::SeqCst);
    }

    /// Answers everything again, what it has held too.
    pub fn release(&self) {
        self.server.holding.store(false, Ordering::SeqCst);
    }

    /// How many requests it holds.
    pub fn held(&self) -> usize {
        self.server.held.lock().expect("nobody panics while counting").len()
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.release();
        if let Err(error) = unmount(&self.folder, UnmountFlags::DETACH) {
            eprintln!("clean-up: {}: {error}", self.folder.display());
        }
        self.server.stop.store(true, Ordering::SeqCst);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("clean-up: a file system's server panicked");
        }
        drop(std::fs::remove_dir(&self.folder));
    }
}

/// A number in a request.
fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk().copied()).unwrap_or([0; N])
}

impl Server {
    fn serve(&self) {
        let mut buffer = vec![0; REQUEST];
        while !self.stop.load(Ordering::SeqCst) {
            if !self.holding.load(Ordering::SeqCst) {
                let held = std::mem::take(&mut *self.held.lock().expect("nobody panics while counting"));
                for request in &held {
                    self.answer(request);
                }
            }
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(TURN.subsec_nanos()) };
            let mut ready = [PollFd::new(&self.device, PollFlags::IN)];
            if !poll(&mut ready, Some(&timeout)).is_ok_and(|ready| ready > 0) {
                continue;
            }
            match (&self.device).read(&mut buffer) {
                Ok(length) => self.take(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It was unmounted.
                Err(_) => return,
            }
        }
    }

    fn take(&self, request: &[u8]) {
        const FORGET: u32 = 2;
        const INTERRUPT: u32 = 36;
        const DESTROY: u32 = 38;
        const BATCH_FORGET: u32 = 42;
        match u32::from_ne_bytes(word(request, 4)) {
            // Nobody waits for an answer.
            FORGET | INTERRUPT | DESTROY | BATCH_FORGET => {}
            _ if self.holding.load(Ordering::SeqCst) => {
                self.held.lock().expect("nobody panics while counting").push(request.to_vec());
            }
            _ => self.answer(request),
        }
    }

    fn answer(&self, request: &[u8]) {
        let answer = self.outcome(request);
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(errno) => (-errno, Vec::new()),
        };
        let length = u32::try_from(16 + body.len()).expect("a request is answered with less");
        let unique: [u8; 8] = word(request, 8);
        let answer = [&length.to_ne_bytes()[..], &error.to_ne_bytes(), &unique, &body].concat();
        // Whoever asked may be gone.
        drop((&self.device).write_all(&answer));
    }

    fn outcome(&self, request: &[u8]) -> Result<Vec<u8>, i32> {
        let (file, body) = (u64::from_ne_bytes(word(request, 16)), request.get(HEAD..).unwrap_or_default());
        let mut files = self.files.lock().expect("nobody panics while answering");
        match u32::from_ne_bytes(word(request, 4)) {
            // LOOKUP
            1 => {
                let name = text(body);
                let (number, (_, bytes)) = files.iter().find(|(_, (known, _))| *known == name).ok_or(libc::ENOENT)?;
                Ok(entry(*number, bytes.len()))
            }
            // GETATTR, SETATTR
            3 | 4 => {
                let bytes = files.get(&file).map_or(0, |(_, bytes)| bytes.len());
                Ok([&[0; 16][..], &attributes(file, bytes)].concat())
            }
            // OPEN, OPENDIR
            14 | 27 => Ok(vec![0; 16]),
            // READ
            15 => {
                let from = usize::try_from(u64::from_ne_bytes(word(body, 8))).unwrap_or(usize::MAX);
                let most = usize::try_from(u32::from_ne_bytes(word(body, 16))).unwrap_or(0);
                let (_, bytes) = files.get(&file).ok_or(libc::ENOENT)?;
                let rest = bytes.get(from..).unwrap_or_default();
                Ok(rest[..rest.len().min(most)].to_vec())
            }
            // WRITE
            16 => {
                let at = usize::try_from(u64::from_ne_bytes(word(body, 8))).map_err(|_too_large| libc::EFBIG)?;
                let data = body.get(40..).unwrap_or_default();
                let (_, bytes) = files.get_mut(&file).ok_or(libc::ENOENT)?;
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[at..at + data.len()].copy_from_slice(data);
                let written = u32::try_from(data.len()).unwrap_or(0);
                Ok([written.to_ne_bytes(), [0; 4]].concat())
            }
            // STATFS, READDIR, RELEASE, FSYNC, FLUSH, RELEASEDIR
            17 => Ok(vec![0; 80]),
            28 | 18 | 20 | 25 | 29 => Ok(Vec::new()),
            // INIT: version 7.31, and how much may be written at once
            26 => {
                let numbers = [7_u32, 31, 0, 0, 0, MOST_WRITTEN, 1];
                let mut answer: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
                answer.resize(64, 0);
                Ok(answer)
            }
            // CREATE
            35 => {
                let number = files.keys().max().expect("the program is there") + 1;
                files.insert(number, (text(body.get(16..).unwrap_or_default()), Vec::new()));
                Ok([entry(number, 0), vec![0; 16]].concat())
            }
            _ => Err(libc::ENOSYS),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// `struct fuse_attr`: for ever new, so that each question is asked again.
fn attributes(number: u64, length: usize) -> Vec<u8> {
    let (kind, links) = if number == ROOT { (libc::S_IFDIR, 2) } else { (libc::S_IFREG, 1) };
    let length = length as u64;
    let mut bytes: Vec<u8> =
        [number, length, length.div_ceil(512), 0, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
    let mode = kind | 0o755;
    bytes.extend([0, 0, 0, mode, links, 0, 0, 0, 4096, 0_u32].iter().flat_map(|n| n.to_ne_bytes()));
    bytes
}

/// `struct fuse_entry_out`.
fn entry(number: u64, length: usize) -> Vec<u8> {
    let head: Vec<u8> = [number, 0, 0, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
    [head, attributes(number, length)].concat()
}
