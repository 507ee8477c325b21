//! The inventory on a real kernel: private nodes with real processes, namespaces and interfaces.

mod node;

use std::{
    fs,
    future::poll_fn,
    os::unix::fs::MetadataExt as _,
    process::Command,
    task::Poll,
    time::{Duration, Instant},
};

use isolate_agent::{
    inventory::{Guard, Scanner},
    pod::PodUid,
    watch::{Sign, Watch},
};
use node::{In, Node, ifindex, ip, ip_in, mount_of, on_a_node, on_a_v1_node, pod, rows, uid};
use tokio::time::timeout;

#[test]
fn pods_with_one_and_two_veths_are_not_confused() {
    on_a_node(|mut node| async move {
        let (directory, first) = node.veth_pod(&uid(1), "veth-a");
        ip(&format!("link add veth-a1 type veth peer name net1 netns {first}"));
        let (_, second) = node.veth_pod(&uid(2), "veth-b");
        // Veths that are no pod's: both ends on the node, and one end in a namespace outside the tree.
        ip("link add veth-x type veth peer name veth-y");
        let stranger = node.cgroup("system.slice/vpn.service");
        let stranger = node.start(&stranger, In::Sandbox);
        ip(&format!("link add veth-s type veth peer name eth0 netns {stranger}"));

        let inventory = node.scanner().scan([]).await.expect("a scan");
        assert_eq!(inventory.pods.len(), 2);
        let found = pod(&inventory, 1);
        let expected =
            [format!("eth0 veth {} veth-a", ifindex("veth-a")), format!("net1 veth {} veth-a1", ifindex("veth-a1"))];
        assert_eq!(rows(&found.interfaces), expected);
        assert_eq!((found.namespaces, found.processes, found.host_network), (1, 1, false));
        assert_eq!(found.guard, None);
        let cgroup = found.cgroup.as_ref().expect("a cgroup");
        assert_eq!(cgroup.path, directory);
        assert_eq!(cgroup.id.0, fs::metadata(&directory).expect("its directory").ino());
        let root = directory.ancestors().take_while(|path| fs::metadata(path).is_ok_and(|meta| meta.ino() != 1));
        assert_eq!(cgroup.level, u32::try_from(root.count()).ok());
        let expected = [format!("eth0 veth {} veth-b", ifindex("veth-b"))];
        assert_eq!(rows(&pod(&inventory, 2).interfaces), expected);
        node.stop(second);
    });
}

#[test]
fn interfaces_without_a_host_end_are_listed_and_the_pods_own_are_not() {
    on_a_node(|mut node| async move {
        ip("link add nic type veth peer name wire");
        let directory = node.cgroup(&format!("kubepods/pod{}", uid(1)));
        let pid = node.start(&directory, In::Sandbox);
        // This namespace holds no end of a veth: nothing has given it an id yet.
        ip(&format!("link add link nic name net1 netns {pid} type macvlan"));
        let inventory = node.scanner().scan([]).await.expect("a scan");
        assert_eq!(rows(&pod(&inventory, 1).interfaces), ["net1 macvlan -"]);

        // A container nested in the pod, and a link on top of another one.
        let nested = node.start(&directory, In::Sandbox);
        ip_in(pid, &format!("link add vethd type veth peer name eth0 netns {nested}"));
        ip_in(pid, "link add docker0 type bridge");
        let inventory = node.scanner().scan([]).await.expect("a scan");
        let found = pod(&inventory, 1);
        assert_eq!(rows(&found.interfaces), ["net1 macvlan -"]);
        assert_eq!((found.namespaces, found.processes), (2, 2));
    });
}

#[test]
fn containers_of_a_pod_share_its_namespace() {
    on_a_node(|mut node| async move {
        let (directory, pause) = node.veth_pod(&uid(1), "veth-a");
        for name in ["a", "b"] {
            let container = directory.join(name.repeat(64));
            fs::create_dir(&container).expect("a cgroup");
            node.start(&container, In::Join(pause));
        }
        // What CRI-O puts there: a monitor in the node's namespaces. It makes no hostNetwork pod.
        node.start(&directory.join("a".repeat(64)), In::Node);
        let inventory = node.scanner().scan([]).await.expect("a scan");
        let found = pod(&inventory, 1);
        assert_eq!((found.namespaces, found.processes, found.host_network), (1, 4, false));
        assert_eq!(found.interfaces.len(), 1);
    });
}

#[test]
fn a_host_network_pod_has_no_interfaces() {
    on_a_node(|mut node| async move {
        ip("link add nic type veth peer name wire");
        let directory = node.cgroup(&format!("kubepods.slice/kubepods-pod{}.slice", uid(1).replace('-', "_")));
        node.start(&directory, In::HostNetwork);
        let inventory = node.scanner().scan([]).await.expect("a scan");
        let found = pod(&inventory, 1);
        assert_eq!((found.host_network, found.namespaces, found.processes), (true, 0, 1));
        assert_eq!(found.interfaces, []);
        assert_eq!(found.guard, None);
    });
}

