//! Where things are in this checkout, and how to start cargo in it.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

/// Administrators' commands are not on every root shell's path.
const ADMIN_PATHS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// This checkout.
pub(crate) struct Workspace {
    /// The folder with the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
    /// The BPF object that isolate-agent's build script embeds.
    pub(crate) object: PathBuf,
}

impl Workspace {
    /// Finds the checkout from what `cargo run` (the `xtask` alias) tells the process.
    pub(crate) fn locate() -> Result<Self> {
        let told = |name| env::var_os(name).map(PathBuf::from).with_context(|| format!("{name} is not set"));
        let start = "start this as `cargo xtask`, anywhere in the checkout";
        let manifest = told("CARGO_MANIFEST_DIR").context(start)?;
        let object = told("ISOLATE_EBPF_OBJECT").context(start)?;
        let exe = env::current_exe().context("find this program's own file")?;
        let root = manifest.parent().context("the xtask crate has no parent folder")?.to_owned();
        let target = exe.ancestors().nth(2).context("this program is not in a target folder")?.to_owned();
        Ok(Self { root, target, object })
    }

    /// What set-up makes for this checkout alone.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// The search path for everything started here: the checkout's own tools, the user's path, the administrator's.
    pub(crate) fn search_path(&self) -> Vec<PathBuf> {
        let user = env::var_os("PATH").unwrap_or_default();
        let mut path = vec![self.tools().join("bin")];
        path.extend(env::split_paths(&user));
        path.extend(ADMIN_PATHS.map(PathBuf::from));
        path
    }

    /// The file that a command's name stands for.
    pub(crate) fn which(&self, name: &str) -> Option<PathBuf> {
        self.search_path().into_iter().map(|folder| folder.join(name)).find(|file| file.is_file())
    }

    /// A command that runs in the root of the checkout.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        let path = env::join_paths(self.search_path()).unwrap_or_else(|_colon| env::var_os("PATH").unwrap_or_default());
        command.current_dir(&self.root).env("PATH", path);
        for (name, _value) in env::vars_os().filter(|(name, _value)| describes_this_crate(name)) {
            command.env_remove(name);
        }
        command
    }

    /// The cargo that runs this program.
    pub(crate) fn cargo(&self) -> Command {
        self.command(PathBuf::from(env::var_os("CARGO").unwrap_or_else(|| "cargo".into())))
    }
}

/// Whether a variable was set by `cargo run` for this program alone; a build script that reads one would rebuild.
fn describes_this_crate(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_crate_inherits_the_lints() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace");
        let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("the workspace has a manifest");
        let members = manifest.lines().find_map(|line| line.strip_prefix("members = [")).expect("a list of members");
        let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
        assert!(members.contains(&"xtask"), "the list of members is read wrongly: {members:?}");
        for member in members {
            let manifest = fs::read_to_string(root.join(member).join("Cargo.toml")).expect("a member has a manifest");
            let lints = manifest.lines().skip_while(|line| *line != "[lints]").nth(1);
            assert_eq!(lints, Some("workspace = true"), "{member} does not inherit the workspace's lints");
        }
    }
}
