//! The first process of a node with a container runtime, and the wrapper of its OCI runtime. Ends as containerd and runc.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};
use serde_json::Value;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let error = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["node", config] => node(config),
        ["oci", runtime, rest @ ..] => oci(runtime, rest),
        _ => "usage: cri-node node CONFIG | cri-node oci RUNTIME ARGUMENTS...".to_owned(),
    };
    eprintln!("cri-node: {error}");
    ExitCode::FAILURE
}

/// Becomes a node: namespaces of its own for mounts, network and cgroups, file systems as a node has them, and containerd.
/// Everything that is mounted goes with the last process of the node. Returns only if that fails.
fn node(config: &str) -> String {
    match prepare() {
        Ok(()) => Command::new("containerd").args(["--config", config]).exec().to_string(),
        Err(error) => error.to_string(),
    }
}

fn prepare() -> std::io::Result<()> {
    let namespaces = UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWCGROUP;
    // SAFETY: this process has one thread, and no descriptor of a namespace is used again.
    unsafe { unshare_unsafe(namespaces) }?;
    // First of all cut off from the machine's mounts, then a peer group of its own, as a node with systemd has one.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)?;
    // A sysfs of this network namespace.
    unmount("/sys", UnmountFlags::DETACH)?;
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None)?;
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MountFlags::empty(), None)?;
    mount("bpf", "/sys/fs/bpf", "bpf", MountFlags::empty(), None)?;
    // Where containerd, its shims, CNI and kubelet keep what they have: fixed paths, some of them.
    for place in ["/run", "/var/lib", "/var/log"] {
        mount("tmpfs", place, "tmpfs", MountFlags::empty(), None)?;
    }
    fs::create_dir("/run/netns")?;
    fs::create_dir("/sys/fs/cgroup/init")?;
    fs::write("/sys/fs/cgroup/init/cgroup.procs", "0")?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    if up.success() { Ok(()) } else { Err(std::io::Error::other("no loopback")) }
}

/// Becomes the OCI runtime, with a specification that can be had here: a container loses the limits of controllers that this
/// hierarchy does not have, and a cgroup that systemd is to make (`slice:prefix:name`) is made where systemd would.
fn oci(runtime: &str, arguments: &[&str]) -> String {
    if arguments.iter().any(|argument| matches!(*argument, "create" | "run"))
        && let Some(bundle) = bundle(arguments)
        && let Err(error) = adapt(&bundle.join("config.json"))
    {
        return format!("{}: {error}", bundle.display());
    }
    Command::new(runtime).args(arguments).exec().to_string()
}

fn bundle(arguments: &[&str]) -> Option<PathBuf> {
    let joined = arguments.iter().find_map(|argument| argument.strip_prefix("--bundle="));
    let apart = arguments.windows(2).find(|pair| matches!(pair[0], "--bundle" | "-b")).map(|pair| pair[1]);
    joined.or(apart).map(PathBuf::from)
}

fn adapt(config: &Path) -> std::io::Result<()> {
    let there = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?;
    let there: Vec<&str> = there.split_whitespace().collect();
    let mut spec: BTreeMap<String, Value> = serde_json::from_slice(&fs::read(config)?)?;
    let resources = spec.get_mut("linux").and_then(|linux| linux.get_mut("resources")).and_then(Value::as_object_mut);
    if let Some(resources) = resources {
        for (controller, limits) in [("cpu", "cpu"), ("memory", "memory"), ("pids", "pids"), ("io", "blockIO")] {
            if !there.contains(&controller) {
                resources.remove(limits);
            }
        }
        if let Some(unified) = resources.get_mut("unified").and_then(Value::as_object_mut) {
            unified.retain(|key, _| key.split('.').next().is_some_and(|controller| there.contains(&controller)));
        }
    }
    if let Some(Value::String(path)) = spec.get_mut("linux").and_then(|linux| linux.get_mut("cgroupsPath"))
        && let [slice, prefix, name] = path.split(':').collect::<Vec<_>>().as_slice()
    {
        *path = format!("{}/{prefix}-{name}.scope", slices(slice));
    }
    fs::write(config, serde_json::to_vec(&spec)?)
}

/// The folder of a slice: its name holds those of all slices above it.
fn slices(slice: &str) -> String {
    let name = slice.trim_end_matches(".slice");
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    ends.filter_map(|end| name.get(..end)).fold(String::new(), |path, part| path + &format!("/{part}.slice"))
}
