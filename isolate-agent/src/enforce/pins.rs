//! The folder of pins: where it is, that it is on a BPF file system, what is in it.

use std::{
    ffi::OsStr,
    fs, io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use isolate_common::LAYOUT_VERSION;
use rustix::{fs::statfs, mount};

use super::{EnforceError, Mended, pin::unpin, sys};

/// Where systemd and every distribution mount the BPF file system.
const USUAL_MOUNT: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC`, include/uapi/linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// What is in the folder of pins.
const PARTS: [&str; 4] = ["maps", "programs", "links", "filters"];

/// The folder of this layout's pins below `bpffs`, on a BPF file system, which is mounted if there is none.
///
/// The folder itself may not exist yet; its parent does.
pub(super) fn folder(bpffs: &Path) -> Result<PathBuf, EnforceError> {
    let failed = |source| EnforceError::Bpffs { path: bpffs.to_owned(), source };
    if !is_bpffs(nearest(bpffs)).map_err(failed)? {
        let target = if bpffs.starts_with(USUAL_MOUNT) { Path::new(USUAL_MOUNT) } else { bpffs };
        fs::create_dir_all(target).map_err(failed)?;
        mount::mount("bpf", target, "bpf", mount::MountFlags::NOSUID | mount::MountFlags::NODEV, c"mode=0700")
            .map_err(|errno| failed(errno.into()))?;
        tracing::warn!(target = %target.display(), "no BPF file system there: mounted one");
    }
    fs::create_dir_all(bpffs).map_err(failed)?;
    Ok(bpffs.join(format!("v{LAYOUT_VERSION}")))
}

/// The folders of older layouts, oldest first. Errors when there is one that is newer.
pub(super) fn older(bpffs: &Path) -> Result<Vec<PathBuf>, EnforceError> {
    let failed = |source| EnforceError::Pin { step: "read", path: bpffs.to_owned(), source };
    let mut layouts = Vec::new();
    for entry in fs::read_dir(bpffs).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        layouts.extend(
            name.strip_prefix('v').and_then(|version| version.parse::<u32>().ok()).map(|version| (version, path)),
        );
    }
    layouts.sort();
    match layouts.pop_if(|(version, _)| *version > LAYOUT_VERSION) {
        Some((_, path)) => Err(EnforceError::Newer { path }),
        None => {
            Ok(layouts.into_iter().filter(|(version, _)| *version < LAYOUT_VERSION).map(|(_, path)| path).collect())
        }
    }
}

/// Whether this layout's pins have been made.
pub(super) fn exists(folder: &Path) -> bool {
    folder.join("maps").is_dir()
}

/// The pin of a map.
pub(super) fn map(folder: &Path, name: &str) -> PathBuf {
    folder.join("maps").join(name)
}

/// The pin of a program.
pub(super) fn program(folder: &Path, name: &str) -> PathBuf {
    folder.join("programs").join(name)
}

/// The folder of the links' pins.
pub(super) fn links(folder: &Path) -> PathBuf {
    folder.join("links")
}

/// The folder of the pins of programs that filters inside pods hold.
pub(super) fn filters(folder: &Path) -> PathBuf {
    folder.join("filters")
}

/// Makes the folders that are missing.
pub(super) fn make_folders(folder: &Path) -> Result<(), EnforceError> {
    for part in PARTS {
        let path = folder.join(part);
        fs::create_dir_all(&path).map_err(|source| EnforceError::Pin { step: "make", path, source })?;
    }
    Ok(())
}

/// Removes a folder of pins. What they led to goes with the last that holds it.
pub(super) fn remove(folder: &Path) -> Result<(), EnforceError> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(EnforceError::Pin { step: "remove", path: folder.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Pins what was pinned there before; whatever is there now gives way.
pub(super) fn again(object: BorrowedFd<'_>, path: PathBuf) -> Result<Mended, EnforceError> {
    match unpin(&path).and_then(|()| sys::obj_pin(object, &path)) {
        Ok(()) => Ok(Mended { hook: None, slot: None, pin: path }),
        Err(source) => Err(EnforceError::Pin { step: "make", path, source }),
    }
}

/// The path itself or its closest ancestor that exists.
fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or_else(|| Path::new("/"))
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    let magic = statfs(path)?.f_type;
    Ok(u64::try_from(magic).is_ok_and(|magic| magic == BPF_FS_MAGIC) || magic.cast_unsigned() == BPF_FS_MAGIC)
}
