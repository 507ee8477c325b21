//! Pins of links: what each is for, which its name says.

use std::{collections::BTreeMap, fs, io, path::Path};

use isolate_common::{Ask, DIRECTIONS, Direction, Hook};

use crate::{
    inventory::{CgroupId, IfIndex},
    observed::{LinkState, NetdevKey, Observed, Slot},
};

/// Ends the name of a pin that is about to take the place of another.
pub(super) const NEXT: &str = "-next";

/// What a link is pinned for; its name says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pin {
    Cgroup(CgroupId),
    Veth(IfIndex),
    Netdev(NetdevKey),
    Xdp(NetdevKey),
    Lsm(CgroupId, Ask),
}

impl Pin {
    pub(super) const fn hook(self) -> Hook {
        match self {
            Self::Cgroup(_) => Hook::Cgroup,
            Self::Veth(_) => Hook::Veth,
            Self::Netdev(_) | Self::Xdp(_) => Hook::Netdev,
            Self::Lsm(..) => Hook::Lsm,
        }
    }

    /// The slot that it is keyed to.
    pub(super) fn slot(self, known: &Observed) -> Option<Slot> {
        match self {
            Self::Cgroup(id) | Self::Lsm(id, _) => known.cgroup_keys.get(&id).copied(),
            Self::Veth(ifindex) => known.veth_keys.get(&ifindex).copied(),
            Self::Netdev(key) | Self::Xdp(key) => Some(key.slot),
        }
    }

    /// What was noted of it.
    pub(super) fn noted(self, direction: Direction, observed: &Observed) -> Option<LinkState> {
        match self {
            Self::Cgroup(id) => observed.cgroup_links.get(&(id, direction)).copied(),
            Self::Veth(ifindex) => observed.veth_links.get(&(ifindex, direction)).copied(),
            Self::Netdev(key) => observed.netdev_links.get(&(key, direction)).copied(),
            Self::Xdp(key) => observed.xdp_links.get(&key).copied(),
            Self::Lsm(id, ask) => observed.lsm_links.get(&(id, ask)).copied(),
        }
    }

    /// bpffs allows no dots in names.
    pub(super) fn name(self, direction: Direction) -> String {
        let direction = direction.name();
        let place = |NetdevKey { slot: Slot(slot), namespace, index }: NetdevKey| format!("{slot}-{namespace}-{index}");
        match self {
            Self::Cgroup(CgroupId(id)) => format!("cgroup-{id}-{direction}"),
            Self::Veth(IfIndex(index)) => format!("veth-{index}-{direction}"),
            Self::Netdev(key) => format!("netdev-{}-{direction}", place(key)),
            Self::Xdp(key) => format!("xdp-{}-{direction}", place(key)),
            Self::Lsm(CgroupId(id), ask) => format!("lsm-{id}-{}-{direction}", ask.name()),
        }
    }

    /// What a name says; none for one that is no pin's of a link.
    pub(super) fn read(name: &str) -> Option<(Self, Direction)> {
        let (place, direction) = name.rsplit_once('-')?;
        let direction = DIRECTIONS.into_iter().find(|known| known.name() == direction)?;
        let pin = match place.split('-').collect::<Vec<_>>().as_slice() {
            ["cgroup", id] => Self::Cgroup(CgroupId(id.parse().ok()?)),
            ["veth", index] => Self::Veth(IfIndex(index.parse().ok()?)),
            [hook @ ("netdev" | "xdp"), slot, namespace, index] => {
                let (slot, namespace) = (Slot(slot.parse().ok()?), namespace.parse().ok()?);
                let key = NetdevKey { slot, namespace, index: index.parse().ok()? };
                match (*hook, direction) {
                    ("netdev", _) => Self::Netdev(key),
                    (_, Direction::In) => Self::Xdp(key),
                    (_, Direction::Out) => return None,
                }
            }
            ["lsm", id, ask] => {
                let ask = Ask::ALL.into_iter().find(|known| known.name() == *ask)?;
                (ask.direction() == direction).then_some(Self::Lsm(CgroupId(id.parse().ok()?), ask))?
            }
            _ => return None,
        };
        Some((pin, direction))
    }
}

/// Notes what is known of a link: its state, or that there is none any more.
pub(super) fn note(observed: &mut Observed, pin: Pin, direction: Direction, state: Option<LinkState>) {
    fn set<K: Ord>(links: &mut BTreeMap<K, LinkState>, key: K, state: Option<LinkState>) {
        match state {
            Some(state) => links.insert(key, state),
            None => links.remove(&key),
        };
    }
    match pin {
        Pin::Cgroup(id) => set(&mut observed.cgroup_links, (id, direction), state),
        Pin::Veth(ifindex) => set(&mut observed.veth_links, (ifindex, direction), state),
        Pin::Netdev(key) => set(&mut observed.netdev_links, (key, direction), state),
        Pin::Xdp(key) => set(&mut observed.xdp_links, key, state),
        Pin::Lsm(id, ask) => set(&mut observed.lsm_links, (id, ask), state),
    }
}

/// Removes a pin; that it is gone already is success.
pub(super) fn unpin(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_are_read_back() {
        let netdev = NetdevKey { slot: Slot(3), namespace: 4_026_532_318, index: 2 };
        for pin in [Pin::Cgroup(CgroupId(77)), Pin::Veth(IfIndex(12)), Pin::Netdev(netdev)] {
            for direction in DIRECTIONS {
                let name = pin.name(direction);
                assert_eq!(Pin::read(&name), Some((pin, direction)), "{name}");
                assert!(!name.contains('.'));
            }
        }
        let xdp = Pin::Xdp(netdev);
        assert_eq!(Pin::read(&xdp.name(Direction::In)), Some((xdp, Direction::In)));
        for ask in Ask::ALL {
            let pin = Pin::Lsm(CgroupId(77), ask);
            assert_eq!(Pin::read(&pin.name(ask.direction())), Some((pin, ask.direction())));
        }
        for stranger in [
            "veth-1",
            "veth-x-in",
            "lo-1-in",
            "veth-1-up",
            "veth-1-in-2",
            "netdev-1-2-in",
            "xdp-1-2-3-out",
            "lsm-1-send-in",
            "",
        ] {
            assert_eq!(Pin::read(stranger), None, "{stranger}");
        }
    }
}
