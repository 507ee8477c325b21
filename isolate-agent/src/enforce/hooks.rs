//! The hooks, wherever they hang: the seam between the planner's actions and the ways to attach to an interface.
//!
//! Cgroup and LSM hooks are pinned links, and so are those on netkit devices. Those on other interfaces are tcx links or clsact
//! filters, as the mechanism in use says; what the other mechanism has left is observed as well, replaced without a gap, and removed.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use isolate_common::{Ask, DIRECTIONS, Direction, Hook};
use rustix::io::Errno;

use super::{
    EnforceError, Mended,
    copies::{self, VethCopies},
    filters::Filters,
    links::Links,
    maps::Maps,
    mechanism::Mechanism,
    pin::{Pin, note},
    programs::Programs,
};
use crate::{
    inventory::{CgroupId, HostVeth, IfIndex},
    observed::{LinkState, NetdevKey, Observed},
    plan::{CgroupPlace, NetdevPlace},
};

/// All hooks of one agent.
#[derive(Debug)]
pub(super) struct Hooks {
    mechanism: Mechanism,
    links: Links,
    filters: Filters,
    copies: VethCopies,
    /// With tcx in use: whether there may be filters.
    may_have_filters: bool,
    /// With tcx in use: whether a filter can be where a link is to come.
    filters_hold: bool,
    /// Where the kernel took no XDP program.
    refused: BTreeSet<NetdevKey>,
}

impl Hooks {
    /// `folder` holds the pins of this layout, somewhere below `bpffs`.
    pub(super) fn open(bpffs: &Path, folder: &Path, mechanism: Mechanism) -> Result<Self, EnforceError> {
        Ok(Self {
            mechanism,
            links: Links::open(folder)?,
            filters: Filters::open(bpffs, folder).map_err(EnforceError::Filters)?,
            copies: VethCopies::default(),
            may_have_filters: true,
            filters_hold: mechanism == Mechanism::Tcx,
            refused: BTreeSet::new(),
        })
    }

    /// Pins again what is held and has no pin any more.
    pub(super) fn mend(&mut self, known: &Observed) -> Result<Vec<Mended>, EnforceError> {
        self.links.mend(known)
    }

    /// Detaches everything, of either mechanism.
    pub(super) fn detach_all(&mut self) -> Result<(), EnforceError> {
        self.filters.detach_all()?;
        self.links.detach_all()
    }

    /// Looks at every hook.
    pub(super) fn observe(&mut self, programs: &mut Programs, observed: &mut Observed) -> Result<(), EnforceError> {
        self.links.observe(programs, observed)?;
        observed.filters_hold = self.filters_hold;
        if self.mechanism == Mechanism::Clsact || self.may_have_filters {
            self.observe_filters(programs, observed)?;
        }
        // An interface that is gone has no netdev hook either.
        let is_there = |key: &NetdevKey| observed.netdev_links.get(&(*key, Direction::In)).is_some_and(|l| l.is_live());
        self.refused.retain(is_there);
        for key in &self.refused {
            observed.xdp_links.entry(*key).or_insert(LinkState::Refused);
        }
        Ok(())
    }

    fn observe_filters(&mut self, programs: &mut Programs, observed: &mut Observed) -> Result<(), EnforceError> {
        let mut found = self.filters.observe_veths(programs).map_err(EnforceError::Filters)?;
        found.extend(self.filters.observe_netdevs(programs, observed)?);
        self.may_have_filters = !found.is_empty();
        if self.mechanism == Mechanism::Clsact {
            // netkit has no filters that could take a link's place.
            let veths = observed.veth_links.iter_mut().filter(|((ifindex, _), _)| !self.links.is_netkit(*ifindex));
            let links = veths.map(|(_, link)| link).chain(observed.netdev_links.values_mut());
            links.filter(|link| link.is_live()).for_each(|link| *link = LinkState::Stale);
        }
        for (pin, direction, state) in found {
            let state = self.both(pin, pin.noted(direction, observed), state);
            note(observed, pin, direction, state);
        }
        // A filter can be taken away and its interface stay, unlike a link; nothing else remembers it.
        if self.mechanism == Mechanism::Clsact {
            let keyed: Vec<IfIndex> = observed.veth_keys.keys().copied().collect();
            for ifindex in keyed.into_iter().filter(|ifindex| self.filters.is_there(*ifindex)) {
                for direction in DIRECTIONS {
                    observed.veth_links.entry((ifindex, direction)).or_insert(LinkState::Stale);
                }
            }
        }
        Ok(())
    }

