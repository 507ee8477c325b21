//! The pinned maps: opened with a look at their definition, written one entry at a time, read whole.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{Array, Map, MapData, MapError, MapInfo, MapType, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use isolate_common::{
    AllowKey, AllowRules, Flow, FlowKey, KernelError, LinkFacts, Near, NodeFacts, Policy, SlotCounters, Window, names,
};

use super::{EnforceError, Mended, exempt::ExemptMaps, keys::Keys, pins, sys};
use crate::{
    inventory::{CgroupId, IfIndex},
    observed::{Observed, Slot},
};

/// Slots whose counters are read with one call.
const AT_ONCE: u32 = 64;

/// The pinned maps.
pub(super) struct Maps {
    gate: Array<MapData, u32>,
    cgroup: Keys<CgroupId>,
    veth: Keys<IfIndex>,
    policy: Array<MapData, Policy>,
    counters: PerCpuArray<MapData, SlotCounters>,
    errors: PerCpuArray<MapData, u64>,
    pub(super) exempt: ExemptMaps,
    pinned: Vec<PinnedMap>,
}

/// A map as it is pinned.
struct PinnedMap {
    name: &'static str,
    id: u32,
    fd: OwnedFd,
}

impl Maps {
    /// Opens the pins. Errors when one has another definition than this agent's: nothing is written then.
    pub(super) fn open(folder: &Path) -> Result<Self, EnforceError> {
        let mut pinned = Vec::new();
        let mut open = |name, kind, key, value| {
            let (data, id) = open_map(folder, name, kind, key, value)?;
            let fd = data.fd().as_fd().try_clone_to_owned();
            let fd = fd.map_err(|source| EnforceError::Pin { step: "open", path: pins::map(folder, name), source })?;
            pinned.push(PinnedMap { name, id, fd });
            Ok::<_, EnforceError>(data)
        };
        let (word, slot) = (size_of::<u32>(), size_of::<Slot>());
        let gate = Map::Array(open(names::GATE, MapType::Array, word, word)?);
        let cgroup = Map::HashMap(open(names::CGROUP, MapType::Hash, size_of::<CgroupId>(), slot)?);
        let ifindex = Map::HashMap(open(names::IFINDEX, MapType::Hash, size_of::<IfIndex>(), slot)?);
        let mut table = |name| open(name, MapType::Array, word, size_of::<Near>()).map(Map::Array);
        let [near_cgroup, near_veth] = [table(names::NEAR_CGROUP)?, table(names::NEAR_VETH)?];
        let policy = Map::Array(open(names::POLICY, MapType::Array, word, size_of::<Policy>())?);
        let counters = Map::PerCpuArray(open(names::COUNTERS, MapType::PerCpuArray, word, size_of::<SlotCounters>())?);
        let errors = Map::PerCpuArray(open(names::ERRORS, MapType::PerCpuArray, word, size_of::<u64>())?);
        open(names::LOGS, MapType::RingBuf, 0, 0)?;
        let node = Map::Array(open(names::NODE, MapType::Array, word, size_of::<NodeFacts>())?);
        let link = Map::HashMap(open(names::LINK, MapType::Hash, size_of::<IfIndex>(), size_of::<LinkFacts>())?);
        let allow_key = word + size_of::<AllowKey>();
        let allow = Map::LpmTrie(open(names::ALLOW, MapType::LpmTrie, allow_key, size_of::<AllowRules>())?);
        // The programs alone write to these.
        open(names::FLOW, MapType::LruHash, size_of::<FlowKey>(), size_of::<Flow>())?;
        open(names::WINDOW, MapType::Array, word, size_of::<Window>())?;
        Ok(Self {
            gate: typed(names::GATE, gate)?,
            cgroup: Keys {
                hash: typed(names::CGROUP, cgroup)?,
                table: typed(names::NEAR_CGROUP, near_cgroup)?,
                names: [names::CGROUP, names::NEAR_CGROUP],
            },
            veth: Keys {
                hash: typed(names::IFINDEX, ifindex)?,
                table: typed(names::NEAR_VETH, near_veth)?,
                names: [names::IFINDEX, names::NEAR_VETH],
            },
            policy: typed(names::POLICY, policy)?,
            counters: typed(names::COUNTERS, counters)?,
            errors: typed(names::ERRORS, errors)?,
            exempt: ExemptMaps {
                node: typed(names::NODE, node)?,
                link: typed(names::LINK, link)?,
                allow: typed(names::ALLOW, allow)?,
            },
            pinned,
        })
    }

