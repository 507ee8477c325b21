//! The socket as a file: made for root alone, never taken from a live daemon, removed when its owner ends.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::{
        fd::AsFd,
        unix::{
            fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
            net as std_net,
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::Mode,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use thiserror::Error;
use tokio::net::UnixListener;

use crate::settings::Settings;

/// Connections that the kernel keeps for a daemon that is busy.
const BACKLOG: i32 = 128;

/// Why there is no control socket.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Its folder cannot be made or looked at.
    #[error("cannot make the folder {} for the control socket", path.display())]
    RunDir {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody other than root could put another socket in its place.
    #[error(
        "{} belongs to uid {owner} with mode {mode:03o}: others could replace the control socket in it; \
         make it root's with mode 755, or set another run_dir",
        path.display()
    )]
    UnsafeRunDir {
        /// The folder.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// The file that keeps two daemons apart cannot be locked.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A daemon is there.
    #[error("another daemon answers on {}: stop it first, or set another run_dir", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something is in the way that this agent did not make.
    #[error("{} is not a socket: it was left alone; move it away, or set another run_dir", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The socket that a dead daemon left cannot be removed.
    #[error("cannot remove the socket of a dead daemon, {}", path.display())]
    RemoveStale {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be made.
    #[error("cannot listen on {} (a socket's path has at most 107 bytes)", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The control socket and the right to it.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: UnixListener,
    path: PathBuf,
    /// Held as long as the socket is there.
    _lock: File,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the control socket's file stays behind");
        }
    }
}

/// Makes the control socket. Must run inside a tokio runtime.
///
/// The socket has mode 0600 from the moment it exists. One that a dead daemon left is replaced; one that somebody
/// listens on is an error.
pub fn bind(settings: &Settings) -> Result<Listener, ControlError> {
    prepare_run_dir(&settings.run_dir)?;
    let path = settings.socket();
    let lock = lock(&path)?;
    remove_stale(&path)?;
    let socket = listen(&path).map_err(|source| ControlError::Bind { path: path.clone(), source })?;
    Ok(Listener { socket, path, _lock: lock })
}

fn prepare_run_dir(path: &Path) -> Result<(), ControlError> {
    let io_error = |source| ControlError::RunDir { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(io_error)?;
    let metadata = fs::metadata(path).map_err(io_error)?;
    let (owner, mode) = (metadata.uid(), metadata.permissions().mode() & 0o7777);
    if owner != rustix::process::geteuid().as_raw() || mode & 0o022 != 0 {
        return Err(ControlError::UnsafeRunDir { path: path.to_owned(), owner, mode });
    }
    Ok(())
}

/// The kernel drops this lock with its holder, so that finding a stale socket and replacing it is one step.
fn lock(socket: &Path) -> Result<File, ControlError> {
    let path = socket.with_extension("sock.lock");
    let file = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|source| ControlError::Lock { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ControlError::InUse { path: socket.to_owned() }),
        Err(TryLockError::Error(source)) => Err(ControlError::Lock { path, source }),
    }
}

fn remove_stale(path: &Path) -> Result<(), ControlError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ControlError::RemoveStale { path: path.to_owned(), source }),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ControlError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match std_net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing the control socket of a daemon that is gone");
            fs::remove_file(path).map_err(|source| ControlError::RemoveStale { path: path.to_owned(), source })
        }
        // A connection, or a backlog so full that none is taken: somebody listens.
        _ => Err(ControlError::InUse { path: path.to_owned() }),
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // bind(2) creates the file with the mode of the socket's own inode (unix_bind_bsd in net/unix/af_unix.c), so
    // there is no moment at which others may connect, and no need to change the umask of the whole process.
    rustix::fs::fchmod(socket.as_fd(), Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(std_net::UnixListener::from(socket))
}