    /// What a link and a filter on the same place come to: one of them has to go, or to be put in the other's place.
    fn both(&self, pin: Pin, link: Option<LinkState>, filter: LinkState) -> Option<LinkState> {
        let (own, other) = match (self.mechanism, pin) {
            (Mechanism::Tcx, Pin::Veth(_)) if link.is_none() && filter == LinkState::Holding => {
                return Some(LinkState::Interim);
            }
            (Mechanism::Tcx, _) => (link, Some(filter)),
            (Mechanism::Clsact, _) => (Some(filter), link),
        };
        match other {
            Some(other) if other.is_live() => Some(LinkState::Stale),
            _ => own.or(other),
        }
    }

    pub(super) fn attach_cgroup(
        &mut self,
        programs: &Programs,
        place: &CgroupPlace,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        self.links.attach_cgroup(programs, place, direction, observed)
    }

    pub(super) fn detach_cgroup(
        &mut self,
        id: CgroupId,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        self.links.detach_cgroup(id, direction, observed)
    }

    pub(super) fn attach_lsm(
        &mut self,
        program: &OwnedFd,
        place: &CgroupPlace,
        ask: Ask,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        self.links.attach_lsm(program.as_fd(), place, ask, observed)
    }

    pub(super) fn detach_lsm(&mut self, id: CgroupId, ask: Ask, observed: &mut Observed) -> Result<(), EnforceError> {
        self.links.detach_lsm(id, ask, observed)
    }

    /// A filter is attached without a wait for RCU. Where it would not come first, it is the link at once.
    pub(super) fn hold_veth(
        &mut self,
        maps: &Maps,
        programs: &mut Programs,
        veth: &HostVeth,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        if self.filters_hold {
            self.may_have_filters = true;
            match self.filters.attach_veth(programs, veth, direction) {
                Ok(LinkState::Holding) => {
                    note(observed, Pin::Veth(veth.ifindex), direction, Some(LinkState::Interim));
                    return Ok(());
                }
                Ok(state) => tracing::debug!(veth = veth.name, ?state, "a filter does not hold it"),
                Err(error) => {
                    tracing::debug!(veth = veth.name, %error, "no filter holds it");
                    // The kernel knows no such qdisc, or no such filter.
                    self.filters_hold = Errno::from_io_error(&error) != Some(Errno::NOENT);
                }
            }
        }
        self.attach_veth(maps, programs, veth, direction, observed)
    }

    /// Leaves one hook of the mechanism in use, and then none of the other: at no time is there none.
    pub(super) fn attach_veth(
        &mut self,
        maps: &Maps,
        programs: &mut Programs,
        veth: &HostVeth,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        let failed = |source| EnforceError::Attach { hook: Hook::Veth, place: veth.name.clone(), source };
        match self.mechanism {
            _ if veth.netkit.is_some() => self.link_netkit(maps, programs, veth, direction, observed)?,
            Mechanism::Tcx => {
                self.link_veth(maps, programs, veth, direction, observed)?;
                if self.may_have_filters {
                    self.filters.detach_veth(programs, veth.ifindex, direction).map_err(failed)?;
                }
            }
            Mechanism::Clsact => {
                let state = self.filters.attach_veth(programs, veth, direction).map_err(failed)?;
                if self.links.has(Pin::Veth(veth.ifindex), direction) {
                    self.links.detach_veth(veth.ifindex, direction, observed)?;
                }
                note(observed, Pin::Veth(veth.ifindex), direction, Some(state));
            }
        }
        Ok(())
    }

    /// What goes into the pod meets a program that was loaded for this host end: its packets do not tell it.
    fn link_netkit(
        &mut self,
        maps: &Maps,
        programs: &Programs,
        veth: &HostVeth,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        match direction {
            Direction::In => {
                let program = copies::of_host_end(maps, veth.ifindex)?;
                self.links.attach_veth(program.as_fd(), veth, direction, observed)
            }
            Direction::Out => self.link_veth(maps, programs, veth, direction, observed),
        }
    }

