//! The scanner: walks the cgroup tree, looks at the processes, asks for the interfaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    CgroupId, Inventory, InventoryError, Pod, PodCgroup, cgroup,
    cri::{Cri, PodFacts},
    hierarchy::{Hierarchies, Unified},
    kubelet,
    netdev::{self, Exits},
    netlink::Netlink,
    process::{self, Netns, NodeNamespaces},
};
use crate::pod::PodUid;

/// Namespaces held open at a time, whatever the number of pods or of namespaces that a pod makes.
const BATCH: usize = 256;

/// Reads what runs on the node.
#[derive(Clone, Debug)]
pub struct Scanner {
    pub(super) inner: Arc<Inner>,
    cri: Cri,
}

#[derive(Debug)]
pub(super) struct Inner {
    hierarchies: Hierarchies,
    pub(super) node: NodeNamespaces,
    pub(super) kubelet: Mutex<Option<kubelet::Seen>>,
    netlink: Mutex<Netlink>,
    /// Where the last scan found the pods.
    seen: Mutex<BTreeMap<PodUid, Directories>>,
}

/// What the container runtime tells.
type Claims = BTreeMap<PodUid, PodFacts>;

/// The pod-level directories of one pod.
#[derive(Clone, Debug, Default)]
struct Directories {
    unified: Option<PathBuf>,
    v1: Vec<PathBuf>,
}

impl Scanner {
    /// A scanner of the node that the calling thread lives in: its network namespace is the node's own.
    ///
    /// `cgroup_root` is a folder of a cgroup hierarchy, or one below which some are mounted; without it all mounts
    /// are used.
    pub fn new(cgroup_root: Option<&Path>) -> Result<Self, InventoryError> {
        let inner = Inner {
            hierarchies: Hierarchies::find(cgroup_root)?,
            node: NodeNamespaces::open()?,
            kubelet: Mutex::default(),
            netlink: Mutex::new(Netlink::open()?),
            seen: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner), cri: Cri::default() })
    }

    /// The same, which also looks into the namespaces that the container runtime claims for pods.
    #[must_use]
    pub fn with_claims(self, cri: Cri) -> Self {
        Self { cri, ..self }
    }

    /// Whether there is a unified hierarchy: without it no pod can have a cgroup hook.
    pub fn has_cgroup2(&self) -> bool {
        self.inner.hierarchies.unified.is_some()
    }

    /// Reads all pods, and these `closely`: what their processes can do as well.
    pub async fn scan(&self, closely: impl IntoIterator<Item = PodUid>) -> Result<Inventory, InventoryError> {
        let closely = closely.into_iter().collect();
        let claims = self.cri.known().pods;
        self.blocking(move |inner| inner.scan(&closely, false, &claims)).await
    }

    /// The same, and the addresses of all pods and of the node.
    pub async fn scan_with_addresses(
        &self,
        closely: impl IntoIterator<Item = PodUid>,
    ) -> Result<Inventory, InventoryError> {
        let closely = closely.into_iter().collect();
        let claims = self.cri.known().pods;
        self.blocking(move |inner| inner.scan(&closely, true, &claims)).await
    }

    /// Reads these pods again, closely, without a walk through the tree if their directories are where they were, and with one
    /// look at the node's interfaces. Those that are gone are left out. Blocks, for who has nothing else to do meanwhile.
    pub fn pods(&self, uids: &BTreeSet<PodUid>) -> Result<BTreeMap<PodUid, Pod>, InventoryError> {
        self.inner.pods(uids, &self.cri.known().pods)
    }

    /// The same of one pod, beside this thread. `None` if it is gone.
    pub async fn pod(&self, uid: PodUid) -> Result<Option<Pod>, InventoryError> {
        let claims = self.cri.known().pods;
        self.blocking(move |inner| Ok(inner.pods(&[uid].into(), &claims)?.remove(&uid))).await
    }

    /// The pod-level directories of a pod and its processes, as they are now.
    pub async fn processes(&self, uid: PodUid) -> Result<(Vec<PathBuf>, BTreeSet<i32>), InventoryError> {
        self.blocking(move |inner| {
            let directories = inner.directories()?.remove(&uid).unwrap_or_default();
            Ok((directories.all().cloned().collect(), directories.pids()?))
        })
        .await
    }

    /// Reads one pod whose sandbox was just made; `netns` is the file by which its runtime keeps its namespace.
    pub async fn sandbox(&self, uid: PodUid, netns: Option<PathBuf>) -> Result<Option<Pod>, InventoryError> {
        let mut facts = self.cri.facts(&uid).unwrap_or_default();
        facts.netns.extend(netns);
        self.blocking(move |inner| Ok(inner.pods(&[uid].into(), &[(uid, facts)].into())?.remove(&uid))).await
    }

    pub(crate) fn hierarchies(&self) -> &Hierarchies {
        &self.inner.hierarchies
    }

    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Inner) -> Result<T, InventoryError> + Send + 'static,
    ) -> Result<T, InventoryError> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || read(&inner)).await.map_err(|_cancelled| InventoryError::Ending)?
    }
}

impl Inner {
    fn scan(&self, closely: &BTreeSet<PodUid>, addresses: bool, claims: &Claims) -> Result<Inventory, InventoryError> {
        let directories = self.directories()?;
        let mut inventory = self.read(&directories, closely, addresses, claims)?;
        if addresses {
            let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
            inventory.node = Some(netdev::taken(&mut netlink)?);
        }
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = directories;
        Ok(inventory)
    }

