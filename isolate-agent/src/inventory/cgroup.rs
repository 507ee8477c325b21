//! Pods in a cgroup tree: which directory is whose. Knows names and folders, nothing of processes or mounts.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, open, openat, statat};

use super::is_exhausted;
use crate::pod::PodUid;

/// Folders looked at in one walk; a node with 1000 pods has a few hundred above its pods.
const MAX_DIRECTORIES: usize = 1 << 16;
/// Levels below the root of a walk.
const MAX_DEPTH: usize = 16;
/// Room for a list of some hundred files: a cgroup has fewer.
const LIST_BYTES: usize = 8192;

/// The UID in the name of a pod-level directory.
///
/// The cgroupfs driver writes `pod<uid>`, the systemd driver `<any prefix>-pod<uid>.slice` with `_` for `-`. UIDs
/// are lower-case UUIDs, or 32 hex digits for a static pod. Every other name is no pod's: containers have 64 digits,
/// and what merely begins with `pod` has no UID.
pub(crate) fn uid_in_name(name: &str) -> Option<PodUid> {
    let (text, separator) = match name.strip_suffix(".slice") {
        Some(slice) => (slice.rsplit_once("-pod").filter(|(prefix, _)| !prefix.is_empty())?.1, b'_'),
        None => (name.strip_prefix("pod")?, b'-'),
    };
    let spelled = |at: usize, byte: u8| match (text.len(), at) {
        (36, 8 | 13 | 18 | 23) => byte == separator,
        (32 | 36, _) => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        _ => false,
    };
    if text.is_empty() || !text.bytes().enumerate().all(|(at, byte)| spelled(at, byte)) {
        return None;
    }
    text.parse().ok()
}

/// The UID in the last component of a path.
fn uid_of(path: &Path) -> Option<PodUid> {
    uid_in_name(path.file_name()?.to_str()?)
}

/// Shows every folder from `root` down to the pod-level ones, parents first and before their children are read.
///
/// What lies inside a pod is the pod's, a nested cluster too, so the walk ends there. Nothing else is skipped: kind
/// keeps its pods below a container's scope in `system.slice`. Errors only when `root` itself cannot be read, or when
/// the agent is out of resources: the rest of the tree is still there then.
pub(crate) fn walk(root: &Path, mut visit: impl FnMut(&Path, Option<PodUid>)) -> io::Result<()> {
    descend(root, |folder| {
        let uid = uid_of(folder.path);
        visit(folder.path, uid);
        uid.is_none()
    })
}

/// A folder that a walk has come to.
#[derive(Debug)]
pub(crate) struct Folder<'w> {
    /// Its path.
    pub(crate) path: &'w Path,
    root: &'w Path,
    top: BorrowedFd<'w>,
}

