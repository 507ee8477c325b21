//! inotify on the cgroup tree: the folders above the pods, the pods, and whether these hold processes.

use std::{
    collections::HashMap,
    fmt, io,
    path::{Path, PathBuf},
};

use futures_util::StreamExt as _;
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};
use rustix::io::Errno;

use super::Event;
use crate::{inventory::cgroup, pod::PodUid};

const BUFFER_BYTES: usize = 16 << 10;

/// What a watch is on.
#[derive(Debug)]
enum Place {
    /// A folder above the pods.
    Above(PathBuf),
    /// A pod-level folder.
    Pod(PodUid),
    /// The `cgroup.events` of a pod, which changes when its first process comes and when its last one goes.
    Populated(PodUid),
}

/// One watch per folder above the pods and two per pod; the kernel bounds them (`fs.inotify.max_user_watches`).
pub(super) struct Tree {
    stream: EventStream<Vec<u8>>,
    watches: Watches,
    places: HashMap<WatchDescriptor, Place>,
    roots: Vec<PathBuf>,
    full: bool,
    /// Pods whose directories, containers or first processes have come since this was last emptied.
    pub(super) new: Vec<PodUid>,
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("roots", &self.roots).field("watches", &self.places.len()).finish_non_exhaustive()
    }
}

impl Tree {
    pub(super) fn new(roots: Vec<PathBuf>) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let watches = inotify.watches();
        let stream = inotify.into_event_stream(vec![0; BUFFER_BYTES])?;
        let mut tree = Self { stream, watches, places: HashMap::new(), roots, full: false, new: Vec::new() };
        tree.watch_all();
        tree.new.clear();
        Ok(tree)
    }

    pub(super) async fn next(&mut self) -> io::Result<Event> {
        match self.stream.next().await {
            Some(event) => Ok(self.take(&event?)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn take(&mut self, event: &EventOwned) -> Event {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            tracing::debug!("cgroup events were lost; all folders are watched anew");
            self.watch_all();
            return Event::Tree;
        }
        if event.mask.contains(EventMask::IGNORED) {
            self.places.remove(&event.wd);
            return Event::Nothing;
        }
        let concerns_a_pod = match (self.places.get(&event.wd), &event.name) {
            (Some(&Place::Populated(uid)), _) => self.tell(uid),
            (Some(&Place::Pod(uid)), _) if event.mask.contains(EventMask::ISDIR) => self.tell(uid),
            (Some(Place::Above(path)), Some(name)) if event.mask.contains(EventMask::CREATE) => {
                let path = path.join(name);
                self.watch(&path)
            }
            (Some(Place::Above(_)), Some(name)) => name.to_str().and_then(cgroup::uid_in_name).is_some(),
            _ => false,
        };
        if concerns_a_pod { Event::Tree } else { Event::Nothing }
    }

    fn tell(&mut self, uid: PodUid) -> bool {
        self.new.push(uid);
        true
    }

    fn watch_all(&mut self) {
        for root in self.roots.clone() {
            self.watch(&root);
        }
    }

    /// Watches `root` and what is below it, down to the pods; whether there are any.
    ///
    /// Each folder is watched before its children are read, so none that comes meanwhile is missed.
    fn watch(&mut self, root: &Path) -> bool {
        let mut pods = false;
        let folder = WatchMask::CREATE | WatchMask::DELETE | WatchMask::ONLYDIR | WatchMask::DONT_FOLLOW;
        let walked = cgroup::walk(root, |path, uid| {
            if let Some(uid) = uid {
                pods = true;
                self.new.push(uid);
                self.add(path, folder, Place::Pod(uid));
                self.add(&path.join("cgroup.events"), WatchMask::MODIFY, Place::Populated(uid));
            } else {
                self.add(path, folder, Place::Above(path.to_path_buf()));
            }
        });
        if let Err(error) = walked {
            tracing::debug!(path = %root.display(), %error, "cgroup went away before it was watched");
        }
        pods
    }

    /// A folder that is gone, or a v1 one without `cgroup.events`, needs no watch.
    fn add(&mut self, path: &Path, mask: WatchMask, place: Place) {
        match self.watches.add(path, mask) {
            Ok(watch) => {
                self.places.insert(watch, place);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOSPC) => {
                if !self.full {
                    self.full = true;
                    tracing::warn!(
                        watches = self.places.len(),
                        path = %path.display(),
                        "fs.inotify.max_user_watches is used up: pods beyond it are found by the full pass only; raise it"
                    );
                }
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "cgroup not watched"),
        }
    }
}
