//! The planner against a model of the kernel that does what each action says, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use isolate_common::{AllowRules, Ask, DIRECTIONS, GATE_SHUT, LinkFacts, Policy, PolicyFlags};
use proptest::prelude::*;

use super::*;
use crate::{
    allow::{self, Allow, Range},
    desired::{Entry, RECORD_VERSION, Record},
    inventory::{Ends, HostVeth, Inside, Netkit, PodCgroup, Taken, Way},
    observed::NetdevKey,
};

const PODS: u8 = 5;

fn uid(pod: u8) -> PodUid {
    PodUid::new([pod; 16], false)
}

/// One bit of `options` for each of loopback, probes and allowed addresses.
fn entry(pod: u8, options: u8) -> Entry {
    Entry::Saved(Record {
        version: RECORD_VERSION,
        uid: uid(pod),
        pod: None,
        since: jiff::Timestamp::UNIX_EPOCH,
        by: "test".into(),
        reason: None,
        keep_loopback: options & 1 != 0,
        probe_ports: if options & 2 != 0 { [80, 8080].into() } else { BTreeSet::new() },
        allow: if options & 4 != 0 {
            ranges()[..2].iter().map(|text| text.parse().expect("valid")).collect()
        } else {
            Vec::new()
        },
        limit: None,
    })
}

fn ranges() -> [&'static str; 3] {
    ["10.0.0.0/8:22", "in:10.0.0.1", "2001:db8::/32"]
}

fn ends(ifindex: u32) -> Ends {
    let byte = ifindex.to_ne_bytes()[0];
    Ends { node: [byte; 6], pod: [byte + 100; 6], addresses: vec![[byte; 16]] }
}

fn facts(ifindex: u32) -> LinkFacts {
    let Ends { node, pod, addresses } = ends(ifindex);
    LinkFacts { node, pod, addresses: [addresses[0], [0; 16], [0; 16], [0; 16]], sole: 0 }
}

fn veth(ifindex: u32) -> Interface {
    // Some are netkit devices that drop by themselves, both ways or one.
    let netkit = ifindex.is_multiple_of(3).then(|| Netkit { blackhole: [ifindex.is_multiple_of(2), true] });
    let host = Some(HostVeth { ifindex: IfIndex(ifindex), name: format!("veth{ifindex}"), netkit });
    let inside = Some(Inside { namespace: 7, index: ifindex + 100, way: Way::Process(1) });
    Interface { name: "eth0".into(), kind: "veth".into(), host, inside, claimed: false }
}

fn pod(number: u8, cgroup: Option<(u64, Option<u32>)>, veths: &BTreeSet<u32>) -> Pod {
    Pod {
        uid: uid(number),
        cgroup: cgroup.map(|(id, level)| PodCgroup { path: format!("/c/{id}").into(), id: CgroupId(id), level }),
        host_network: false,
        // The last two have processes in a namespace that is not their own.
        namespaces: if number < 3 { 1 } else { 2 },
        namespace_ids: Vec::new(),
        processes: 1,
        interfaces: veths.iter().copied().map(veth).collect(),
        guard: None,
        links: veths.iter().map(|&ifindex| (IfIndex(ifindex), ends(ifindex))).collect(),
        assigned: Vec::new(),
        powers: None,
    }
}

