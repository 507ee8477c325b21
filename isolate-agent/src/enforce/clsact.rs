//! The hooks as filters of a clsact qdisc: for kernels without tcx.
//!
//! A filter holds on to its program by itself: it needs no process and no pin, and goes with its interface. It is known
//! by the id of its program, or by the name that this agent gave it; never by priority and handle, which anybody may
//! use. What is not ours is neither changed nor removed.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use isolate_common::names;
use rustix::io::Errno;

use super::tc::{Filter, Place, Side, Tc};
use crate::observed::LinkState;

/// Handles of ours begin here, so that whoever uses small numbers (Cilium: 1) does not replace ours by theirs.
const FIRST_HANDLE: u32 = 0x1501_a7e0;
/// The kernel takes names of up to 255 bytes.
const OWNER_BYTES: usize = 160;
/// Ends the names of filters whose qdisc this agent made, and so may remove.
const MADE: &str = ":made";
/// How often an attach that meets somebody else at work is tried.
const ATTEMPTS: usize = 5;

/// Names of this agent's filters.
#[derive(Clone, Debug)]
pub(super) struct Owner(String);

/// What is attached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours<'a> {
    pub(super) owner: &'a Owner,
    /// What tells this filter from others of this agent on the same place.
    pub(super) what: &'a str,
    /// Id of the program, as far as it is known.
    pub(super) program: Option<u32>,
}

impl Owner {
    /// Of the agent whose pins are in this folder.
    pub(super) fn new(bpffs: &Path) -> Self {
        let path = bpffs.display().to_string();
        let start = path.char_indices().rev().map(|(at, _)| at).find(|at| path.len() - at >= OWNER_BYTES);
        Self(format!(":{}", path.get(start.unwrap_or_default()..).unwrap_or_default()))
    }

    /// Whether a filter is one of this agent, whatever for.
    fn has(&self, filter: &Filter) -> bool {
        filter.name.strip_suffix(MADE).unwrap_or(&filter.name).ends_with(&self.0)
    }
}

impl Ours<'_> {
    fn name(&self, made: bool) -> String {
        format!("{}{}{}", self.what, self.owner.0, if made { MADE } else { "" })
    }

    /// This filter itself, of today's program or of an earlier one.
    fn is(&self, filter: &Filter) -> bool {
        self.is_current(filter) || filter.name.strip_suffix(MADE).unwrap_or(&filter.name) == self.name(false)
    }

    fn is_current(&self, filter: &Filter) -> bool {
        filter.program.is_some() && filter.program == self.program
    }
}

/// Puts a program on a place, before everything that it can be put before, and removes what was there of ours: at no
/// time is there none. Returns what it came to.
pub(super) fn attach(tc: &mut Tc, place: Place, ours: Ours<'_>, program: &OwnedFd) -> io::Result<LinkState> {
    if let Some(state) = look(tc, place, ours)?.filter(|state| state.stands()) {
        return Ok(state);
    }
    let made = make_room(tc, place)? || is_made(tc, place.ifindex, ours.owner)?;
    let added = match add(tc, place, ours, program, made) {
        Ok(added) => added,
        Err(error) if made => return tidy(tc, place.ifindex).and(Err(error)),
        Err(error) => return Err(error),
    };
    for old in tc.filters(place)?.iter().filter(|filter| ours.is(filter) && position(filter) != added) {
        gone(tc.delete_filter(place, position(old)))?;
    }
    Ok(look(tc, place, ours)?.unwrap_or(LinkState::Stale))
}

/// Removes it, and the qdisc if this agent made it and nothing is left on it.
pub(super) fn detach(tc: &mut Tc, place: Place, ours: Ours<'_>) -> io::Result<()> {
    remove(tc, place, |filter| ours.is(filter))
}

/// The same for everything of this agent.
pub(super) fn detach_all(tc: &mut Tc, place: Place, owner: &Owner) -> io::Result<()> {
    remove(tc, place, |filter| owner.has(filter))
}

fn remove(tc: &mut Tc, place: Place, goes: impl Fn(&Filter) -> bool) -> io::Result<()> {
    let mut made = false;
    for filter in tc.filters(place)?.iter().filter(|filter| goes(filter)) {
        made |= filter.name.ends_with(MADE);
        gone(tc.delete_filter(place, position(filter)))?;
    }
    if made { tidy(tc, place.ifindex) } else { Ok(()) }
}

/// The filter of a guard. One that a crash has left goes with the next.
pub(super) const fn guard(owner: &Owner) -> Ours<'_> {
    Ours { owner, what: names::GUARD, program: None }
}

/// Puts a guard right behind the filter that is called `hook`; first, without one. Errors if another filter would run between
/// the two, or if there is no qdisc: none is made for it.
pub(super) fn stand_by(
    tc: &mut Tc,
    place: Place,
    owner: &Owner,
    hook: Option<&str>,
    program: &OwnedFd,
) -> io::Result<()> {
    let ours = guard(owner);
    remove(tc, place, |filter| ours.is(filter))?;
    let filters = tc.filters(place)?;
    let priority = match hook {
        None => best_priority(&filters),
        Some(hook) => priority_behind(&filters, Ours { owner, what: hook, program: None })
            .ok_or_else(|| io::Error::other("another filter runs right behind it"))?,
    };
    tc.add_filter(place, (priority, FIRST_HANDLE - 1), program.as_fd(), &ours.name(false))
}

