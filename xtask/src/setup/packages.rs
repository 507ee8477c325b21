//! Debian packages: the one list of what the workspace needs from the system, and how it gets there.

use std::{fs, os::unix, path::Path, process::Command, sync::OnceLock};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    setup::{Need, is_root},
    step,
    workspace::Workspace,
};

/// A package of Debian 12, or what another system calls it.
struct Package {
    name: &'static str,
    sign: Sign,
    needs: &'static [Need],
    reason: &'static str,
    place: Place,
}

/// What shows that a package, or its like, is there.
enum Sign {
    Command(&'static str),
    File(&'static str),
    /// A file below the tools folder: one of that name elsewhere is not the same.
    Unpacked(&'static str),
}

/// Where a package goes.
#[derive(PartialEq, Eq)]
enum Place {
    /// Into the system.
    System,
    /// Below the target folder, unpacked and not installed, because its installation would start a service or take the
    /// place of another package.
    Unpacked,
}

/// LLVM's newest release line in Debian 12, and so the one that bpf-linker is built with.
pub(crate) const LLVM_MAJOR: u32 = 22;

const PACKAGES: &[Package] = &[
    Package {
        name: "rustc-web",
        sign: Sign::File("/usr/bin/rustc"),
        needs: &[Need::BpfCompiler],
        reason: "a compiler of the same LLVM as Debian's llvm-22",
        place: Place::System,
    },
    Package {
        name: "rust-web-src",
        sign: Sign::File("/usr/lib/rustlib/src/rust/library/Cargo.lock"),
        needs: &[Need::BpfCompiler],
        reason: "the source of core, which is built for the BPF target",
        place: Place::System,
    },
    Package {
        name: "cargo-web",
        sign: Sign::File("/usr/bin/cargo"),
        needs: &[Need::BpfCompiler],
        reason: "the cargo of that compiler",
        place: Place::System,
    },
    Package {
        name: "llvm-22-dev",
        sign: Sign::File("/usr/lib/llvm-22/bin/llvm-config"),
        needs: &[Need::BpfLinker],
        reason: "bpf-linker is linked against LLVM",
        place: Place::System,
    },
    Package {
        name: "g++",
        sign: Sign::Command("g++"),
        needs: &[Need::BpfLinker],
        reason: "LLVM needs the C++ standard library to link against",
        place: Place::System,
    },
    Package {
        name: "iproute2",
        sign: Sign::Command("ip"),
        needs: &[Need::Test, Need::Demo],
        reason: "network namespaces and veth pairs of the pods",
        place: Place::System,
    },
    Package {
        name: "iptables",
        sign: Sign::Command("iptables"),
        needs: &[Need::Test],
        reason: "the iptables way of isolating, side by side with ours",
        place: Place::System,
    },
    Package {
        name: "bpftool",
        sign: Sign::Command("bpftool"),
        needs: &[Need::Test],
        reason: "makes a foreign BPF object that the harness must find",
        place: Place::System,
    },
    Package {
        name: "nftables",
        sign: Sign::Command("nft"),
        needs: &[Need::Test],
        reason: "the nftables way of isolating, side by side with ours",
        place: Place::System,
    },
    Package {
        name: "curl",
        sign: Sign::Command("curl"),
        needs: &[Need::Test, Need::Demo],
        reason: "drives the control socket and the pods' web servers as a user would",
        place: Place::System,
    },
    Package {
        name: "runc",
        sign: Sign::Command("runc"),
        needs: &[Need::Test],
        reason: "starts the containers of real pods",
        place: Place::System,
    },
    Package {
        name: "containernetworking-plugins",
        sign: Sign::File("/usr/lib/cni/bridge"),
        needs: &[Need::Test],
        reason: "gives real pods their interfaces",
        place: Place::System,
    },
    Package {
        name: "containerd",
        sign: Sign::Command("containerd"),
        needs: &[Need::Test],
        reason: "runs real pods, on nodes of the tests' own",
        place: Place::Unpacked,
    },
    Package {
        name: "busybox-static",
        sign: Sign::Unpacked("busybox-static/bin/busybox"),
        needs: &[Need::Test, Need::Vm],
        reason: "what the containers of real pods are made of, and what a guest runs before it has the host's programs",
        place: Place::Unpacked,
    },
    Package {
        name: "prometheus",
        sign: Sign::Command("prometheus"),
        needs: &[Need::Test],
        reason: "a real Prometheus scrapes the agent",
        place: Place::Unpacked,
    },
    Package {
        name: "qemu-system-x86",
        sign: Sign::Command("qemu-system-x86_64"),
        needs: &[Need::Vm],
        reason: "emulates the machine in which stock kernels run",
        place: Place::System,
    },
    Package {
        name: "cpio",
        sign: Sign::Command("cpio"),
        needs: &[Need::Vm],
        reason: "packs a guest's initramfs",
        place: Place::System,
    },
    Package {
        name: "kmod",
        sign: Sign::Command("depmod"),
        needs: &[Need::Vm],
        reason: "finds and loads the modules of stock kernels",
        place: Place::System,
    },
    Package {
        name: "xz-utils",
        sign: Sign::Command("xz"),
        needs: &[Need::Vm],
        reason: "unpacks those modules",
        place: Place::System,
    },
];

/// Installs what is missing for `needs`.
pub(crate) fn ensure(workspace: &Workspace, needs: &[Need]) -> Result<()> {
    let missing = missing(workspace, needs);
    if missing.is_empty() {
        return Ok(());
    }
    if workspace.which("apt-get").is_none() || !is_root() {
        bail!("{}", by_hand(&missing));
    }
    refresh(workspace)?;
    let (system, unpacked): (Vec<&Package>, Vec<&Package>) =
        missing.iter().copied().partition(|package| package.place == Place::System);
    if !system.is_empty() {
        for package in &system {
            step::say(&format!("{} is missing: {}", package.name, package.reason));
        }
        let names: Vec<&str> = system.iter().map(|package| package.name).collect();
        let mut install = apt(workspace);
        install.args(["install", "--yes", "--no-install-recommends"]).args(&names);
        step::run(&format!("install Debian packages {}", names.join(" ")), &mut install)?;
    }
    for package in unpacked {
        step::say(&format!("{} is missing: {}", package.name, package.reason));
        install_unpacked(workspace, package.name)?;
    }
    let missing = self::missing(workspace, needs);
    ensure!(missing.is_empty(), "installed, but still not there: {}", by_hand(&missing));
    Ok(())
}

/// Updates the package lists, once in a run.
pub(crate) fn refresh(workspace: &Workspace) -> Result<()> {
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_none() {
        step::run("refresh Debian's package lists", apt(workspace).arg("update"))?;
        DONE.get_or_init(|| ());
    }
    Ok(())
}

/// Whether what `needs` ask for is there or can be installed.
pub(crate) fn within_reach(workspace: &Workspace, needs: &[Need]) -> bool {
    missing(workspace, needs).is_empty() || (workspace.which("apt-get").is_some() && is_root())
}

fn missing(workspace: &Workspace, needs: &[Need]) -> Vec<&'static Package> {
    let needed = PACKAGES.iter().filter(|package| package.needs.iter().any(|need| needs.contains(need)));
    needed
        .filter(|package| match package.sign {
            Sign::Command(name) => workspace.which(name).is_none(),
            Sign::File(file) => !Path::new(file).exists(),
            Sign::Unpacked(file) => !workspace.tools().join(file).exists(),
        })
        .collect()
}

/// What a user has to do where this program cannot.
fn by_hand(missing: &[&Package]) -> String {
    let lines = missing.iter().map(|package| {
        let sign = match package.sign {
            Sign::Command(name) => format!("command {name}"),
            Sign::File(file) | Sign::Unpacked(file) => file.to_owned(),
        };
        format!("  {:<14} ({sign}): {}\n", package.name, package.reason)
    });
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    format!(
        "these are missing, and only root on a Debian-like system can have them installed from here:\n{}\
         Run as root: apt-get install --no-install-recommends {}\n\
         or, on another system, install what it has under these names; then start this again.",
        lines.collect::<Vec<_>>().concat(),
        names.join(" ")
    )
}

/// Unpacks a package below the tools folder; its command gets a link in the tools' `bin`.
fn install_unpacked(workspace: &Workspace, name: &str) -> Result<()> {
    let folder = workspace.tools().join(name);
    let bin = workspace.tools().join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("make {}", bin.display()))?;
    unpack(workspace, name, &folder)?;
    for place in ["usr/bin", "usr/sbin", "bin", "sbin"] {
        let Ok(commands) = fs::read_dir(folder.join(place)) else { continue };
        for command in commands.flatten() {
            let link = bin.join(command.file_name());
            if !link.is_symlink() {
                unix::fs::symlink(command.path(), &link).with_context(|| format!("link {}", link.display()))?;
            }
        }
    }
    Ok(())
}

/// Downloads a package and unpacks it into a folder: none of its scripts runs.
pub(crate) fn unpack(workspace: &Workspace, name: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let mut download = apt(workspace);
    // The download would otherwise be done by a user who may not write here.
    download.current_dir(folder).args(["-o", "APT::Sandbox::User=root", "download", name]);
    step::run(&format!("download Debian package {name}"), &mut download)?;
    let files = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let archive = files.flatten().map(|file| file.path()).find(|file| file.extension().is_some_and(|end| end == "deb"));
    let archive = archive.with_context(|| format!("apt-get left no package in {}", folder.display()))?;
    let mut extract = workspace.command("dpkg-deb");
    extract.arg("--extract").arg(&archive).arg(folder);
    step::run(&format!("unpack {name} into {} (not installed)", folder.display()), &mut extract)?;
    fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))
}

fn apt(workspace: &Workspace) -> Command {
    let mut command = workspace.command("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_reason_and_a_remedy() {
        let package = PACKAGES.iter().find(|package| package.name == "iproute2").expect("it is in the list");
        let text = by_hand(&[package]);
        for part in ["iproute2", "command ip", package.reason, "apt-get install --no-install-recommends iproute2"] {
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        }
    }

    #[test]
    fn the_llvm_packages_agree_with_the_version() {
        let llvm = format!("llvm-{LLVM_MAJOR}-dev");
        assert!(PACKAGES.iter().any(|package| package.name == llvm), "{llvm} is not in the list");
    }
}
