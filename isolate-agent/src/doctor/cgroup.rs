//! Which cgroup hierarchies there are, and in which of them the pods live.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::fs::statfs;

use super::{Finding, mounts::Mount};
use crate::settings::Settings;

const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
/// Where kubelet puts its cgroups: `kubepods`, `kubepods.slice`, below a parent such as `kubelet.slice` in kind.
const POD_CGROUPS: &str = "kubepods";
/// How deep to look for them.
const DEPTH: u32 = 4;
const MISSING_HOOK: &str =
    "the cgroup hook is missing: pods are cut at their veths only, hostNetwork pods not at all, loopback stays open";
const BOOT_V2: &str = "boot with systemd.unified_cgroup_hierarchy=1 (cgroup v2)";

pub(super) fn examine(settings: &Settings, mounts: &[Mount]) -> Vec<Finding> {
    let v1: Vec<&Mount> = mounts.iter().filter(|mount| mount.kind == "cgroup").collect();
    let unified = settings
        .cgroup_root
        .clone()
        .or_else(|| mounts.iter().find(|mount| mount.kind == "cgroup2").map(|mount| mount.point.clone()));
    let Some(unified) = unified else {
        let value = if v1.is_empty() { "no hierarchy mounted" } else { "v1" };
        return vec![Finding::warn("cgroup-version", value, MISSING_HOOK, BOOT_V2)];
    };
    if !statfs(&unified).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(CGROUP2_SUPER_MAGIC)) {
        return vec![Finding::fail(
            "cgroup-version",
            format!("{} is no cgroup v2 hierarchy", unified.display()),
            "pods are looked for in the wrong place",
            "correct --cgroup-root, or leave it out",
        )];
    }
    let at = unified.display();
    let version = if v1.is_empty() {
        Finding::ok("cgroup-version", format!("v2 at {at}"), "the cgroup hook covers every pod")
    } else {
        Finding::ok(
            "cgroup-version",
            format!("hybrid, v2 at {at}"),
            "the cgroup hook covers the pods that are in the v2 hierarchy",
        )
    };
    vec![version, pods(&unified, &v1)]
}

fn pods(unified: &Path, v1: &[&Mount]) -> Finding {
    const NAME: &str = "pod-cgroups";
    if let Some(found) = find(unified, DEPTH) {
        return Finding::ok(NAME, found.display().to_string(), "pods are found here, and the cgroup hook holds them");
    }
    match v1.iter().find_map(|mount| find(&mount.point, DEPTH)) {
        Some(found) => Finding::warn(NAME, format!("only in v1: {}", found.display()), MISSING_HOOK, BOOT_V2),
        None => Finding::warn(
            NAME,
            "none",
            "no pod has run on this node yet, or kubelet keeps its cgroups elsewhere",
            "if pods do run: set --cgroup-root to the hierarchy that holds them",
        ),
    }
}

/// The first directory at most `depth` levels down that holds pods.
fn find(folder: &Path, depth: u32) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    let folders: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    let holds_pods = |path: &&PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.contains(POD_CGROUPS))
    };
    let here = folders.iter().find(holds_pods).cloned();
    here.or_else(|| (depth > 1).then(|| folders.iter().find_map(|path| find(path, depth - 1))).flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_pods_below_any_parent_but_not_for_ever() {
        let root = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(find(root.path(), DEPTH), None);
        let deep = root.path().join("a/b/c/d/kubepods");
        fs::create_dir_all(&deep).expect("made");
        assert_eq!(find(root.path(), DEPTH), None);
        let kind = root.path().join("kubelet.slice/kubelet-kubepods.slice");
        fs::create_dir_all(&kind).expect("made");
        assert_eq!(find(root.path(), DEPTH), Some(kind));
    }
}