/// The priority in which a new filter runs right behind ours: within one, the newest runs first.
fn priority_behind(filters: &[Filter], ours: Ours<'_>) -> Option<u16> {
    let running = || filters.iter().filter(|filter| filter.chain == 0 && filter.handle != 0);
    let own = running().find(|filter| ours.is(filter))?;
    let behind = own.priority.checked_add(1)?;
    let last = running().rfind(|filter| filter.priority == own.priority)?;
    let is_open =
        filters.iter().all(|filter| filter.chain != 0 || filter.priority != behind || filter.is_open_to_ours());
    (ours.is(last) && is_open).then_some(behind)
}

/// How it stands, if there is something of it.
pub(super) fn look(tc: &mut Tc, place: Place, ours: Ours<'_>) -> io::Result<Option<LinkState>> {
    tc.filters(place).map(|filters| state(&filters, ours))
}

/// A clsact qdisc; true if it was made just now.
fn make_room(tc: &mut Tc, place: Place) -> io::Result<bool> {
    match tc.add_clsact(place.ifindex) {
        Ok(()) => return Ok(true),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    if tc.carriers()?.get(&place.ifindex).is_some_and(|carrier| !carrier.sides().contains(&place.side)) {
        return Err(io::Error::other(
            "somebody else's `ingress` qdisc is in the place of clsact, and has no egress side",
        ));
    }
    Ok(false)
}

fn is_made(tc: &mut Tc, ifindex: u32, owner: &Owner) -> io::Result<bool> {
    for side in Side::BOTH {
        let filters = tc.filters(Place { ifindex, side })?;
        if filters.iter().any(|filter| owner.has(filter) && filter.name.ends_with(MADE)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn add(tc: &mut Tc, place: Place, ours: Ours<'_>, program: &OwnedFd, made: bool) -> io::Result<(u16, u32)> {
    let mut refused = io::Error::from(Errno::EXIST);
    for _attempt in 0..ATTEMPTS {
        let filters = tc.filters(place)?;
        let priority = best_priority(&filters);
        let taken = |handle: &u32| filters.iter().any(|filter| position(filter) == (priority, *handle));
        let handle = (FIRST_HANDLE..=u32::MAX).find(|handle| !taken(handle)).unwrap_or(FIRST_HANDLE);
        match tc.add_filter(place, (priority, handle), program.as_fd(), &ours.name(made)) {
            Ok(()) => return Ok((priority, handle)),
            // Somebody took the handle, or the priority for another kind of filter, since the look.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::EXIST | Errno::INVAL)) => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}

/// Removes the qdisc that this agent made, unless there is a filter on it. (One that is added between the look and the
/// removal goes with it: the kernel has no call for both.)
fn tidy(tc: &mut Tc, ifindex: u32) -> io::Result<()> {
    for side in Side::BOTH {
        if !tc.filters(Place { ifindex, side })?.is_empty() {
            return Ok(());
        }
    }
    gone(tc.delete_clsact(ifindex))
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::NODEV | Errno::INVAL)) => {
            Ok(())
        }
        other => other,
    }
}

fn position(filter: &Filter) -> (u16, u32) {
    (filter.priority, filter.handle)
}

/// The lowest priority that ours can be added at. All filters of one priority are of one kind and one protocol; among
/// those that ours can join, the newest runs first.
fn best_priority(filters: &[Filter]) -> u16 {
    let closed = |priority: &u16| {
        filters.iter().any(|filter| filter.chain == 0 && filter.priority == *priority && !filter.is_open_to_ours())
    };
    (1..=u16::MAX).find(|priority| !closed(priority)).unwrap_or(u16::MAX)
}

/// Filters of other chains run only if one of chain 0 sends packets there.
fn state(filters: &[Filter], ours: Ours<'_>) -> Option<LinkState> {
    let running: Vec<&Filter> = filters.iter().filter(|filter| filter.chain == 0 && filter.handle != 0).collect();
    let all = running.iter().filter(|filter| ours.is(filter)).count();
    let Some(at) = running.iter().position(|filter| ours.is_current(filter)) else {
        return (all > 0).then_some(LinkState::Stale);
    };
    let (before, own) = (&running[..at], running[at]);
    let others = || before.iter().filter(|filter| !ours.owner.has(filter));
    Some(if all > 1 {
        LinkState::Stale
    } else if others().next().is_none() {
        LinkState::Holding
    } else if others().any(|filter| filter.priority == own.priority) || best_priority(filters) < own.priority {
        LinkState::Displaced
    } else {
        LinkState::Behind
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: u32 = 40;

    fn bpf(priority: u16, handle: u32, program: u32, name: &str) -> Filter {
        Filter {
            priority,
            handle,
            all_protocols: true,
            kind: "bpf".to_owned(),
            program: Some(program),
            name: name.to_owned(),
            ..Filter::default()
        }
    }

    fn u32(priority: u16) -> Filter {
        Filter { priority, handle: 0x8000_0800, kind: "u32".to_owned(), ..Filter::default() }
    }

    fn judged(filters: &[Filter]) -> Option<LinkState> {
        let owner = Owner::new(Path::new("/bpf/agent"));
        state(filters, Ours { owner: &owner, what: "iso_veth_in", program: Some(ID) })
    }

    const NAME: &str = "iso_veth_in:/bpf/agent";

    #[test]
    fn the_order_of_the_filters_says_how_ours_stands() {
        let (ours, cilium) = (bpf(1, 9, ID, NAME), bpf(1, 1, 7, "cil_from_container"));
        let later = |filter: &Filter| Filter { priority: 2, ..filter.clone() };
        assert_eq!(judged(&[]), None);
        assert_eq!(judged(std::slice::from_ref(&cilium)), None);
        assert_eq!(judged(&[ours.clone(), cilium.clone()]), Some(LinkState::Holding));
        assert_eq!(judged(&[cilium.clone(), ours.clone()]), Some(LinkState::Displaced), "it can be overtaken");
        assert_eq!(judged(&[cilium, later(&ours)]), Some(LinkState::Displaced), "its priority can be joined");
        assert_eq!(judged(&[u32(1), later(&ours)]), Some(LinkState::Behind), "it cannot be overtaken");
        assert_eq!(judged(&[u32(2), Filter { priority: 3, ..ours.clone() }]), Some(LinkState::Displaced), "1 is free");
        let chained = Filter { chain: 1, ..u32(1) };
        assert_eq!(judged(&[chained, ours.clone()]), Some(LinkState::Holding), "another chain runs only when sent to");
        let line = Filter { handle: 0, ..u32(1) };
        assert_eq!(
            judged(&[line, later(&ours)]),
            Some(LinkState::Holding),
            "a priority without filters decides nothing"
        );
    }

    #[test]
    fn what_an_earlier_program_left_is_ours() {
        let (ours, old) = (bpf(1, 9, ID, NAME), bpf(1, 8, 12, "iso_veth_in:/bpf/agent:made"));
        assert_eq!(judged(std::slice::from_ref(&old)), Some(LinkState::Stale));
        assert_eq!(judged(&[ours.clone(), old]), Some(LinkState::Stale));
        let by_hand = bpf(1, 9, ID, "pinned");
        assert_eq!(judged(&[by_hand]), Some(LinkState::Holding), "the program is what counts");
        let elsewhere = bpf(1, 8, 12, "iso_veth_in:/other/agent");
        assert_eq!(judged(std::slice::from_ref(&elsewhere)), None, "another agent's");
        assert_eq!(judged(&[elsewhere, ours]), Some(LinkState::Displaced), "and goes to the back");
        let indirect = Filter { program: None, ..bpf(1, 9, ID, NAME) };
        assert_eq!(judged(&[indirect]), Some(LinkState::Stale), "its verdict is not taken");
    }

    #[test]
    fn a_guard_stands_right_behind_ours_or_nowhere() {
        let owner = Owner::new(Path::new("/bpf/agent"));
        let behind =
            |filters: &[Filter]| priority_behind(filters, Ours { owner: &owner, what: "iso_veth_in", program: None });
        let (ours, cilium) = (bpf(1, 9, ID, NAME), bpf(1, 1, 7, "cil_from_container"));
        let later = |filter: &Filter| Filter { priority: 2, ..filter.clone() };
        assert_eq!(behind(&[]), None);
        assert_eq!(behind(std::slice::from_ref(&ours)), Some(2));
        assert_eq!(behind(&[ours.clone(), later(&cilium)]), Some(2), "the newest runs first");
        assert_eq!(behind(&[ours.clone(), cilium.clone()]), None, "it would come behind that one");
        assert_eq!(behind(&[ours.clone(), u32(2)]), None, "that priority is of another kind");
        assert_eq!(behind(&[cilium, later(&ours)]), Some(3));
        let other_slot = bpf(1, 10, 41, "iso_netdev_in-4:/bpf/agent");
        assert_eq!(behind(&[ours, other_slot]), None, "it would drop what comes to the guard");
    }

    #[test]
    fn two_of_ours_on_one_place_stand_together() {
        let other_slot = bpf(1, 10, 41, "iso_netdev_in-4:/bpf/agent");
        assert_eq!(judged(&[other_slot, bpf(1, 9, ID, NAME)]), Some(LinkState::Holding));
    }

    #[test]
    fn a_long_path_still_makes_a_name() {
        let path = format!("/{}/ä", "ä".repeat(300));
        let owner = Owner::new(Path::new(&path));
        let name = Ours { owner: &owner, what: "iso_netdev_out-65536", program: None }.name(true);
        assert!(name.len() <= 255 && name.ends_with("/ä:made"), "{name}");
    }
}