/// What the kernel does with each action.
fn carry_out(kernel: &mut Observed, action: &Action) {
    match action {
        Action::SetPolicy { slot, policy, .. } => {
            kernel.policies.insert(*slot, *policy);
        }
        Action::SetCgroupKey(id, slot) => {
            kernel.cgroup_keys.insert(*id, *slot);
        }
        Action::SetVethKey(ifindex, slot) => {
            kernel.veth_keys.insert(*ifindex, *slot);
        }
        Action::OpenGate(gate) | Action::NarrowGate(gate) => kernel.gate = *gate,
        Action::AttachCgroup(place, direction) => {
            kernel.cgroup_links.insert((place.id, *direction), LinkState::Holding);
        }
        Action::HoldVeth(veth, direction) => {
            kernel.veth_links.insert((veth.ifindex, *direction), LinkState::Interim);
        }
        Action::AttachVeth(veth, direction) => {
            kernel.veth_links.insert((veth.ifindex, *direction), LinkState::Holding);
        }
        Action::DetachCgroup(id, direction) => {
            kernel.cgroup_links.remove(&(*id, *direction));
        }
        Action::DropCgroupKey(id) => {
            kernel.cgroup_keys.remove(id);
        }
        Action::DropVethKey(ifindex) => {
            kernel.veth_keys.remove(ifindex);
        }
        Action::Vacate(slot) => {
            kernel.policies.remove(slot);
        }
        Action::AttachNetdev(place, direction) => {
            kernel.netdev_links.insert((place.key, *direction), LinkState::Holding);
        }
        Action::DetachNetdev(key, direction) => {
            kernel.netdev_links.remove(&(*key, *direction));
        }
        Action::AttachXdp(place) => {
            kernel.xdp_links.insert(place.key, LinkState::Holding);
        }
        Action::DetachXdp(key) => {
            kernel.xdp_links.remove(key);
        }
        Action::AttachLsm(place, ask) => {
            kernel.lsm_links.insert((place.id, *ask), LinkState::Holding);
        }
        Action::DetachLsm(id, ask) => {
            kernel.lsm_links.remove(&(*id, *ask));
        }
        Action::SetKubelet(id) => kernel.kubelet = *id,
        Action::SetLink(ifindex, facts) => {
            kernel.links.insert(*ifindex, *facts);
        }
        Action::DropLink(ifindex) => {
            kernel.links.remove(ifindex);
        }
        Action::SetAllowed(slot, range, rules) => {
            kernel.allowed.insert((*slot, *range), *rules);
        }
        Action::DropAllowed(slot, range) => {
            kernel.allowed.remove(&(*slot, *range));
        }
        Action::DetachVeth(ifindex, direction) | Action::DisarmVeth(ifindex, direction) => {
            kernel.veth_links.remove(&(*ifindex, *direction));
        }
    }
}

/// Whether the kernel drops every packet that this hook sees, as the programs decide it.
fn cgroup_is_cut(kernel: &Observed, id: CgroupId, direction: Direction) -> bool {
    kernel.cgroup_links.get(&(id, direction)).is_some_and(|link| link.is_live())
}

fn veth_is_cut(kernel: &Observed, ifindex: IfIndex, direction: Direction) -> bool {
    kernel.gate != GATE_SHUT
        && kernel.veth_keys.contains_key(&ifindex)
        && kernel.veth_links.get(&(ifindex, direction)).is_some_and(|link| link.is_live())
}

fn netdev_is_cut(kernel: &Observed, namespace: u64, index: u32, direction: Direction) -> bool {
    let cut = |((key, of), link): (&(NetdevKey, Direction), &LinkState)| {
        (key.namespace, key.index, *of) == (namespace, index, direction) && link.is_live()
    };
    kernel.netdev_links.iter().any(cut)
}

fn insides(pod: &Pod) -> impl Iterator<Item = Inside> {
    pod.interfaces.iter().filter_map(|interface| interface.inside.clone())
}

#[derive(Clone, Debug)]
struct Node {
    desired: Desired,
    inventory: Inventory,
    kernel: Observed,
    arm: Arm,
    lingers: bool,
}

impl Node {
    fn view(&self) -> View<'_> {
        View {
            desired: &self.desired,
            inventory: &self.inventory,
            observed: &self.kernel,
            arm: self.arm,
            kubelet: Some(CgroupId(1)),
            lingers: self.lingers,
        }
    }

    fn desired_owner(&self, owns: impl Fn(&Pod) -> bool) -> bool {
        self.inventory.pods.values().any(|pod| owns(pod) && self.desired.contains_key(&pod.uid))
    }

    /// Whether it is the only way out of a healthy pod.
    fn is_home(&self, owns: impl Fn(&Pod) -> bool) -> bool {
        let healthy = self.inventory.pods.values().filter(|pod| !self.desired.contains_key(&pod.uid));
        healthy.filter(|pod| pod.namespaces == 1).any(owns)
    }

    fn owned(&self, owns: impl Fn(&Pod) -> bool) -> bool {
        self.inventory.pods.values().any(owns)
    }
}

