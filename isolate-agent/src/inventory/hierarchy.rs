//! The cgroup hierarchies of the node: where they are mounted, and how deep the mount's root lies.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::InventoryError;

const MOUNTS: &str = "/proc/self/mountinfo";
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
const CGROUP_SUPER_MAGIC: u64 = 0x0027_e0eb;
/// Inode number of the root of a kernfs tree; a bind mount or a cgroup namespace shows another one as its root.
const KERNFS_ROOT: u64 = 1;

/// Where cgroups are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// The unified hierarchy.
    pub(crate) unified: Option<Unified>,
    /// The v1 hierarchies, beside it or instead of it.
    pub(crate) v1: Vec<PathBuf>,
}

/// A folder of the unified hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unified {
    pub(crate) path: PathBuf,
    /// Its depth below the root of the hierarchy, where that can be seen.
    pub(crate) depth: Option<u32>,
}

impl Hierarchies {
    /// Those below `root`, or all that are mounted.
    pub(crate) fn find(root: Option<&Path>) -> Result<Self, InventoryError> {
        let mounts = fs::read_to_string(MOUNTS).map_err(|source| read_error(Path::new(MOUNTS), source))?;
        let mut mounts = parse_mounts(&mounts);
        if let Some(root) = root {
            let root = root.canonicalize().map_err(|source| read_error(root, source))?;
            match magic(&root).map_err(|source| read_error(&root, source))? {
                CGROUP2_SUPER_MAGIC => return Ok(Self { unified: Some(Unified::at(root)?), v1: Vec::new() }),
                CGROUP_SUPER_MAGIC => return Ok(Self { unified: None, v1: vec![root] }),
                _ => mounts.retain(|mount| mount.path.starts_with(&root)),
            }
            if mounts.is_empty() {
                return Err(InventoryError::NotCgroup { path: root });
            }
        }
        Self::of(mounts)
    }

    fn of(mounts: Vec<Mount>) -> Result<Self, InventoryError> {
        let (unified, v1): (Vec<_>, Vec<_>) = mounts.into_iter().partition(|mount| mount.unified);
        let unified = unified.into_iter().filter_map(|mount| Unified::at(mount.path).ok());
        // A mount of the whole hierarchy is worth more than one of a part; the later one lies on top.
        let unified = unified.max_by_key(|unified| unified.depth.is_some());
        let v1: Vec<_> = v1.into_iter().map(|mount| mount.path).collect();
        if unified.is_none() && v1.is_empty() {
            return Err(InventoryError::NoHierarchy);
        }
        Ok(Self { unified, v1 })
    }

    /// The folders to look for pods in, the unified one first.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Path> {
        self.unified.iter().map(|unified| unified.path.as_path()).chain(self.v1.iter().map(PathBuf::as_path))
    }
}

impl Unified {
    fn at(path: PathBuf) -> Result<Self, InventoryError> {
        let depth = depth(&path).map_err(|source| read_error(&path, source))?;
        Ok(Self { path, depth })
    }

    /// The root of the hierarchy, or the folder nearest to it that is mounted.
    pub(crate) fn root(&self) -> &Path {
        let steps = self.depth.and_then(|depth| usize::try_from(depth).ok()).unwrap_or_default();
        self.path.ancestors().nth(steps).unwrap_or(&self.path)
    }

    /// The level of a folder below this one.
    pub(super) fn level(&self, path: &Path) -> Option<u32> {
        let below = path.strip_prefix(&self.path).ok()?.components().count();
        Some(self.depth? + u32::try_from(below).ok()?)
    }
}

/// Steps from `path` up to the root of its hierarchy; `None` where the mount ends below that root.
fn depth(path: &Path) -> io::Result<Option<u32>> {
    let mut here = fs::metadata(path)?;
    let device = here.dev();
    let mut steps = 0;
    for parent in path.ancestors().skip(1) {
        let above = fs::metadata(parent)?;
        if above.dev() != device {
            break;
        }
        here = above;
        steps += 1;
    }
    Ok((here.ino() == KERNFS_ROOT).then_some(steps))
}

fn magic(path: &Path) -> io::Result<u64> {
    let magic = rustix::fs::statfs(path)?.f_type;
    Ok(u64::try_from(magic).unwrap_or_default())
}

fn read_error(path: &Path, source: io::Error) -> InventoryError {
    InventoryError::Read { path: path.to_path_buf(), source }
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    path: PathBuf,
    unified: bool,
}

/// The cgroup mounts in a `mountinfo` (`proc_pid_mountinfo(5)`: optional fields end with ` - `).
fn parse_mounts(text: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let unified = match filesystem.split(' ').next()? {
            "cgroup2" => true,
            "cgroup" => false,
            _ => return None,
        };
        Some(Mount { path: PathBuf::from(unescape(mount.split(' ').nth(4)?)), unified })
    };
    text.lines().filter_map(parse).collect()
}

/// Blanks stand as octal escapes in there.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(field.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_all_three_layouts() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      39 31 0:36 / /sys/fs/cgroup/pids rw shared:9 master:2 - cgroup cgroup rw,pids\n\
                      41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw\n\
                      garbage\n";
        let expected = [
            Mount { path: "/sys/fs/cgroup/pids".into(), unified: false },
            Mount { path: "/sys/fs/cgroup/uni fied".into(), unified: true },
        ];
        assert_eq!(parse_mounts(hybrid), expected);
        assert_eq!(parse_mounts("41 31 0:38 /../.. /sys/fs/cgroup rw shared:4 - cgroup2 cgroup rw").len(), 1);
        assert_eq!(parse_mounts(""), []);
    }

    #[test]
    fn no_mount_is_said() {
        assert!(matches!(Hierarchies::of(Vec::new()), Err(InventoryError::NoHierarchy)));
    }

    #[test]
    fn a_folder_elsewhere_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(matches!(Hierarchies::find(Some(folder.path())), Err(InventoryError::NotCgroup { .. })));
        let gone = folder.path().join("gone");
        assert!(matches!(Hierarchies::find(Some(&gone)), Err(InventoryError::Read { .. })));
    }

    #[test]
    fn levels_count_from_the_root_of_the_hierarchy() {
        let unified = Unified { path: "/sys/fs/cgroup/kubelet".into(), depth: Some(1) };
        assert_eq!(unified.level(Path::new("/sys/fs/cgroup/kubelet/kubepods/podx")), Some(3));
        assert_eq!(unified.level(Path::new("/elsewhere")), None);
        let part = Unified { depth: None, ..unified };
        assert_eq!(part.level(Path::new("/sys/fs/cgroup/kubelet/kubepods/podx")), None);
    }
}
