//! The only user of aya and of bpf(2): loads, pins, adopts, attaches, writes maps, observes.
//!
//! Everything that enforces lives in pins below one folder on bpffs and needs no process:
//! `<bpffs>/v<layout>/maps/<name>`, `…/programs/<name>`, `…/links/<hook>-<place>-<direction>`.

mod clsact;
mod copies;
mod exempt;
mod filters;
mod guard;
mod handover;
mod hooks;
mod keys;
mod links;
mod log;
mod maps;
mod mechanism;
mod netdev;
mod object;
mod pin;
mod pins;
mod programs;
mod sys;
mod tc;
mod upgrade;

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use isolate_common::{Direction, Hook, KernelError, SlotCounters};
use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

pub(crate) use self::netdev::{namespace, within};
pub use self::{
    guard::{Guard, Post, Standing},
    links::netkit_programs,
    log::KernelLog,
    mechanism::{Mechanism, has_clsact, has_tcx},
    object::lsm_refusal,
};
use self::{handover::Loaded, hooks::Hooks, maps::Maps, netdev::NetdevPrograms, programs::Programs};
use crate::{
    fault,
    observed::{Observed, Slot},
    plan::Action,
    settings::Settings,
};

/// Ranges of allowed addresses that the map has room for, of all pods together.
pub const MAX_ALLOWED_IN_ALL: usize = 65_536;