#[test]
fn daemons_of_the_node_are_guarded_and_a_pods_own_are_not() {
    on_a_node(|mut node| async move {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("containerd");
        // By another process: a descriptor open for writing could slip into a child of another thread (ETXTBSY).
        assert!(Command::new("cp").arg("/bin/sleep").arg(&program).status().expect("coreutils").success());
        let real = node.cgroup(&format!("kubepods/pod{}", uid(1)));
        let pid = node.start_program(&program, &real, In::Node);
        for (number, namespaces) in [(2, In::HostNetwork), (3, In::Sandbox)] {
            let own = node.cgroup(&format!("kubepods/pod{}", uid(number)));
            node.start_program(&program, &own, namespaces);
        }
        let inventory = node.scanner().scan([]).await.expect("a scan");
        let pid = i32::try_from(pid).expect("a process id");
        let expected = Guard::NodeProcess { pid, name: "containerd".to_owned() };
        assert_eq!(pod(&inventory, 1).guard, Some(expected));
        assert_eq!(pod(&inventory, 2).guard, None);
        assert_eq!(pod(&inventory, 3).guard, None);
    });
}

#[test]
fn one_pod_again_as_it_starts_changes_and_goes() {
    on_a_node(|mut node| async move {
        let directory = node.cgroup(&format!("kubepods/besteffort/pod{}", uid(1)));
        let scanner = node.scanner();
        assert!(scanner.has_cgroup2());
        let inventory = scanner.scan([]).await.expect("a scan");
        let empty = pod(&inventory, 1).clone();
        assert_eq!((empty.namespaces, empty.processes, empty.host_network), (0, 0, false));

        let pid = node.start(&directory, In::Sandbox);
        ip(&format!("link add veth-a type veth peer name eth0 netns {pid}"));
        let found = scanner.pod(empty.uid).await.expect("a look").expect("the pod");
        assert_eq!((found.namespaces, found.processes), (1, 1));
        assert_eq!(rows(&found.interfaces), [format!("eth0 veth {} veth-a", ifindex("veth-a"))]);

        // The sandbox is made anew: another namespace and another veth in the same cgroup.
        node.stop(pid);
        let pid = node.start(&directory, In::Sandbox);
        ip(&format!("link add veth-b type veth peer name eth0 netns {pid}"));
        let again = scanner.pod(found.uid).await.expect("a look").expect("the pod");
        assert_eq!(again.cgroup, found.cgroup);
        assert_eq!(rows(&again.interfaces), [format!("eth0 veth {} veth-b", ifindex("veth-b"))]);

        node.stop(pid);
        fs::remove_dir(&directory).expect("it is empty");
        assert_eq!(scanner.pod(again.uid).await.expect("a look"), None);
    });
}

#[test]
fn a_pod_of_a_v1_hierarchy_has_processes_and_veths_but_no_cgroup() {
    on_a_v1_node(|mut node| async move {
        node.veth_pod(&uid(1), "veth-a");
        let scanner = node.scanner();
        assert!(!scanner.has_cgroup2());
        let inventory = scanner.scan(uid(1).parse()).await.expect("a scan");
        let found = pod(&inventory, 1);
        assert_eq!((found.cgroup.as_ref(), found.processes, found.namespaces), (None, 1, 1));
        assert_eq!(rows(&found.interfaces), [format!("eth0 veth {} veth-a", ifindex("veth-a"))]);
        assert_eq!(scanner.pod(found.uid).await.expect("a look").as_ref(), Some(found));
    });
}

#[test]
fn a_pod_of_a_hybrid_node_is_one_pod() {
    on_a_v1_node(|mut node| async move {
        let (Some(unified), Some(v1)) = (mount_of("cgroup2", ""), mount_of("cgroup", "pids")) else {
            eprintln!("skipped: no hybrid layout");
            return;
        };
        // The whole machine is read, where other tests have pods as well.
        let number = std::process::id() | 1 << 31;
        let beside = Node::new(&unified);
        let directory = beside.cgroup(&format!("pod{}", uid(number)));
        // The processes are in the v1 hierarchy only.
        node.veth_pod(&uid(number), "veth-a");
        let root = v1.ancestors().find(|path| unified.starts_with(path)).expect("a folder above both");
        let inventory = Scanner::new(Some(root)).expect("a scanner").scan([]).await.expect("a scan");
        let found = pod(&inventory, number);
        assert_eq!(found.cgroup.as_ref().map(|cgroup| (&cgroup.path, cgroup.level)), Some((&directory, Some(2))));
        assert_eq!((found.processes, found.interfaces.len()), (1, 1));
    });
}

#[test]
fn a_burst_of_pods_is_read_whole() {
    const PODS: u32 = 100;
    on_a_node(|mut node| async move {
        for number in 0..PODS {
            node.veth_pod(&uid(number), &format!("veth{number}"));
        }
        let scanner = node.scanner();
        for _pass in 0..3 {
            let start = Instant::now();
            let inventory = scanner.scan([]).await.expect("a scan");
            eprintln!("{PODS} pods read in {:?}", start.elapsed());
            assert_eq!(inventory.pods.len(), PODS as usize);
            for number in 0..PODS {
                let names: Vec<_> = pod(&inventory, number).host_veths().map(|host| host.name.clone()).collect();
                assert_eq!(names, [format!("veth{number}")]);
            }
        }
        let inventory = scanner.scan(uid(7).parse()).await.expect("a scan");
        let start = Instant::now();
        let again = scanner.pod(pod(&inventory, 7).uid).await.expect("a look");
        eprintln!("one of them again in {:?}", start.elapsed());
        assert_eq!(again.as_ref(), Some(pod(&inventory, 7)));
    });
}

