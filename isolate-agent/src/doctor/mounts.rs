//! The mounts that this process sees.

use std::{fs, path::PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) point: PathBuf,
    pub(super) kind: String,
}

/// All mounts; none where /proc is not there.
pub(super) fn read() -> Vec<Mount> {
    fs::read_to_string("/proc/self/mountinfo").map_or_else(|_absent| Vec::new(), |text| parse(&text))
}

/// See `proc_pid_mountinfo(5)`: the type stands after a lone dash, since optional fields come before it.
fn parse(mountinfo: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let point = PathBuf::from(unescape(before.split(' ').nth(4)?));
        Some(Mount { point, kind: after.split(' ').next()?.to_owned() })
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// The kernel writes blank, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let text = "36 35 98:0 / /sys/fs/cgroup rw,noatime shared:9 master:1 - cgroup2 cgroup2 rw\n\
                    37 35 0:33 / /a\\040b rw - bpf bpf rw,mode=700\nnonsense\n";
        let mount = |point: &str, kind: &str| Mount { point: point.into(), kind: kind.to_owned() };
        assert_eq!(parse(text), [mount("/sys/fs/cgroup", "cgroup2"), mount("/a b", "bpf")]);
    }
}