fn owns_veth(ifindex: IfIndex) -> impl Fn(&Pod) -> bool {
    move |pod| pod.host_veths().any(|veth| veth.ifindex == ifindex)
}

fn owns_cgroup(id: CgroupId) -> impl Fn(&Pod) -> bool {
    move |pod| pod.cgroup.as_ref().is_some_and(|cgroup| cgroup.id == id)
}

prop_compose! {
    fn pods()(
        present in proptest::collection::btree_map(0..PODS, (
            proptest::option::of((0..2_u64, prop_oneof![Just(None), (1..20_u32).prop_map(Some)])),
            proptest::collection::btree_set(10..18_u32, 0..3),
        ), 0..=usize::from(PODS)),
        node in proptest::option::of(Just(Taken::default())),
    ) -> Inventory {
        let mut pods = BTreeMap::new();
        for (number, (cgroup, veths)) in present {
            let cgroup = cgroup.map(|(generation, level)| (100 + 100 * generation + u64::from(number), level));
            pods.insert(uid(number), pod(number, cgroup, &veths));
        }
        Inventory { pods, node }
    }
}

fn links<K: Ord + Clone + std::fmt::Debug>(
    keys: impl Strategy<Value = K>,
) -> impl Strategy<Value = BTreeMap<(K, Direction), LinkState>> {
    let state = prop_oneof![
        4 => Just(LinkState::Holding), 1 => Just(LinkState::Displaced), 1 => Just(LinkState::Behind),
        1 => Just(LinkState::Stale), 1 => Just(LinkState::Interim),
        1 => Just(LinkState::Defunct)
    ];
    let direction = prop_oneof![Just(Direction::In), Just(Direction::Out)];
    proptest::collection::btree_map((keys, direction), state, 0..12)
}

/// The links of the LSM hook that are asked in a direction.
fn asks(
    ((id, direction), state): ((CgroupId, Direction), LinkState),
) -> impl Iterator<Item = ((CgroupId, Ask), LinkState)> {
    Ask::ALL.into_iter().filter(move |ask| ask.direction() == direction).map(move |ask| ((id, ask), state))
}

type Exempted = (Option<CgroupId>, BTreeMap<IfIndex, LinkFacts>, BTreeMap<(Slot, Range), AllowRules>);

fn exemptions() -> impl Strategy<Value = Exempted> {
    let range = (0..3_usize).prop_map(|index| {
        let allow: Allow = ranges()[index].parse().expect("valid");
        *allow::compile(&[allow]).expect("one").keys().next().expect("one")
    });
    let allowed = proptest::collection::btree_map((0..8_u32, range), any::<bool>(), 0..6);
    let links = proptest::collection::btree_map(10..18_u32, 9..12_u32, 0..4);
    (proptest::option::of(0..3_u64), links, allowed).prop_map(|(kubelet, links, allowed)| {
        let links = links.into_iter().map(|(ifindex, other)| (IfIndex(ifindex), facts(other))).collect();
        let mut some = AllowRules::default();
        some.rules[0].0 = 1;
        let rules = |full| if full { some } else { AllowRules::default() };
        let allowed = allowed.into_iter().map(|((slot, range), full)| ((Slot(slot), range), rules(full))).collect();
        (kubelet.map(CgroupId), links, allowed)
    })
}

fn cgroup_ids() -> impl Strategy<Value = CgroupId> {
    (0..2_u64, 0..u64::from(PODS)).prop_map(|(generation, pod)| CgroupId(100 + 100 * generation + pod))
}

fn netdev_keys() -> impl Strategy<Value = NetdevKey> {
    (0..7_u32, 110..118_u32).prop_map(|(slot, index)| NetdevKey { slot: Slot(slot), namespace: 7, index })
}

