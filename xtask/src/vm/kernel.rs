//! Stock kernels: which, and how they get here. To test another one, add a line to the table.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::builder::PossibleValuesParser;

use crate::{setup, step, workspace::Workspace};

/// A line of Debian's kernels.
pub(super) struct Kernel {
    /// What it is called here.
    pub(super) name: &'static str,
    /// What stands before and after the number in the names of its packages; the highest number is taken.
    package: [&'static str; 2],
    /// Whether it makes netkit devices: the tests of them must not be passed over then.
    pub(super) netkit: bool,
    /// The tests that `cargo xtask test` runs under it: whose names contain one of these, and none of what comes after `!`.
    pub(super) ci: &'static [&'static str],
}

/// Every kernel that the tests are run under, beside the machine's own.
pub(super) const KERNELS: &[Kernel] = &[
    // BPF LSM, no tcx, no netkit: hooks on interfaces are filters of clsact.
    Kernel { name: "6.1", package: ["linux-image-6.1.0-", "-cloud-amd64"], netkit: false, ci: WITHOUT_TCX },
    // BPF LSM, tcx, netkit.
    Kernel { name: "6.12", package: ["linux-image-6.12.", "+deb12-cloud-amd64"], netkit: true, ci: WITH_NETKIT },
];

/// What tells the most about a kernel without tcx, but with BPF LSM.
const WITHOUT_TCX: &[&str] = &[
    "isolate::",
    "loopback::",
    "crash::",
    "clsact::",
    "powers::",
    "upgrade::",
    "limit::",
    "priority::",
    "escape::bridged",
    "escape::changing",
    "escape::routed",
    "escape::two_interfaces",
    "escape::v6_only",
    "escape::macvlan",
    "escape::ipvlan",
    "escape::host_network",
    "escape::the_window",
    // From tcx to filters.
    "!clsact::from_links",
    // Detaches links, and filters have none.
    "!sys_admin_takes_the_hooks_off",
    // One of them does here.
    "!bridged_while_probed",
    "!changing_while_probed",
    "!two_interfaces_while_probed",
    "!v6_only_while_probed",
];

/// What tells the most about one with tcx, netkit and BPF LSM. What filters do is tried under the other one.
const WITH_NETKIT: &[&str] = &[
    "isolate::",
    "loopback::",
    "crash::",
    "netkit::",
    "held::",
    "powers::",
    "repair::",
    "upgrade::",
    "escape::netkit",
    "limit::",
    "priority::",
    "escape::bridged",
    "escape::changing",
    "escape::routed",
    "escape::two_interfaces",
    "escape::v6_only",
    "escape::macvlan",
    "escape::ipvlan",
    "escape::host_network",
    "escape::the_window",
    "!clsact::",
    "!_while_probed",
];

/// Stands for every kernel.
pub(super) const ALL: &str = "all";

/// What the option takes.
pub(super) fn names() -> PossibleValuesParser {
    KERNELS.iter().map(|kernel| kernel.name).chain([ALL]).collect::<Vec<_>>().into()
}

/// A kernel on this machine.
pub(super) struct Image {
    /// The folder with its package's files.
    pub(super) folder: PathBuf,
    /// Its release, as `uname -r` tells it.
    pub(super) release: String,
}

impl Image {
    /// The file that boots.
    pub(super) fn boots(&self) -> PathBuf {
        self.folder.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    fn open(folder: PathBuf) -> Result<Self> {
        let modules = folder.join("lib/modules");
        let entries = fs::read_dir(&modules).with_context(|| format!("list {}", modules.display()))?;
        let release = entries.flatten().next().with_context(|| format!("{} is empty", modules.display()))?;
        let release = release.file_name().to_string_lossy().into_owned();
        Ok(Self { folder, release })
    }
}

/// Gets the newest one of a line, where it is not here already. Without a registry the newest that is here serves.
pub(super) fn ensure(workspace: &Workspace, kernel: &Kernel) -> Result<Image> {
    let cache = workspace.target.join("vm/kernels");
    fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    let offered = setup::refresh_packages(workspace).and_then(|()| offered(workspace, kernel));
    let package = match offered {
        Ok(Some(package)) => package,
        missing => match newest(kernel, cached(&cache)?) {
            Some(package) => {
                let why =
                    missing.err().map_or_else(|| "the registry has none".to_owned(), |error| format!("{error:#}"));
                step::say(&format!("{package}, which is here already, has to do: {why}"));
                package
            }
            None => {
                bail!("no package {} in the registry, and none here: {:?}", kernel.package.join("N"), missing.err())
            }
        },
    };
    let folder = cache.join(&package);
    if !folder.exists() {
        let draft = cache.join("draft");
        if draft.exists() {
            fs::remove_dir_all(&draft).with_context(|| format!("remove {}", draft.display()))?;
        }
        setup::unpack_package(workspace, &package, &draft)?;
        prepare(workspace, &draft)?;
        fs::rename(&draft, &folder).with_context(|| format!("rename {}", draft.display()))?;
    }
    Image::open(folder)
}

/// Unpacks the modules, which a guest would do slowly, and lists what each depends on.
fn prepare(workspace: &Workspace, folder: &Path) -> Result<()> {
    let image = Image::open(folder.to_owned())?;
    let mut unpack = workspace.command("find");
    unpack.arg(folder.join("lib/modules")).args(["-name", "*.ko.xz", "-exec", "xz", "--decompress", "{}", "+"]);
    step::run("unpack the kernel's modules", &mut unpack)?;
    let mut list = workspace.command("depmod");
    step::run("list the modules' dependencies", list.arg("--basedir").arg(folder).arg(&image.release))
}

fn offered(workspace: &Workspace, kernel: &Kernel) -> Result<Option<String>> {
    let names = step::output(workspace.command("apt-cache").args(["pkgnames", kernel.package[0]]))?;
    Ok(newest(kernel, names.lines().map(ToOwned::to_owned)))
}

fn cached(cache: &Path) -> Result<impl Iterator<Item = String>> {
    let entries = fs::read_dir(cache).with_context(|| format!("list {}", cache.display()))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()))
}

fn newest(kernel: &Kernel, packages: impl Iterator<Item = String>) -> Option<String> {
    let [before, after] = kernel.package;
    let numbered = packages.filter_map(|package| {
        let number: u32 = package.strip_prefix(before)?.strip_suffix(after)?.parse().ok()?;
        Some((number, package))
    });
    numbered.max().map(|(_, package)| package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_the_highest_number() {
        let kernel = Kernel { name: "6.1", package: ["linux-image-6.1.0-", "-cloud-amd64"], netkit: false, ci: &[] };
        let of = |names: &[&str]| newest(&kernel, names.iter().map(ToString::to_string));
        let names = ["9-cloud-amd64", "10-cloud-amd64", "11-amd64", "12-rt-cloud-amd64", "cloud-amd64"];
        let names = names.map(|end| format!("linux-image-6.1.0-{end}"));
        assert_eq!(of(&names.each_ref().map(String::as_str)), Some("linux-image-6.1.0-10-cloud-amd64".to_owned()));
        assert_eq!(of(&["linux-image-6.12.9-cloud-amd64"]), None);
    }

    #[test]
    fn every_kernel_has_a_name_of_its_own() {
        for kernel in KERNELS {
            assert_eq!(KERNELS.iter().filter(|other| other.name == kernel.name).count(), 1, "{}", kernel.name);
        }
    }
}
