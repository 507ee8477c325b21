//! What is slow and not urgent, one change at a time: between two of them, requests are answered.

use std::collections::BTreeMap;

use isolate_common::Direction;

use super::{Engine, place, repair::Before};
use crate::{
    inventory::HostVeth,
    observed::{LinkState, Observed, uid_of},
    plan::{Action, NetdevPlace},
};

impl Engine {
    /// Whether [`Self::arm_next`] has something to do.
    pub fn wants_to_arm(&self) -> bool {
        !self.to_arm.is_empty()
    }

    /// Carries out one change that is not urgent. Blocks for up to some 10 ms: a tcx attach waits for RCU.
    pub fn arm_next(&mut self) {
        let Some(action) = self.to_arm.pop_front() else { return };
        // The slot's program cuts whoever it is attached to.
        let is_isolated = |place: &NetdevPlace| {
            let policy = self.observed.policies.get(&place.key.slot);
            policy.is_some_and(|policy| self.desired.contains_key(&uid_of(policy)))
        };
        if let Action::AttachNetdev(place, _) | Action::AttachXdp(place) = &action
            && !is_isolated(place)
        {
            return;
        }
        // What was to hold its place may have had to be the link itself.
        if let Action::AttachVeth(veth, direction) = &action
            && self.veth_link(veth, *direction).is_some_and(LinkState::stands)
        {
            return;
        }
        let inventories = [&self.inventory, &self.inventory];
        let repair = Before { known: &self.known, found: &self.observed, inventories }.repair(&action);
        let Err(error) = self.enforcer.apply(&action, &mut self.observed) else {
            know(&mut self.known, &action, &self.observed);
            if let Some(repair) = repair {
                self.repaired(&repair);
            }
            return;
        };
        self.unattachable.extend(place(&action).map(|place| (place, error.to_string())));
        match &action {
            Action::AttachVeth(veth, _) if !self.follows(&action) => {
                tracing::debug!(veth = veth.name, %error, "cannot arm");
            }
            _ => self.warnings.push(error.to_string()),
        }
    }

    /// Carries out what is to follow the isolation of pods, before somebody looks who would find it missing, or nobody is there to do it.
    pub fn finish(&mut self) {
        while self.to_arm.front().is_some_and(|action| self.follows(action)) {
            self.arm_next();
        }
    }

    fn follows(&self, action: &Action) -> bool {
        match action {
            Action::AttachNetdev(..) | Action::AttachXdp(_) => true,
            Action::AttachVeth(veth, direction) => self.veth_link(veth, *direction) == Some(LinkState::Interim),
            _ => false,
        }
    }

    fn veth_link(&self, veth: &HostVeth, direction: Direction) -> Option<LinkState> {
        self.observed.veth_links.get(&(veth.ifindex, direction)).copied()
    }
}

/// Notes a hook that was attached: what takes it away before the next pass is told as well.
fn know(known: &mut Observed, action: &Action, observed: &Observed) {
    fn copy<K: Copy + Ord>(to: &mut BTreeMap<K, LinkState>, from: &BTreeMap<K, LinkState>, key: K) {
        to.extend(from.get(&key).map(|link| (key, *link)));
    }
    match action {
        Action::AttachVeth(veth, direction) => {
            copy(&mut known.veth_links, &observed.veth_links, (veth.ifindex, *direction));
        }
        Action::AttachNetdev(place, direction) => {
            copy(&mut known.netdev_links, &observed.netdev_links, (place.key, *direction));
        }
        Action::AttachXdp(place) => copy(&mut known.xdp_links, &observed.xdp_links, place.key),
        _ => {}
    }
}