    /// Whether the map with this id is one of ours.
    pub(super) fn has(&self, id: u32) -> bool {
        self.pinned.iter().any(|map| map.id == id)
    }

    /// One of the maps, if it is one of ours.
    pub(super) fn fd(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.pinned.iter().find(|map| map.name == name).map(|map| map.fd.as_fd())
    }

    /// Id of the policy map, by which a program is known as ours.
    pub(super) fn policy_id(&self) -> u32 {
        self.pinned.iter().find(|map| map.name == names::POLICY).expect("all are opened together").id
    }

    /// The maps that have no pin any more, or whose pin leads to another map.
    pub(super) fn unpinned(&self, folder: &Path) -> impl Iterator<Item = (PathBuf, BorrowedFd<'_>)> {
        let lost = |path: &PathBuf, id: u32| !MapInfo::from_pin(path).is_ok_and(|info| info.id() == id);
        self.pinned.iter().filter_map(move |map| {
            let path = pins::map(folder, map.name);
            lost(&path, map.id).then(|| (path, map.fd.as_fd()))
        })
    }

    /// Pins again what has no pin any more.
    pub(super) fn mend(&self, folder: &Path) -> Result<Vec<Mended>, EnforceError> {
        self.unpinned(folder).map(|(path, fd)| pins::again(fd, path)).collect()
    }

    /// Reads every map but the counters.
    pub(super) fn observe(&mut self) -> Result<Observed, EnforceError> {
        let mut observed = Observed { capacity: self.policy.len() - 1, ..Observed::default() };
        observed.gate = self.gate.get(&0, 0).map_err(failed("read", names::GATE))?;
        let fd = |name| self.fd(name).expect("all are opened together");
        observed.cgroup_keys = self.cgroup.observe(fd(names::NEAR_CGROUP))?;
        observed.veth_keys = self.veth.observe(fd(names::NEAR_VETH))?;
        let policies = sys::array_values(fd(names::POLICY), 0, self.policy.len(), 1);
        let policies = policies.map_err(|error| failed("read", names::POLICY)(error.into()))?;
        let in_use = (0..).map(Slot).zip(policies).filter(|(_, policy): &(_, Policy)| policy.is_in_use());
        observed.policies.extend(in_use);
        self.exempt.observe(&mut observed)?;
        Ok(observed)
    }

    /// Writes the tables that go with the hashes of keys, after an older layout's hashes were copied.
    pub(super) fn fill_tables(&mut self) -> Result<(), EnforceError> {
        self.cgroup.fill_table()?;
        self.veth.fill_table()
    }

    pub(super) fn set_gate(&mut self, gate: u32, observed: &mut Observed) -> Result<(), EnforceError> {
        self.gate.set(0, gate, 0).map_err(failed("write", names::GATE))?;
        observed.gate = gate;
        Ok(())
    }

    pub(super) fn set_policy(
        &mut self,
        slot: Slot,
        policy: Policy,
        fresh: bool,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        if fresh {
            let zeroes = per_cpu_zeroes().map_err(|error| failed("clear", names::COUNTERS)(error.into()))?;
            self.counters.set(slot.0, zeroes, 0).map_err(failed("clear", names::COUNTERS))?;
        }
        self.policy.set(slot.0, policy, 0).map_err(failed("write", names::POLICY))?;
        observed.policies.insert(slot, policy);
        Ok(())
    }

    pub(super) fn vacate(&mut self, slot: Slot, observed: &mut Observed) -> Result<(), EnforceError> {
        self.policy.set(slot.0, Policy::default(), 0).map_err(failed("write", names::POLICY))?;
        observed.policies.remove(&slot);
        Ok(())
    }

    pub(super) fn set_cgroup_key(
        &mut self,
        id: CgroupId,
        slot: Slot,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        self.cgroup.set(id, slot, &mut observed.cgroup_keys)
    }

    pub(super) fn set_veth_key(
        &mut self,
        ifindex: IfIndex,
        slot: Slot,
        observed: &mut Observed,
    ) -> Result<(), EnforceError> {
        self.veth.set(ifindex, slot, &mut observed.veth_keys)
    }

    pub(super) fn drop_cgroup_key(&mut self, id: CgroupId, observed: &mut Observed) -> Result<(), EnforceError> {
        self.cgroup.drop(id, &mut observed.cgroup_keys)
    }

