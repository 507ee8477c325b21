//! inotify on the folder of pins: whether somebody removes one. What the agent itself removes wakes it as well, once.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use futures_util::StreamExt as _;
use inotify::{EventMask, EventStream, Inotify, WatchMask, Watches};

use super::Event;

const BUFFER_BYTES: usize = 4 << 10;

pub(super) struct Pins {
    stream: EventStream<Vec<u8>>,
    watches: Watches,
    folders: Vec<PathBuf>,
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pins").field("folders", &self.folders).finish_non_exhaustive()
    }
}

impl Pins {
    /// Watches the folder, those in it, and the one above.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let watches = inotify.watches();
        let stream = inotify.into_event_stream(vec![0; BUFFER_BYTES])?;
        let mut folders: Vec<PathBuf> = folder.parent().into_iter().map(Path::to_owned).collect();
        folders.push(folder.to_owned());
        folders.extend(["maps", "programs", "links", "filters"].map(|part| folder.join(part)));
        let mut pins = Self { stream, watches, folders };
        pins.watch();
        Ok(pins)
    }

    /// Watches whatever of it is there. A folder that is watched already stays so.
    pub(super) fn watch(&mut self) {
        // Not what is moved: the agent itself moves a pin over the one that it replaces.
        let mask = WatchMask::DELETE | WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR;
        for folder in &self.folders {
            if let Err(error) = self.watches.add(folder, mask) {
                tracing::debug!(folder = %folder.display(), %error, "pins not watched");
            }
        }
    }

    pub(super) async fn next(&mut self) -> io::Result<Event> {
        match self.stream.next().await {
            Some(event) if event.as_ref().is_ok_and(|event| event.mask.contains(EventMask::IGNORED)) => {
                Ok(Event::Nothing)
            }
            Some(event) => event.map(|_| Event::Pins),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
