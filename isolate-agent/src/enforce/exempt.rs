//! The maps of what passes although its pod is isolated: written by the agent, read by the programs.

use aya::maps::{
    Array, HashMap, MapData,
    lpm_trie::{Key, LpmTrie},
};
use isolate_common::{AllowKey, AllowRules, LinkFacts, NodeFacts, names};

use super::{
    EnforceError,
    maps::{failed, removed},
};
use crate::{
    allow::Range,
    inventory::{CgroupId, IfIndex},
    observed::{Observed, Slot},
};

/// These maps.
pub(super) struct ExemptMaps {
    pub(super) node: Array<MapData, NodeFacts>,
    pub(super) link: HashMap<MapData, u32, LinkFacts>,
    pub(super) allow: LpmTrie<MapData, AllowKey, AllowRules>,
}

impl ExemptMaps {
    /// Reads them. Draws the mark that the programs know their own frames by, if nobody has yet.
    pub(super) fn observe(&mut self, observed: &mut Observed) -> Result<(), EnforceError> {
        let node = self.node_facts()?;
        observed.kubelet = Some(CgroupId(node.kubelet)).filter(|id| id.0 != 0);
        for entry in &self.link {
            let (ifindex, facts) = entry.map_err(failed("read", names::LINK))?;
            observed.links.insert(IfIndex(ifindex), facts);
        }
        for entry in &self.allow {
            let (key, rules) = entry.map_err(failed("read", names::ALLOW))?;
            if let Some((slot, range)) = Range::of_key(key.prefix_len(), key.data()) {
                observed.allowed.insert((Slot(slot), range), rules);
            }
        }
        Ok(())
    }

    fn node_facts(&mut self) -> Result<NodeFacts, EnforceError> {
        let mut node = self.node.get(&0, 0).map_err(failed("read", names::NODE))?;
        if node.mark == 0 {
            let mut drawn = [0; 4];
            let random = rustix::rand::getrandom(&mut drawn, rustix::rand::GetRandomFlags::empty());
            random.map_err(|errno| EnforceError::Random { source: errno.into() })?;
            node.mark = u32::from_ne_bytes(drawn).max(1);
            self.node.set(0, node, 0).map_err(failed("write", names::NODE))?;
        }
        Ok(node)
    }

    pub(super) fn set_kubelet(&mut self, id: Option<CgroupId>, observed: &mut Observed) -> Result<(), EnforceError> {
        let node = NodeFacts { kubelet: id.map_or(0, |id| id.0), ..self.node_facts()? };
        self.node.set(0, node, 0).map_err(failed("write", names::NODE))?;
        observed.kubelet = id;
        Ok(())
    }

    pub(super) fn set_link(
        &mut self,
        ifindex: IfIndex,
        facts: LinkFacts,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        self.link.insert(ifindex.0, facts, 0).map_err(failed("write", names::LINK))?;
        observed.links.insert(ifindex, facts);
        Ok(())
    }

    pub(super) fn drop_link(&mut self, ifindex: IfIndex, observed: &mut Observed) -> Result<(), EnforceError> {
        removed(self.link.remove(&ifindex.0)).map_err(failed("write", names::LINK))?;
        observed.links.remove(&ifindex);
        Ok(())
    }

    pub(super) fn set_allowed(
        &mut self,
        slot: Slot,
        range: Range,
        rules: AllowRules,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        let (bits, key) = range.key(slot.0);
        self.allow.insert(&Key::new(bits, key), rules, 0).map_err(failed("write", names::ALLOW))?;
        observed.allowed.insert((slot, range), rules);
        Ok(())
    }

    pub(super) fn drop_allowed(
        &mut self,
        slot: Slot,
        range: Range,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        let (bits, key) = range.key(slot.0);
        removed(self.allow.remove(&Key::new(bits, key))).map_err(failed("write", names::ALLOW))?;
        observed.allowed.remove(&(slot, range));
        Ok(())
    }
}