prop_compose! {
    /// Any state of the maps, also one that no agent leaves behind.
    fn kernels()(
        capacity in 0..7_u32,
        gate in prop_oneof![Just(GATE_SHUT), Just(0b1101), any::<u16>().prop_map(u32::from)],
        policies in proptest::collection::btree_map(1..7_u32, (0..PODS, 0..16_u32), 0..5),
        exempted in exemptions(),
        cgroup_keys in proptest::collection::btree_map(cgroup_ids(), 0..8_u32, 0..6),
        veth_keys in proptest::collection::btree_map(10..18_u32, 0..8_u32, 0..6),
        cgroup_links in links(cgroup_ids()),
        veth_links in links((10..18_u32).prop_map(IfIndex)),
        has_lsm in any::<bool>(),
        lsm_links in links(cgroup_ids()),
        netdev_links in links(netdev_keys()),
        xdp_links in links(netdev_keys()),
        (host_ends_suffice, filters_hold) in any::<(bool, bool)>(),
    ) -> Observed {
        let policy = |(slot, (pod, flags)): (u32, (u8, u32))| {
            (Slot(slot), Policy { uid: uid(pod).bytes(), in_use: 1, flags: PolicyFlags(flags), ..Policy::default() })
        };
        Observed {
            kubelet: exempted.0,
            links: exempted.1,
            allowed: exempted.2,
            capacity,
            gate,
            policies: policies.into_iter().map(policy).collect(),
            cgroup_keys: cgroup_keys.into_iter().map(|(id, slot)| (id, Slot(slot))).collect(),
            veth_keys: veth_keys.into_iter().map(|(ifindex, slot)| (IfIndex(ifindex), Slot(slot))).collect(),
            cgroup_links,
            veth_links,
            netdev_links,
            xdp_links: xdp_links.into_iter().map(|((key, _), state)| (key, state)).collect(),
            host_ends_suffice,
            filters_hold,
            has_lsm,
            lsm_links: lsm_links.into_iter().flat_map(asks).collect(),
        }
    }
}

