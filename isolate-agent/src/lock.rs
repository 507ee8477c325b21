//! The lock that whoever changes the node's isolations holds: the daemon for ever, a command for as long as it takes.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

/// How long a command waits for others that are at work.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(10);

/// Why the lock was not had.
#[derive(Debug, Error)]
pub enum LockError {
    /// It cannot be opened.
    #[error("cannot open the lock {path}: {source}; run as root, or set --run-dir")]
    Open {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else keeps it.
    #[error(
        "process {holder} holds the lock {path} and has not let go of it within {} s. What is isolated stays isolated. \
         If it is an agent that does not answer, end it (`kill -9 {holder}`: this releases no pod) and run this again",
        PATIENCE.as_secs()
    )]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Process id of the holder, or `?`.
        holder: String,
    },
}

/// Held until dropped, or until the process ends however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, after others if need be.
    pub async fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Open { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut options = File::options();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => tokio::time::sleep(RETRY).await,
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(LockError::Held { path: path.to_owned(), holder: holder(&mut file) });
                }
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        // Who holds it is for whoever waits; a full run folder must keep no pod from being isolated.
        if let Err(error) = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())) {
            tracing::warn!(%error, path = %path.display(), "cannot note who holds the lock");
        }
        Ok(Self { _file: file })
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    match read {
        Ok(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => text,
        _ => "?".to_owned(),
    }
}
