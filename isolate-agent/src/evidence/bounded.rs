//! Work that the pod can make hang: done on a thread of its own, and given up on after a while.
//!
//! Reading a process's command line or its executable waits for whoever serves its pages: a file system in user space,
//! or a userfaultfd, which may be the pod's own and never answer. Such a thread stays behind and ends with the process.

use std::{
    fs::File,
    io::{self, Read},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Threads that may be left behind before nothing of the kind is tried any more.
const MOST_STUCK: usize = 16;

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum GaveUp {
    #[error("no answer within {} ms: the pod may hold it up", .0.as_millis())]
    TooLong(Duration),
    #[error("not tried: {MOST_STUCK} attempts hang already")]
    TooMany,
    #[error("the attempt failed")]
    Failed,
}

/// Counts who hangs.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    stuck: usize,
}

impl Attempts {
    /// The result of `work`, if it comes within `patience`.
    pub(super) fn run<T: Send + 'static>(
        &mut self,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, GaveUp> {
        if self.stuck >= MOST_STUCK {
            return Err(GaveUp::TooMany);
        }
        let (sender, receiver) = mpsc::channel();
        let started = thread::Builder::new().name("evidence".to_owned()).spawn(move || {
            // Nobody may wait for it any more.
            drop(sender.send(work()));
        });
        if started.is_err() {
            return Err(GaveUp::Failed);
        }
        receiver.recv_timeout(patience).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => {
                self.stuck += 1;
                GaveUp::TooLong(patience)
            }
            mpsc::RecvTimeoutError::Disconnected => GaveUp::Failed,
        })
    }
}

/// A file that is read on a thread of its own, which also closes it. Ends early where it does not answer.
#[derive(Debug)]
pub(super) struct Patient {
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    chunk: io::Cursor<Vec<u8>>,
    patience: Duration,
    failure: Option<String>,
}

impl Patient {
    /// Bytes that are read at a time.
    const CHUNK: u64 = 256 << 10;

    /// Waits for each part of the file so long.
    pub(super) fn new(mut file: File, patience: Duration) -> io::Result<Self> {
        let (sender, chunks) = mpsc::sync_channel(1);
        thread::Builder::new().name("evidence".to_owned()).spawn(move || {
            loop {
                let mut chunk = Vec::new();
                let read = file.by_ref().take(Self::CHUNK).read_to_end(&mut chunk);
                let is_last = chunk.is_empty() || read.is_err();
                // Whoever reads may have enough.
                if sender.send(read.map(|_| chunk)).is_err() || is_last {
                    return;
                }
            }
        })?;
        Ok(Self { chunks, chunk: io::Cursor::default(), patience, failure: None })
    }

    /// Why it ended early, if it did.
    pub(super) fn failure(self) -> Option<String> {
        self.failure
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.chunk.read(buffer)?;
        if read > 0 || buffer.is_empty() || self.failure.is_some() {
            return Ok(read);
        }
        match self.chunks.recv_timeout(self.patience) {
            Ok(Ok(chunk)) => self.chunk = io::Cursor::new(chunk),
            Ok(Err(error)) => self.failure = Some(error.to_string()),
            Err(mpsc::RecvTimeoutError::Timeout) => self.failure = Some(GaveUp::TooLong(self.patience).to_string()),
            // It was at its end.
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(0),
        }
        self.chunk.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_is_read_to_its_end() {
        let mut file = tempfile::tempfile().expect("a file");
        let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_ne_bytes).collect();
        file.write_all(&bytes).and_then(|()| io::Seek::rewind(&mut file)).expect("written");
        let (mut patient, mut read) = (Patient::new(file, Duration::from_secs(30)).expect("a thread"), Vec::new());
        patient.read_to_end(&mut read).expect("read");
        assert!(read == bytes && patient.failure().is_none());
    }

    #[test]
    fn one_that_does_not_answer_ends_early() {
        let (pipe, mut writer) = io::pipe().expect("a pipe");
        writer.write_all(b"some").expect("written");
        let file = File::from(std::os::fd::OwnedFd::from(pipe));
        let mut patient = Patient::new(file, Duration::from_millis(10)).expect("a thread");
        // A chunk is handed on when it is full or the last one: nothing of this one.
        assert_eq!(patient.read(&mut [0; 8]).expect("not waited for"), 0);
        assert_eq!(patient.read(&mut [0; 8]).expect("not waited for again"), 0);
        assert!(patient.failure().expect("it was given up").contains("no answer"));
        drop(writer);
    }

    #[test]
    fn what_hangs_is_given_up_and_in_the_end_not_tried() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.run(Duration::from_secs(10), || 7), Ok(7));
        for _ in 0..MOST_STUCK {
            let patience = Duration::from_millis(1);
            assert_eq!(
                attempts.run(patience, || loop {
                    thread::park();
                }),
                Err::<(), _>(GaveUp::TooLong(patience))
            );
        }
        assert_eq!(attempts.run(Duration::from_secs(10), || 7), Err(GaveUp::TooMany));
    }
}