    /// tcx refuses a program that is in the chain already (`bpf_mprog_attach`, kernel/bpf/mprog.c): a displaced one is put in
    /// front as a copy.
    fn link_veth(
        &mut self,
        maps: &Maps,
        programs: &Programs,
        veth: &HostVeth,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        let pinned = programs.veth(direction).fd.as_fd();
        let mut attached = self.links.attach_veth(pinned, veth, direction, observed);
        for fresh in [false, true] {
            match &attached {
                Err(EnforceError::Attach { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                    let copy = self.copies.of(maps, direction, fresh)?;
                    attached = self.links.attach_veth(copy.as_fd(), veth, direction, observed);
                }
                _ => break,
            }
        }
        attached
    }

    pub(super) fn detach_veth(
        &mut self,
        programs: &Programs,
        ifindex: IfIndex,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        if self.mechanism == Mechanism::Clsact || self.may_have_filters {
            let place = || format!("interface {}", ifindex.0);
            let detached = self.filters.detach_veth(programs, ifindex, direction);
            detached.map_err(|source| EnforceError::Detach { hook: Hook::Veth, place: place(), source })?;
        }
        self.links.detach_veth(ifindex, direction, observed)
    }

    /// As on the host end.
    pub(super) fn attach_netdev(
        &mut self,
        programs: &mut Programs,
        program: &OwnedFd,
        place: &NetdevPlace,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        let failed = |source| EnforceError::Attach { hook: Hook::Netdev, place: place.name.clone(), source };
        match self.mechanism {
            Mechanism::Tcx => {
                self.links.attach_netdev(program, place, direction, observed)?;
                self.filters.detach_netdev(place.key, direction).map_err(failed)?;
            }
            Mechanism::Clsact => {
                let state = self.filters.attach_netdev(programs, program, place, direction).map_err(failed)?;
                if self.links.has(Pin::Netdev(place.key), direction) {
                    self.links.detach_netdev(place.key, direction, observed)?;
                }
                note(observed, Pin::Netdev(place.key), direction, Some(state));
            }
        }
        Ok(())
    }

    /// Where that is refused, what comes in is dropped behind the pod's packet sockets only: the hook still cuts.
    pub(super) fn attach_xdp(
        &mut self,
        program: Result<&OwnedFd, EnforceError>,
        place: &NetdevPlace,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        let named =
            |source| EnforceError::Attach { hook: Hook::Netdev, place: format!("{} (XDP)", place.name), source };
        let attached = program.and_then(|program| self.links.attach_xdp(program, place, observed).map_err(named));
        match attached {
            Err(error) if is_refusal(&error) => {
                tracing::warn!(%error, "packet sockets of the pod see what the CNI hands over past its host end");
                self.refused.insert(place.key);
                observed.xdp_links.insert(place.key, LinkState::Refused);
                Ok(())
            }
            Ok(()) => {
                self.refused.remove(&place.key);
                Ok(())
            }
            failed => failed,
        }
    }

    /// Where another was refused because of this one, it is tried again.
    pub(super) fn detach_xdp(&mut self, key: NetdevKey, observed: &mut Observed) -> Result<(), EnforceError> {
        self.refused.retain(|other| (other.namespace, other.index) != (key.namespace, key.index));
        self.links.detach_xdp(key, observed)
    }

    pub(super) fn detach_netdev(
        &mut self,
        key: NetdevKey,
        direction: Direction,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        let place = || format!("interface {} of namespace {}", key.index, key.namespace);
        let detached = self.filters.detach_netdev(key, direction);
        detached.map_err(|source| EnforceError::Detach { hook: Hook::Netdev, place: place(), source })?;
        self.links.detach_netdev(key, direction, observed)
    }
}

/// Whether it would be refused the next time as well: another program is there, or the kernel knows no such program.
fn is_refusal(error: &EnforceError) -> bool {
    match error {
        EnforceError::Load { .. } => true,
        EnforceError::Attach { source, .. } => {
            matches!(source.raw_os_error(), Some(libc::EBUSY | libc::EEXIST | libc::EINVAL | libc::EOPNOTSUPP))
        }
        _ => false,
    }
}