/// A failed step on the kernel's objects.
#[derive(Debug, Error)]
pub enum EnforceError {
    /// The binary was built without the BPF programs.
    #[error("this binary was built without the BPF programs; build it with `cargo xtask build`")]
    NoObject,
    /// The kernel took no LSM programs.
    #[error("the LSM programs are not loaded")]
    NoLsm,
    /// There is no BPF file system to pin to.
    #[error(
        "cannot use {path} as a folder on a BPF file system: {source}; mount one (`mount -t bpf bpf /sys/fs/bpf`) or set --bpffs"
    )]
    Bpffs {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent works on the same pins: of two that do not know of each other, one releases what the other cut.
    #[error(
        "another agent works on the pins in {path}, with another --run-dir: nothing was changed; use the --run-dir \
         of that agent"
    )]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// The BPF object cannot be loaded.
    #[error("the kernel refused the BPF programs: {source}; run `isolate-agent doctor`")]
    Load {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Pinned maps are not the ones that this agent knows.
    #[error(
        "the pinned {what} at {path} is not the one of this agent ({why}); what is isolated stays isolated. \
         Run the agent version that made it, or release everything with that version first"
    )]
    Foreign {
        /// Map or program.
        what: &'static str,
        /// Its pin.
        path: PathBuf,
        /// The difference.
        why: String,
    },
    /// The pins are of an agent that is newer than this one.
    #[error(
        "the pins at {path} were made by a newer agent: this one knows layouts up to v{known}. Nothing was changed, and          what is isolated stays isolated. Run the newer version again; to go back to this one, release everything with the          newer (`remove --all`, `uninstall`) first",
        known = isolate_common::LAYOUT_VERSION
    )]
    Newer {
        /// Their folder.
        path: PathBuf,
    },
    /// The state of an older layout cannot be read.
    #[error(
        "cannot take over {what} of the older agent at {path}: {source}. What is isolated stays isolated. Run the version          that made it, or release everything with that version first"
    )]
    Older {
        /// Which part.
        what: &'static str,
        /// Its pin.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A pin cannot be made, opened or removed.
    #[error("cannot {step} the pin {path}: {source}")]
    Pin {
        /// What was tried.
        step: &'static str,
        /// The pin.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A map cannot be read or written.
    #[error("cannot {step} the map {map}: {source}")]
    Map {
        /// What was tried.
        step: &'static str,
        /// The map.
        map: &'static str,
        /// Why.
        #[source]
        source: aya::maps::MapError,
    },
    /// What the kernel can attach with cannot be told.
    #[error("cannot tell how to attach to interfaces: {source}; run `isolate-agent doctor`, or set --veth-hook")]
    Probe {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The node's filters cannot be listed.
    #[error("cannot list the filters on the node's interfaces: {0}")]
    Filters(#[source] io::Error),
    /// A hook cannot be detached.
    #[error("cannot detach the {} hook from {place}: {source}", hook.name())]
    Detach {
        /// Which hook.
        hook: Hook,
        /// The interface.
        place: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel gives no random numbers.
    #[error("cannot draw a random number: {source}")]
    Random {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A hook cannot be attached.
    #[error("cannot attach the {} hook to {place}: {source}", hook.name())]
    Attach {
        /// Which hook.
        hook: Hook,
        /// The interface or the cgroup.
        place: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A pin that was removed under the agent and that it has made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// The hook, if it is a link's. It has held all the time.
    pub hook: Option<Hook>,
    /// The slot that the link cuts, if any.
    pub slot: Option<Slot>,
    /// The pin.
    pub pin: PathBuf,
}

/// The kernel's side of all isolations.
#[derive(Debug)]
pub struct Enforcer {
    bpffs: PathBuf,
    folder: PathBuf,
    maps: Maps,
    programs: Programs,
    netdev: NetdevPrograms,
    loaded: Loaded,
    hooks: Hooks,
    claim: File,
}

impl Enforcer {
    /// Adopts what is pinned, or loads and pins it anew. Changes nothing for what is isolated.
    pub fn open(settings: &Settings) -> Result<Self, EnforceError> {
        let folder = pins::folder(&settings.bpffs)?;
        let claim = claim(&settings.bpffs)?;
        let older = pins::older(&settings.bpffs)?;
        if !pins::exists(&folder) {
            object::install(&folder, settings.max_isolated, older.last().map(PathBuf::as_path))?;
        }
        let mut maps = Maps::open(&folder)?;
        if !older.is_empty() {
            maps.fill_tables()?;
        }
        let others = !object::is_pinned(&folder);
        if others {
            object::replace(&folder, &maps)?;
        }
        give_heap_back();
        let programs = Programs::open(&folder, &maps)?;
        // An earlier agent has not made all of them.
        pins::make_folders(&folder)?;
        let (netdev, loaded) = (NetdevPrograms::default(), Loaded::default());
        let mechanism = Mechanism::choose(settings.veth_hook).map_err(|source| EnforceError::Probe { source })?;
        tracing::debug!(mechanism = mechanism.name(), "how programs get onto interfaces");
        let hooks = Hooks::open(&settings.bpffs, &folder, mechanism)?;
        let bpffs = settings.bpffs.clone();
        let mut enforcer = Self { bpffs, folder, maps, programs, netdev, loaded, hooks, claim };
        if others {
            enforcer.take_over(&enforcer.folder.clone())?;
            object::note(&enforcer.folder)?;
        }
        for older in older {
            enforcer.take_over(&older)?;
            pins::remove(&older)?;
            fault::after("old layout removed");
            tracing::info!(from = %older.display(), to = %enforcer.folder.display(), "took over what an older agent enforced");
        }
        Ok(enforcer)
    }

    /// The folder of the pins.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes again what was removed of the pins while this process held what they led to: nothing of it has let go.
    /// `known` says what a link cuts.
    pub fn mend(&mut self, known: &Observed) -> Result<Vec<Mended>, EnforceError> {
        pins::folder(&self.bpffs)?;
        if !is_same(&self.claim, &self.bpffs) {
            self.claim = claim(&self.bpffs)?;
        }
        pins::make_folders(&self.folder)?;
        let mut mended = self.maps.mend(&self.folder)?;
        mended.extend(self.programs.mend(&self.folder)?);
        mended.extend(self.hooks.mend(known)?);
        Ok(mended)
    }

    /// Detaches whatever is still attached and removes all pins, those of older layouts too.
    pub fn uninstall(self) -> Result<(), EnforceError> {
        let Self { bpffs, folder, mut hooks, claim, .. } = self;
        hooks.detach_all()?;
        pins::remove(&folder)?;
        drop(claim);
        tracing::debug!(bpffs = %bpffs.display(), "nothing is pinned any more");
        Ok(())
    }

    /// What the kernel holds of ours.
    pub fn observe(&mut self) -> Result<Observed, EnforceError> {
        let mut observed = self.maps.observe()?;
        observed.has_lsm = self.programs.has_lsm();
        self.hooks.observe(&mut self.programs, &mut observed)?;
        observed.host_ends_suffice = self.loaded.look();
        Ok(observed)
    }

    /// Brings [`Observed::host_ends_suffice`] up to date.
    pub fn observe_new_programs(&mut self, observed: &mut Observed) {
        observed.host_ends_suffice = self.loaded.look_on();
    }

    /// Carries out one change and notes it in `observed`.
    pub fn apply(&mut self, action: &Action, observed: &mut Observed) -> Result<(), EnforceError> {
        self.carry_out(action, observed)?;
        if let Some(step) = action.step() {
            fault::after(step);
        }
        Ok(())
    }

    fn carry_out(&mut self, action: &Action, observed: &mut Observed) -> Result<(), EnforceError> {
        match action {
            Action::SetPolicy { slot, policy, fresh } => self.maps.set_policy(*slot, *policy, *fresh, observed),
            Action::SetCgroupKey(id, slot) => self.maps.set_cgroup_key(*id, *slot, observed),
            Action::SetVethKey(ifindex, slot) => self.maps.set_veth_key(*ifindex, *slot, observed),
            Action::OpenGate(gate) | Action::NarrowGate(gate) => self.maps.set_gate(*gate, observed),
            Action::AttachCgroup(place, direction) => {
                self.hooks.attach_cgroup(&self.programs, place, *direction, observed)
            }
            Action::HoldVeth(veth, direction) => {
                self.hooks.hold_veth(&self.maps, &mut self.programs, veth, *direction, observed)
            }
            Action::AttachVeth(veth, direction) => {
                self.hooks.attach_veth(&self.maps, &mut self.programs, veth, *direction, observed)
            }
            Action::AttachNetdev(place, direction) => {
                let name = netdev::tc_program(*direction, netdev::is_exempted(observed, place.key.slot));
                let program = self.netdev.of(&self.maps, place.key.slot, name)?;
                self.hooks.attach_netdev(&mut self.programs, program, place, *direction, observed)
            }
            Action::AttachXdp(place) => {
                let name = netdev::xdp_program(netdev::is_exempted(observed, place.key.slot));
                self.hooks.attach_xdp(self.netdev.of(&self.maps, place.key.slot, name), place, observed)
            }
            Action::DetachXdp(key) => self.hooks.detach_xdp(*key, observed),
            Action::DetachNetdev(key, direction) => self.hooks.detach_netdev(*key, *direction, observed),
            Action::DetachCgroup(id, direction) => self.hooks.detach_cgroup(*id, *direction, observed),
            Action::DetachVeth(ifindex, direction) | Action::DisarmVeth(ifindex, direction) => {
                self.hooks.detach_veth(&self.programs, *ifindex, *direction, observed)
            }
            Action::AttachLsm(place, ask) => {
                let program = self.programs.lsm(*ask).ok_or(EnforceError::NoLsm)?;
                self.hooks.attach_lsm(&program.fd, place, *ask, observed)
            }
            Action::DetachLsm(id, ask) => self.hooks.detach_lsm(*id, *ask, observed),
            Action::DropCgroupKey(id) => self.maps.drop_cgroup_key(*id, observed),
            Action::DropVethKey(ifindex) => self.maps.drop_veth_key(*ifindex, observed),
            Action::SetKubelet(id) => self.maps.exempt.set_kubelet(*id, observed),
            Action::SetLink(ifindex, facts) => self.maps.exempt.set_link(*ifindex, *facts, observed),
            Action::DropLink(ifindex) => self.maps.exempt.drop_link(*ifindex, observed),
            Action::SetAllowed(slot, range, rules) => self.maps.exempt.set_allowed(*slot, *range, *rules, observed),
            Action::DropAllowed(slot, range) => self.maps.exempt.drop_allowed(*slot, *range, observed),
            Action::Vacate(slot) => self.maps.vacate(*slot, observed),
        }
    }

    /// What these slots' programs dropped, over all CPUs.
    pub fn counters(&self, slots: &[Slot]) -> Result<BTreeMap<Slot, SlotCounters>, EnforceError> {
        self.maps.counters(slots)
    }

    /// What the programs say about their errors; none where the kernel does not let it be read.
    pub fn kernel_log(&self) -> Option<KernelLog> {
        let opened = KernelLog::open(self.programs.veth(Direction::In).id);
        opened
            .inspect_err(|error| {
                tracing::warn!(%error, "the kernel's programs are not listened to; their errors are counted all the same");
            })
            .ok()
    }

    /// Errors in the programs since the maps were made.
    pub fn kernel_errors(&self) -> Result<Vec<(KernelError, u64)>, EnforceError> {
        self.maps.kernel_errors()
    }
}

/// Gives what loading the programs took back to the kernel: the loader parses the types of the whole kernel, and glibc keeps
/// their memory for later, which never comes.
fn give_heap_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer and frees nothing that is in use.
    let _given = unsafe { libc::malloc_trim(0) };
}

/// Makes the pins this process's alone, until the descriptor is closed. The lock in the run folder keeps agents apart
/// that share that folder; this one those that share the pins only.
fn claim(bpffs: &Path) -> Result<File, EnforceError> {
    let failed = |source| EnforceError::Bpffs { path: bpffs.to_owned(), source };
    let folder = File::open(bpffs).map_err(failed)?;
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(folder),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(EnforceError::Busy { path: bpffs.to_owned() }),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Whether the open folder is the one that the path leads to now.
fn is_same(folder: &File, path: &Path) -> bool {
    let identity = |data: &std::fs::Metadata| (data.dev(), data.ino());
    matches!((folder.metadata(), path.metadata()), (Ok(open), Ok(named)) if identity(&open) == identity(&named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_have_one_agent_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = claim(folder.path()).expect("it is free");
        assert!(matches!(claim(folder.path()), Err(EnforceError::Busy { .. })));
        drop(first);
        claim(folder.path()).expect("it is free again");
    }
}