prop_compose! {
    fn nodes()(
        desired in proptest::collection::btree_map(0..PODS, 0..8_u8, 0..=usize::from(PODS)),
        inventory in pods(),
        kernel in kernels(),
        on_demand in any::<bool>(),
        lingers in any::<bool>(),
    ) -> Node {
        let desired = desired.into_iter().map(|(pod, options)| (uid(pod), entry(pod, options))).collect();
        Node { desired, inventory, kernel, arm: if on_demand { Arm::OnDemand } else { Arm::All }, lingers }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn one_plan_is_enough(mut node in nodes()) {
        let mut plan = node.view().plan();
        for action in plan.enforce.iter().chain(&plan.arm) {
            carry_out(&mut node.kernel, action);
        }
        // Stray keys keep slots from being given out until they are gone: a pass or two later there is room.
        while !plan.no_slot.is_empty() && !plan.enforce.is_empty() {
            plan = node.view().plan();
            for action in plan.enforce.iter().chain(&plan.arm) {
                carry_out(&mut node.kernel, action);
            }
        }
        let again = node.view().plan();
        prop_assert_eq!((again.enforce, again.arm), (vec![], vec![]));
    }

    #[test]
    fn what_is_desired_is_cut(mut node in nodes()) {
        let plan = node.view().plan();
        let held = plan.enforce.iter().any(|action| matches!(action, Action::HoldVeth(..)));
        prop_assert!(!held || (node.lingers && node.kernel.filters_hold), "nobody attaches the links");
        for action in &plan.enforce {
            carry_out(&mut node.kernel, action);
        }
        let slots = node.kernel.slots();
        for (uid, entry) in node.desired.iter().filter(|(uid, _)| !plan.no_slot.contains(uid)) {
            prop_assert_eq!(node.kernel.policies.get(&slots[uid]), Some(&entry.policy(uid)));
            let Some(pod) = node.inventory.pods.get(uid) else { continue };
            for direction in DIRECTIONS {
                if let Some(cgroup) = &pod.cgroup {
                    prop_assert_eq!(node.kernel.cgroup_keys.get(&cgroup.id), Some(&slots[uid]));
                    prop_assert!(cgroup_is_cut(&node.kernel, cgroup.id, direction));
                    let asks = Ask::ALL.into_iter().filter(|_| node.kernel.has_lsm);
                    for ask in asks {
                        prop_assert_eq!(node.kernel.lsm_links.get(&(cgroup.id, ask)), Some(&LinkState::Holding));
                    }
                    let level = cgroup.level.unwrap_or(1);
                    prop_assert!(level > isolate_common::MAX_CGROUP_LEVEL || node.kernel.gate & (1 << level) != 0);
                }
                for veth in pod.host_veths().filter(|veth| !node.is_home(owns_veth(veth.ifindex))) {
                    prop_assert!(veth_is_cut(&node.kernel, veth.ifindex, direction));
                }
            }
            for interface in node.view().homes().leave(pod) {
                let Inside { namespace, index, .. } = interface.inside.clone().expect("all are known");
                let follows = node.lingers && node.kernel.host_ends_suffice && interface.host.is_some();
                for direction in netdev_directions(interface).filter(|_| !follows) {
                    prop_assert!(netdev_is_cut(&node.kernel, namespace, index, direction));
                }
            }
        }
    }

    #[test]
    fn what_follows_cuts_the_rest(mut node in nodes()) {
        let plan = node.view().plan();
        for action in &plan.enforce {
            carry_out(&mut node.kernel, action);
        }
        let follows = |action: &&Action| matches!(action, Action::AttachNetdev(..) | Action::AttachXdp(_));
        let following = node.view().arm();
        let following: BTreeSet<&Action> = following.iter().filter(follows).collect();
        // With a slot that could not be had before there may be more.
        prop_assert!(plan.arm.iter().filter(follows).all(|action| following.contains(action)));
        for action in &plan.arm {
            carry_out(&mut node.kernel, action);
        }
        for (uid, _) in node.desired.iter().filter(|(uid, _)| !plan.no_slot.contains(uid)) {
            let Some(pod) = node.inventory.pods.get(uid) else { continue };
            for interface in node.view().homes().leave(pod) {
                let Inside { namespace, index, .. } = interface.inside.clone().expect("all are known");
                for direction in netdev_directions(interface) {
                    prop_assert!(netdev_is_cut(&node.kernel, namespace, index, direction));
                }
            }
        }
    }

    /// Ours alone on a side that drops by itself would open it; with a key it drops.
    #[test]
    fn what_drops_by_itself_is_not_opened(mut node in nodes()) {
        let opened = |node: &Node| -> BTreeSet<(IfIndex, Direction)> {
            let veths = node.inventory.pods.values().flat_map(Pod::host_veths);
            let sides = veths.flat_map(|veth| DIRECTIONS.into_iter().map(move |direction| (veth, direction)));
            let sides = sides.filter(|(veth, direction)| veth.is_blackhole(*direction));
            let sides = sides.map(|(veth, direction)| (veth.ifindex, direction));
            let is_open = |side: &(IfIndex, Direction)| {
                node.kernel.veth_links.get(side).is_some_and(|link| link.is_live())
                    && !node.kernel.veth_keys.contains_key(&side.0)
            };
            sides.filter(is_open).collect()
        };
        let before = opened(&node);
        let plan = node.view().plan();
        for action in plan.enforce.iter().chain(&plan.arm) {
            carry_out(&mut node.kernel, action);
            prop_assert!(opened(&node).is_subset(&before), "{action:?}");
        }
        let healthy = |side: &&(IfIndex, Direction)| !node.desired_owner(owns_veth(side.0));
        let left = opened(&node);
        prop_assert_eq!(left.iter().find(healthy), None);
    }

    #[test]
    fn nobody_else_is_cut(mut node in nodes()) {
        let before = node.clone();
        let plan = node.view().plan();
        for action in plan.enforce.iter().chain(&plan.arm) {
            carry_out(&mut node.kernel, action);
        }
        for ifindex in node.kernel.veth_keys.keys() {
            let owns = owns_veth(*ifindex);
            // What was keyed for its pod stays so, even if another pod moves in.
            let kept = before.kernel.veth_keys.contains_key(ifindex) && node.desired_owner(&owns);
            prop_assert!(!node.is_home(&owns) || kept, "{:?}", ifindex);
        }
        for ((id, _), _) in node.kernel.cgroup_links.iter().filter(|(_, state)| state.is_live()) {
            let owns = owns_cgroup(*id);
            prop_assert!(!node.owned(&owns) || node.desired_owner(&owns), "{:?}", id);
        }
        for ((id, _), _) in node.kernel.lsm_links.iter().filter(|(_, state)| state.is_live()) {
            let owns = owns_cgroup(*id);
            prop_assert!(!node.owned(&owns) || node.desired_owner(&owns), "{:?}", id);
        }
        for ((key, direction), _) in node.kernel.netdev_links.iter().filter(|(_, state)| state.is_live()) {
            let owns = |pod: &Pod| insides(pod).any(|inside| inside.index == key.index);
            let kept = before.kernel.netdev_links.contains_key(&(*key, *direction)) && node.desired_owner(owns);
            prop_assert!(!node.is_home(owns) || kept, "{:?}", key);
        }
        for (key, _) in node.kernel.xdp_links.iter().filter(|(_, state)| state.is_live()) {
            let owns = |pod: &Pod| insides(pod).any(|inside| inside.index == key.index);
            let kept = before.kernel.xdp_links.contains_key(key) && node.desired_owner(owns);
            prop_assert!(!node.is_home(owns) || kept, "{:?}", key);
        }
        for policy in node.kernel.policies.values() {
            prop_assert!(node.desired.contains_key(&uid_of(policy)));
        }
        if node.desired.is_empty() && node.kernel.veth_keys.is_empty() {
            prop_assert_eq!(node.kernel.gate, GATE_SHUT);
        }
    }

    /// Exempted is what is asked for; and nothing is, at any step, that was not before and is not asked for.
    #[test]
    fn what_is_exempted_is_what_is_desired(mut node in nodes()) {
        let before = node.kernel.clone();
        let plan = node.view().plan();
        let slots: BTreeMap<Slot, &Entry> = {
            let mut after = before.clone();
            plan.enforce.iter().for_each(|action| carry_out(&mut after, action));
            after.slots().into_iter().filter_map(|(uid, slot)| Some((slot, node.desired.get(&uid)?))).collect()
        };
        let wanted = |slot: &Slot, range: &Range| slots.get(slot).and_then(|entry| entry.allowed().get(range).copied());
        for action in &plan.enforce {
            carry_out(&mut node.kernel, action);
            for ((slot, range), rules) in &node.kernel.allowed {
                let had = before.allowed.get(&(*slot, *range)) == Some(rules);
                prop_assert!(had || wanted(slot, range) == Some(*rules), "{:?}", action);
            }
            // A slot that gets another pod has none of the former one's.
            if let Action::SetPolicy { slot, .. } = action {
                let all_wanted = node.kernel.allowed.keys().filter(|(of, _)| of == slot);
                let mut stale = all_wanted.filter(|(_, range)| wanted(slot, range).is_none());
                prop_assert_eq!(stale.next(), None);
            }
        }
        for ((slot, range), rules) in &node.kernel.allowed {
            prop_assert_eq!(wanted(slot, range), Some(*rules));
        }
        for (slot, entry) in &slots {
            for (range, rules) in entry.allowed() {
                prop_assert_eq!(node.kernel.allowed.get(&(*slot, range)), Some(&rules));
            }
        }
        let keeps = node.desired.values().any(Entry::keeps_probes);
        prop_assert_eq!(node.kernel.kubelet, keeps.then_some(CgroupId(1)));
    }

    /// What is known of a link is what it showed when it was first cut for its pod, and is forgotten with the key.
    #[test]
    fn what_is_known_of_a_link_was_fixed_at_the_cut(mut node in nodes()) {
        let before = node.kernel.clone();
        let plan = node.view().plan();
        for action in &plan.enforce {
            carry_out(&mut node.kernel, action);
        }
        let slots = node.kernel.slots();
        for (ifindex, known) in &node.kernel.links {
            let (Some(key), true) = (node.kernel.veth_keys.get(ifindex), plan.no_slot.is_empty()) else { continue };
            let uid = node.kernel.policies.get(key).map(uid_of);
            let (Some(uid), true) = (uid, slots.values().any(|slot| slot == key)) else { continue };
            let had = before.veth_keys.get(ifindex) == Some(key) && before.policies.get(key).map(uid_of) == Some(uid);
            let stayed = had && before.veth_is_live(*ifindex);
            let (at_first, seen) = (before.links.get(ifindex).filter(|_| stayed), facts(ifindex.0));
            let at_first = at_first.unwrap_or(&seen);
            prop_assert_eq!((known.pod, known.addresses), (at_first.pod, at_first.addresses));
            let exempted = node.desired.get(&uid).is_some_and(Entry::has_exemptions);
            prop_assert!(exempted || known.sole == 0 || stayed, "{:?}", known);
        }
        for ifindex in node.kernel.links.keys() {
            let kept = node.kernel.veth_keys.get(ifindex).is_some_and(|key| slots.values().any(|slot| slot == key));
            prop_assert!(kept || node.desired_owner(owns_veth(*ifindex)), "{:?}", ifindex);
        }
    }

    /// A crash after any action leaves cut what was cut and is to be.
    #[test]
    fn no_step_lets_anybody_out(node in nodes()) {
        let mut kernel = node.kernel.clone();
        let plan = node.view().plan();
        for action in plan.enforce.iter().chain(&plan.arm) {
            carry_out(&mut kernel, action);
            for direction in DIRECTIONS {
                for pod in node.inventory.pods.values().filter(|pod| node.desired.contains_key(&pod.uid)) {
                    for id in pod.cgroup.iter().map(|cgroup| cgroup.id) {
                        let was = cgroup_is_cut(&node.kernel, id, direction);
                        prop_assert!(!was || cgroup_is_cut(&kernel, id, direction), "{:?}", action);
                    }
                    let homes = node.view().homes();
                    let needed = |interface: &&Interface| netdev_directions(interface).any(|needed| needed == direction);
                    for inside in homes.leave(pod).filter(needed).filter_map(|interface| interface.inside.clone()) {
                        let cut = |kernel| netdev_is_cut(kernel, inside.namespace, inside.index, direction);
                        prop_assert!(!cut(&node.kernel) || cut(&kernel), "{:?}", action);
                    }
                    for ifindex in homes.leave(pod).filter_map(host_index) {
                        let was = veth_is_cut(&node.kernel, ifindex, direction);
                        prop_assert!(!was || veth_is_cut(&kernel, ifindex, direction), "{:?}", action);
                    }
                }
            }
        }
    }

    /// An agent that sees none of the pods (a wrong cgroup root) leaves what exists cut.
    #[test]
    fn blindness_releases_nobody(node in nodes()) {
        let blind = Node { inventory: Inventory::default(), ..node };
        let mut kernel = blind.kernel.clone();
        let slots = blind.kernel.slots();
        for action in &blind.view().plan().enforce {
            carry_out(&mut kernel, action);
        }
        let desired = |slot: &Slot| slots.iter().any(|(uid, own)| own == slot && blind.desired.contains_key(uid));
        for direction in DIRECTIONS {
            for (ifindex, _) in blind.kernel.veth_keys.iter().filter(|(_, slot)| desired(slot)) {
                let was = veth_is_cut(&blind.kernel, *ifindex, direction);
                prop_assert!(!was || veth_is_cut(&kernel, *ifindex, direction));
            }
            for (id, _) in blind.kernel.cgroup_keys.iter().filter(|(_, slot)| desired(slot)) {
                let was = cgroup_is_cut(&blind.kernel, *id, direction);
                prop_assert!(!was || cgroup_is_cut(&kernel, *id, direction));
            }
        }
    }

    /// Whoever the kernel isolates when an agent starts stays isolated, records or none.
    #[test]
    fn what_the_kernel_isolates_is_recovered(node in nodes()) {
        let recovered = recovered(&node.desired, &node.inventory, &node.kernel);
        for policy in node.kernel.policies.values() {
            let uid = uid_of(policy);
            prop_assert!(recovered.contains_key(&uid) || node.desired.contains_key(&uid));
        }
        prop_assert!(recovered.keys().all(|uid| !node.desired.contains_key(uid)));
    }

    /// What the container runtime claims, true or not, lets nobody out and cuts no interface of a healthy pod.
    #[test]
    fn claims_only_add(
        node in nodes(),
        claims in proptest::collection::btree_map(0..PODS, proptest::collection::btree_set(10..18_u32, 0..3), 0..4),
    ) {
        let mut claiming = node.clone();
        for (number, veths) in claims {
            let Some(pod) = claiming.inventory.pods.get_mut(&uid(number)) else { continue };
            let claimed = veths.into_iter().map(|ifindex| Interface { claimed: true, ..veth(ifindex) });
            let new: Vec<Interface> = claimed.filter(|one| pod.interfaces.iter().all(|own| own.host != one.host)).collect();
            pod.interfaces.extend(new);
        }
        let (plan, before) = (claiming.view().plan(), node.view().plan());
        let releases = |action: &&Action| **action >= Action::DetachLsm(CgroupId(0), Ask::ALL[0]);
        for action in plan.enforce.iter().filter(releases) {
            // The gate follows the pods' levels, of which a claim has none. What kind of device a released key was for is known
            // only of a pod that has it.
            let known = match action {
                Action::DisarmVeth(ifindex, _) => &Action::DropVethKey(*ifindex),
                other => other,
            };
            prop_assert!(before.enforce.contains(known), "{:?}", action);
        }
        let healthy = |owns: &dyn Fn(&Pod) -> bool| {
            claiming.inventory.pods.values().filter(|pod| !claiming.desired.contains_key(&pod.uid)).any(owns)
        };
        for action in plan.enforce.iter().filter(|action| !before.enforce.contains(action)) {
            match action {
                Action::SetVethKey(ifindex, _) => prop_assert!(!healthy(&owns_veth(*ifindex)), "{:?}", action),
                Action::AttachNetdev(place, _) | Action::AttachXdp(place) => {
                    let owns = |pod: &Pod| insides(pod).any(|inside| inside.index == place.key.index);
                    prop_assert!(!healthy(&owns), "{:?}", action);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn isolating_some_touches_nobody_else(node in nodes(), chosen in proptest::collection::btree_set(0..PODS, 0..3)) {
        let chosen: BTreeSet<PodUid> = chosen.into_iter().map(uid).collect();
        let (actions, no_slot) = node.view().isolate(&chosen);
        let mine = |owns: &dyn Fn(&Pod) -> bool| chosen.iter().filter_map(|uid| node.inventory.pods.get(uid)).any(owns);
        for action in &actions {
            let allowed = match action {
                Action::SetPolicy { policy, .. } => chosen.contains(&uid_of(policy)),
                Action::SetCgroupKey(id, _) => mine(&owns_cgroup(*id)),
                Action::AttachCgroup(place, _) | Action::AttachLsm(place, _) => mine(&owns_cgroup(place.id)),
                Action::SetVethKey(ifindex, _) | Action::SetLink(ifindex, _) => mine(&owns_veth(*ifindex)),
                Action::HoldVeth(veth, _) | Action::AttachVeth(veth, _) => mine(&owns_veth(veth.ifindex)),
                Action::AttachNetdev(place, _) | Action::AttachXdp(place) => {
                    mine(&|pod: &Pod| insides(pod).any(|inside| inside.index == place.key.index))
                }
                Action::SetAllowed(slot, ..) | Action::DropAllowed(slot, _) => {
                    node.kernel.policies.get(slot).is_none_or(|policy| chosen.contains(&uid_of(policy)))
                }
                Action::SetKubelet(_) => true,
                Action::OpenGate(gate) => gate & node.kernel.gate == node.kernel.gate,
                _ => false,
            };
            prop_assert!(allowed, "{:?}", action);
        }
        prop_assert!(no_slot.iter().all(|uid| chosen.contains(uid) && node.desired.contains_key(uid)));
    }
}