    fn pods(&self, uids: &BTreeSet<PodUid>, claims: &Claims) -> Result<BTreeMap<PodUid, Pod>, InventoryError> {
        let mut directories = self.seen(uids);
        directories.retain(|_, directories| directories.exist());
        if directories.len() < uids.len() {
            directories = self.directories()?;
            directories.retain(|uid, _| uids.contains(uid));
        }
        Ok(self.read(&directories, uids, false, claims)?.pods)
    }

    /// Where the last scan found these pods.
    fn seen(&self, uids: &BTreeSet<PodUid>) -> BTreeMap<PodUid, Directories> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        uids.iter().filter_map(|uid| Some((*uid, seen.get(uid)?.clone()))).collect()
    }

    fn directories(&self) -> Result<BTreeMap<PodUid, Directories>, InventoryError> {
        let mut pods: BTreeMap<PodUid, Directories> = BTreeMap::new();
        let unified = self.hierarchies.unified.as_ref().map(|unified| unified.path.as_path());
        for root in self.hierarchies.roots() {
            cgroup::walk(root, |path, uid| {
                let Some(uid) = uid else { return };
                let pod = pods.entry(uid).or_default();
                match &pod.unified {
                    _ if Some(root) != unified => pod.v1.push(path.to_path_buf()),
                    None => pod.unified = Some(path.to_path_buf()),
                    Some(other) => {
                        tracing::warn!(%uid, path = %path.display(), other = %other.display(), "second cgroup of a pod");
                    }
                }
            })
            .map_err(|source| InventoryError::Read { path: root.to_path_buf(), source })?;
        }
        Ok(pods)
    }

    fn read(
        &self,
        directories: &BTreeMap<PodUid, Directories>,
        closely: &BTreeSet<PodUid>,
        addresses: bool,
        claims: &Claims,
    ) -> Result<Inventory, InventoryError> {
        let mut pods = BTreeMap::new();
        let mut exits = BTreeMap::<PodUid, Vec<Exits>>::new();
        let mut batch: Vec<(PodUid, Netns, bool)> = Vec::new();
        for (&uid, directories) in directories {
            let cgroup = match (&self.hierarchies.unified, &directories.unified) {
                (Some(unified), Some(path)) => pod_cgroup(unified, path),
                _ => None,
            };
            if cgroup.is_none() && directories.v1.is_empty() {
                continue;
            }
            let claimed = claims.get(&uid).into_iter().flat_map(claimed);
            let closely = closely.contains(&uid);
            let census = process::census(uid, &directories.pids()?, &self.node, closely, claimed, |netns| {
                batch.push((uid, netns, closely || addresses));
                if batch.len() < BATCH { Ok(()) } else { self.flush(&mut batch, &mut exits) }
            })?;
            let pod = Pod {
                uid,
                cgroup,
                host_network: census.host_network,
                namespaces: census.namespaces,
                namespace_ids: Vec::new(),
                processes: census.processes,
                interfaces: Vec::new(),
                guard: census.guard,
                links: BTreeMap::new(),
                assigned: claims
                    .get(&uid)
                    .into_iter()
                    .flat_map(|facts| &facts.ips)
                    .map(netdev::of_either_family)
                    .collect(),
                powers: census.powers,
            };
            pods.insert(uid, pod);
        }
        self.flush(&mut batch, &mut exits)?;
        for (uid, exits) in exits {
            if let Some(pod) = pods.get_mut(&uid) {
                pod.links = netdev::links(&exits);
                pod.namespace_ids = exits.iter().map(Exits::nsid).collect();
                pod.interfaces = netdev::interfaces(exits);
            }
        }
        Ok(Inventory { pods, node: None })
    }

    /// Asks for the interfaces of the namespaces in `batch`, and closes these. Not held longer than that: a look at
    /// one pod does not wait for a scan of all to end.
    fn flush(
        &self,
        batch: &mut Vec<(PodUid, Netns, bool)>,
        exits: &mut BTreeMap<PodUid, Vec<Exits>>,
    ) -> Result<(), InventoryError> {
        let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        let found = netdev::exits(&mut netlink, batch.iter().map(|(_, netns, closely)| (netns, *closely)))?;
        drop(netlink);
        for ((uid, ..), found) in batch.drain(..).zip(found) {
            exits.entry(uid).or_default().push(found);
        }
        Ok(())
    }
}

impl Directories {
    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.unified.iter().chain(&self.v1)
    }

    fn exist(&self) -> bool {
        self.all().all(|path| path.is_dir())
    }

    /// The processes in the first hierarchy that has any: the runtime puts each into all of them.
    fn pids(&self) -> Result<BTreeSet<i32>, InventoryError> {
        for path in self.all() {
            let pids = process::pids(path)?;
            if !pids.is_empty() {
                return Ok(pids);
            }
        }
        Ok(BTreeSet::new())
    }
}

/// The namespaces that the runtime says are a pod's. A file that is gone, or none of those, is passed over.
fn claimed(facts: &PodFacts) -> impl Iterator<Item = Netns> {
    facts.netns.iter().filter_map(|path| {
        let opened = Netns::of_file(path.as_path().into());
        opened
            .inspect_err(|error| tracing::trace!(path = %path.display(), %error, "claimed namespace passed over"))
            .ok()
    })
}

/// `None` if the directory is gone.
fn pod_cgroup(unified: &Unified, path: &Path) -> Option<PodCgroup> {
    let id = CgroupId(fs::metadata(path).ok()?.ino());
    Some(PodCgroup { path: path.to_path_buf(), id, level: unified.level(path) })
}