    pub(super) fn drop_veth_key(&mut self, ifindex: IfIndex, observed: &mut Observed) -> Result<(), EnforceError> {
        self.veth.drop(ifindex, &mut observed.veth_keys)
    }

    /// What the programs of these slots, in ascending order, dropped, over all CPUs.
    pub(super) fn counters(&self, slots: &[Slot]) -> Result<BTreeMap<Slot, SlotCounters>, EnforceError> {
        let failed = |error: io::Error| failed("read", names::COUNTERS)(error.into());
        let cpus = nr_cpus().map_err(|(_, error)| failed(error))?;
        let mut all = BTreeMap::new();
        for near in slots.chunk_by(|one, next| one.0 / AT_ONCE == next.0 / AT_ONCE) {
            match self.counters_at_once(near, cpus) {
                Err(error) if error.raw_os_error() == Some(sys::ENOTSUPP) => {
                    for slot in near {
                        all.insert(*slot, self.counters_of_one(*slot)?);
                    }
                }
                read => all.extend(read.map_err(failed)?),
            }
        }
        Ok(all)
    }

    /// The same of slots in ascending order, by one call for all from the first to the last.
    fn counters_at_once(&self, slots: &[Slot], cpus: usize) -> io::Result<Vec<(Slot, SlotCounters)>> {
        let (Slot(first), Slot(last)) = (slots[0], slots[slots.len() - 1]);
        let fd = self.fd(names::COUNTERS).expect("all are opened together");
        let values = sys::array_values(fd, first, last - first + 1, cpus)?;
        let each = (first..).map(Slot).zip(values.chunks(cpus));
        let asked_for = each.filter(|(slot, _)| slots.binary_search(slot).is_ok());
        Ok(asked_for.map(|(slot, per_cpu)| (slot, sum(per_cpu))).collect())
    }

    /// The same of one slot, by a call that every kernel has.
    fn counters_of_one(&self, slot: Slot) -> Result<SlotCounters, EnforceError> {
        self.counters.get(&slot.0, 0).map(|per_cpu| sum(&per_cpu)).map_err(failed("read", names::COUNTERS))
    }

    /// Errors in the programs, over all CPUs.
    pub(super) fn kernel_errors(&self) -> Result<Vec<(KernelError, u64)>, EnforceError> {
        let count = |error: KernelError| {
            let per_cpu = self.errors.get(&(error as u32), 0).map_err(failed("read", names::ERRORS))?;
            Ok((error, per_cpu.iter().sum()))
        };
        KernelError::ALL.into_iter().map(count).collect()
    }
}

pub(super) fn failed(step: &'static str, map: &'static str) -> impl Fn(MapError) -> EnforceError {
    move |source| EnforceError::Map { step, map, source }
}

/// That a key is absent already is success.
pub(super) fn removed(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn sum(per_cpu: &[SlotCounters]) -> SlotCounters {
    let mut sum = SlotCounters::default();
    for counters in per_cpu {
        sum.add(counters);
    }
    sum
}

fn per_cpu_zeroes<T: Default + Pod>() -> Result<PerCpuValues<T>, io::Error> {
    let cpus = nr_cpus().map_err(|(_, error)| error)?;
    PerCpuValues::try_from(vec![T::default(); cpus])
}

fn typed<T: TryFrom<Map, Error = MapError>>(name: &'static str, map: Map) -> Result<T, EnforceError> {
    T::try_from(map).map_err(failed("open", name))
}

fn open_map(
    folder: &Path,
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
) -> Result<(MapData, u32), EnforceError> {
    let path = pins::map(folder, name);
    let foreign = |why: String| EnforceError::Foreign { what: "map", path: path.clone(), why };
    let info = MapInfo::from_pin(&path).map_err(|error| foreign(error.to_string()))?;
    let found = (info.map_type().map_err(|error| foreign(error.to_string()))?, info.key_size(), info.value_size());
    let size = |bytes: usize| u32::try_from(bytes).expect("some bytes");
    let expected = (kind, size(key), size(value));
    if found != expected {
        return Err(foreign(format!("type, key and value sizes are {found:?}, not {expected:?}")));
    }
    let data = MapData::from_pin(&path).map_err(failed("open", name))?;
    Ok((data, info.id()))
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").field("policy", &self.policy_id()).finish_non_exhaustive()
    }
}