/// Waits until nothing more comes.
async fn settle(watch: &mut Watch) {
    while timeout(Duration::from_millis(800), watch.changed(|_| false)).await.is_ok() {}
}

async fn wakes(watch: &mut Watch, what: &str) {
    let start = Instant::now();
    timeout(Duration::from_secs(5), watch.changed(|_| false)).await.expect(what);
    eprintln!("{what}: woken after {:?}", start.elapsed());
    settle(watch).await;
}

#[test]
fn pods_processes_and_veths_wake() {
    on_a_node(|mut node| async move {
        let old = node.cgroup(&format!("kubepods/pod{}", uid(1)));
        let mut watch = Watch::new(&node.scanner(), std::path::Path::new("/nonexistent"));
        settle(&mut watch).await;

        let new = node.cgroup(&format!("kubepods/burstable/pod{}", uid(2)));
        wakes(&mut watch, "a pod, below a folder that is new as well").await;
        node.start(&old, In::Sandbox);
        wakes(&mut watch, "the first process of a pod that was there before").await;
        let pid = node.start(&new, In::Sandbox);
        wakes(&mut watch, "the first process of a pod that came later").await;
        ip(&format!("link add veth-a type veth peer name eth0 netns {pid}"));
        wakes(&mut watch, "a veth").await;
        fs::create_dir(new.join("c".repeat(64))).expect("a cgroup");
        wakes(&mut watch, "a container").await;
        node.stop(pid);
        wakes(&mut watch, "the end of a pod's last process").await;

        let urgent: PodUid = uid(3).parse().expect("a UID");
        node.cgroup(&format!("kubepods/pod{urgent}"));
        let urgent = Sign::Pod(urgent);
        let told =
            timeout(Duration::from_secs(5), watch.changed(|sign| sign == urgent)).await.expect("a new pod wakes");
        assert_eq!(told, Some(urgent), "the pod that is waited for is told at once");
        wakes(&mut watch, "the same once more, as every pod does").await;

        node.cgroup("system.slice/other.service");
        assert!(timeout(Duration::from_millis(800), watch.changed(|_| false)).await.is_err(), "no pod, no wake-up");
    });
}

#[test]
fn a_new_interface_is_told_by_the_namespace_of_the_pod() {
    on_a_node(|mut node| async move {
        let (_, pid) = node.veth_pod(&uid(1), "veth-a");
        let scanner = node.scanner();
        let ids = pod(&scanner.scan([]).await.expect("a scan"), 1).namespace_ids.clone();
        let &[id] = ids.as_slice() else { unreachable!("a pod has one namespace: {ids:?}") };
        for (what, command) in [
            ("plugged in", format!("link add veth-b type veth peer name net1 netns {pid}")),
            ("moved there", "link add veth-c type veth peer name net2".to_owned()),
        ] {
            let mut watch = Watch::new(&scanner, std::path::Path::new("/nonexistent"));
            settle(&mut watch).await;
            ip(&command);
            if what == "moved there" {
                settle(&mut watch).await;
                ip(&format!("link set net2 netns {pid}"));
            }
            let sign = Sign::Namespace(id);
            let told = timeout(Duration::from_secs(5), watch.changed(|told| told == sign)).await.expect(what);
            assert_eq!(told, Some(sign), "{what}");
        }
        // What the pod makes itself, in its own namespace.
        let mut watch = Watch::new(&scanner, std::path::Path::new("/nonexistent"));
        settle(&mut watch).await;
        ip_in(pid, "link add own0 type veth peer name own1");
        let told = timeout(Duration::from_secs(5), watch.changed(|told| told == Sign::Namespace(id))).await;
        assert_eq!(told.expect("it is told"), Some(Sign::Namespace(id)));
    });
}

#[test]
fn a_wake_up_that_was_not_awaited_is_not_lost() {
    on_a_node(|node| async move {
        let mut watch = Watch::new(&node.scanner(), std::path::Path::new("/nonexistent"));
        settle(&mut watch).await;
        node.cgroup(&format!("kubepods/pod{}", uid(1)));
        // Dropped in the middle of the burst: it takes the event in, and waits for more.
        let mut awaited = Box::pin(watch.changed(|_| false));
        for _turn in 0..3 {
            let waits = poll_fn(|context| Poll::Ready(awaited.as_mut().poll(context).is_pending())).await;
            // Only where this thread stood still for as long as a burst may last.
            if !waits {
                return;
            }
            tokio::task::yield_now().await;
        }
        drop(awaited);
        timeout(Duration::from_secs(10), watch.changed(|_| false)).await.expect("it is still to come");
    });
}