impl Folder<'_> {
    /// Opens a file in it.
    pub(crate) fn open(&self, name: &str) -> io::Result<OwnedFd> {
        self.open_at(&self.below().join(name), OFlags::empty())
    }

    /// From the root of the walk: the way from that of the file system is many steps longer, for each file.
    fn open_at(&self, below: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(openat(self.top, below, flags | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    fn below(&self) -> &Path {
        let below = self.path.strip_prefix(self.root).expect("a walk goes down from its root");
        if below.as_os_str().is_empty() { Path::new(".") } else { below }
    }
}

/// Shows `root` and the folders below it, shallow ones first; those for which `enter` is false are not entered.
///
/// Bounded in depth and number. Symbolic links are not followed, folders that vanish meanwhile are passed over.
pub(crate) fn descend(root: &Path, mut enter: impl FnMut(&Folder<'_>) -> bool) -> io::Result<()> {
    let top = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut queue = VecDeque::from([(root.to_path_buf(), 0)]);
    let mut seen = 1;
    while let Some((path, depth)) = queue.pop_front() {
        let folder = Folder { path: &path, root, top: top.as_fd() };
        if !enter(&folder) || depth == MAX_DEPTH {
            continue;
        }
        match subdirectories(&folder) {
            Ok(below) => {
                let left = MAX_DIRECTORIES - seen;
                if below.len() > left {
                    tracing::warn!(root = %root.display(), "more than {MAX_DIRECTORIES} cgroups; the rest is not read");
                }
                seen += below.len().min(left);
                queue.extend(below.into_iter().take(left).map(|path| (path, depth + 1)));
            }
            Err(error) if depth == 0 || is_exhausted(&error) => return Err(error),
            Err(error) => tracing::trace!(path = %path.display(), %error, "cgroup passed over"),
        }
    }
    Ok(())
}

fn subdirectories(folder: &Folder<'_>) -> io::Result<Vec<PathBuf>> {
    // The link count of a directory is 2 plus its sub-directories (btrfs: 1), in kernfs as well. Asking for it is far
    // cheaper than listing the control files of the many folders that have none.
    if statat(folder.top, folder.below(), AtFlags::SYMLINK_NOFOLLOW)?.st_nlink == 2 {
        return Ok(Vec::new());
    }
    let directory = folder.open_at(folder.below(), OFlags::DIRECTORY)?;
    let (mut list, mut below) = ([MaybeUninit::uninit(); LIST_BYTES], Vec::new());
    let mut entries = RawDir::new(directory, &mut list);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if entry.file_type() == FileType::Directory && name != "." && name != ".." {
            below.push(folder.path.join(name));
        }
    }
    below.sort_unstable();
    Ok(below)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use proptest::prelude::*;

    use super::*;

    const DASHED: &str = "0f0e0d0c-1234-4000-8000-0123456789ab";
    const SCORED: &str = "0f0e0d0c_1234_4000_8000_0123456789ab";
    const HASH: &str = "0f0e0d0c1234400080000123456789ab";
    const CONTAINER: &str = "4d7a1cbd0f0e0d0c1234400080000123456789ab0f0e0d0c1234400080000123";

    #[test]
    fn names_of_pods() {
        for (name, uid) in [
            // kubeadm with the systemd driver: burstable, best effort, guaranteed, a static pod.
            (format!("kubepods-burstable-pod{SCORED}.slice"), DASHED),
            (format!("kubepods-besteffort-pod{SCORED}.slice"), DASHED),
            (format!("kubepods-pod{SCORED}.slice"), DASHED),
            (format!("kubepods-burstable-pod{HASH}.slice"), HASH),
            // kind, and a kubelet with a cgroup root of its own.
            (format!("kubelet-kubepods-burstable-pod{SCORED}.slice"), DASHED),
            (format!("my-pods-kubepods-pod{SCORED}.slice"), DASHED),
            // cgroupfs driver, k3s.
            (format!("pod{DASHED}"), DASHED),
            (format!("pod{HASH}"), HASH),
        ] {
            assert_eq!(uid_in_name(&name), Some(uid.parse().expect("a UID")), "{name}");
        }
    }

    #[test]
    fn names_of_others() {
        for name in [
            "",
            "pod",
            "podfoo",
            "-pod.slice",
            "kubepods",
            "kubepods.slice",
            "kubepods-burstable.slice",
            "system.slice",
            CONTAINER,
            &format!("pod{CONTAINER}"),
            &format!("cri-containerd-{CONTAINER}.scope"),
            &format!("crio-{CONTAINER}.scope"),
            &format!("crio-conmon-{CONTAINER}.scope"),
            &format!("libpod-{CONTAINER}.scope"),
            &format!("machine-libpod_pod_{CONTAINER}.slice"),
            &format!("podman-{DASHED}"),
            &format!("podman-{HASH}.scope"),
            &format!("pod{SCORED}"),
            &format!("pod{DASHED}.scope"),
            &format!("-pod{SCORED}.slice"),
            &format!("kubepods-pod{DASHED}.slice"),
            &format!("kubepods-pod{SCORED}.slice.d"),
            &format!("pod{}", DASHED.to_uppercase()),
            &format!("pod{DASHED}0"),
            DASHED,
            HASH,
        ] {
            assert_eq!(uid_in_name(name), None, "{name}");
        }
    }

    fn found(root: &Path) -> Vec<(PodUid, PathBuf)> {
        let mut pods = Vec::new();
        walk(root, |path, uid| pods.extend(uid.map(|uid| (uid, path.to_path_buf())))).expect("the root can be read");
        pods
    }

    #[test]
    fn pods_at_every_level_and_nothing_inside_them() {
        let root = tempfile::tempdir().expect("a folder");
        let nested = format!("kubepods/burstable/pod{DASHED}/{CONTAINER}/kubepods/pod{HASH}");
        let guaranteed = format!("kubepods/pod{}", DASHED.replace("0f0e", "aaaa"));
        let kind =
            format!("system.slice/docker-{CONTAINER}.scope/kubelet.slice/kubelet-kubepods.slice/x-pod{SCORED}.slice");
        for path in [&nested, &guaranteed, &kind] {
            fs::create_dir_all(root.path().join(path)).expect("folders");
        }
        let elsewhere = tempfile::tempdir().expect("a folder");
        fs::create_dir(elsewhere.path().join(format!("pod{HASH}"))).expect("a folder");
        symlink(elsewhere.path(), root.path().join("link")).expect("a link");
        let pods: Vec<PathBuf> = found(root.path()).into_iter().map(|(_, path)| path).collect();
        let outer = root.path().join("kubepods/burstable").join(format!("pod{DASHED}"));
        assert_eq!(pods, [root.path().join(guaranteed), outer, root.path().join(kind)]);
    }

    #[test]
    fn a_root_that_is_not_there_is_an_error() {
        let root = tempfile::tempdir().expect("a folder");
        assert!(walk(&root.path().join("gone"), |_, _| ()).is_err());
    }

    proptest! {
        #[test]
        fn any_name_is_read_or_passed_over(name in "(pod|[a-z]*-pod)?\\PC*(\\.slice)?") {
            let _uid = uid_in_name(&name);
        }

        #[test]
        fn any_uid_is_found_in_any_layout(
            bytes in any::<[u8; 16]>(),
            plain in any::<bool>(),
            systemd in any::<bool>(),
            parents in prop::collection::vec("[a-z0-9]{1,12}(-[a-z]{1,8}){0,2}(\\.slice)?", 0..6),
            prefix in "[a-z]{1,12}(-[a-z]{1,12}){0,3}",
        ) {
            let uid = PodUid::new(bytes, plain);
            let name = if systemd {
                format!("{prefix}-pod{}.slice", uid.to_string().replace('-', "_"))
            } else {
                format!("pod{uid}")
            };
            let root = tempfile::tempdir().expect("a folder");
            let path = parents.iter().fold(root.path().to_path_buf(), |path, name| path.join(name)).join(name);
            fs::create_dir_all(&path).expect("folders");
            prop_assert_eq!(found(root.path()), [(uid, path)]);
        }
    }
}
