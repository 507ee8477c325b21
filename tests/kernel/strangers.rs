//! Pods whose processes are not where they belong: in another pod's namespace, or gone from their own.

use std::{process::Stdio, time::Duration};

use isolate_tests::{
    channel::{Channel, Path},
    observe::Observer,
    pod::Spec,
    wait,
    wire::Request,
};

use crate::{arming::is_armed, scene::Scene, suite::trials};

trials![a_visitor_is_cut_and_its_host_is_not, a_pod_that_left_its_namespace_is_cut_there];

const SHORT: Duration = Duration::from_millis(500);
/// A broadcast of an experimental ethertype, so that nobody answers.
const FRAME: [u8; 60] = {
    let mut frame = [0; 60];
    let mut byte = 0;
    while byte < 6 {
        frame[byte] = 0xff;
        byte += 1;
    }
    // A bridge takes no frame from nobody.
    frame[6] = 0x02;
    (frame[12], frame[13]) = (0x88, 0xb5);
    frame
};

/// As `nsenter` or a debugger leaves it: a process of the pod `web` in the namespace of its neighbour.
fn a_visitor_is_cut_and_its_host_is_not() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let other = node.pod(&Spec::default());
    let namespace = format!("--net=/proc/{}/ns/net", neighbour.app().pid());
    let mut visitor = web
        .privileged("nsenter")
        .args([&namespace, "sleep", "infinity"])
        .stdin(Stdio::null())
        .spawn()
        .expect("util-linux");
    let daemon = agent.daemon();
    let cut = Path::shown(Channel::ROUTED, web.end(), other.end());
    let healthy = Path::shown(Channel::ROUTED, neighbour.end(), other.end());

    let added = agent.run(&["add", web.uid()]).expect(5);
    assert!(added.text().contains("key"), "it does not say that an interface is left\n{}", added.text());
    cut.assert_cut();
    healthy.assert_flows();
    // A full pass, from nothing.
    drop(daemon);
    let _daemon = agent.daemon();
    cut.assert_cut();
    healthy.assert_flows();

    visitor.kill().and_then(|()| visitor.wait()).expect("it runs until now");
    agent.remove(&[web.uid()]);
    cut.assert_flows();
}

/// A packet socket stays in the namespace that it was made in, whatever becomes of the process.
fn a_pod_that_left_its_namespace_is_cut_there() {
    let scene = Scene::new();
    let Scene { agent, web, neighbour, node } = &scene;
    let _daemon = agent.daemon();
    wait::until("the pod is armed", || is_armed(node, &web.host_veths()[0]));
    let socket = web.app().packet("eth0", SHORT);
    let observer = Observer::start(neighbour.netns(), "eth0");
    let arrived = || {
        Observer::begin([&observer]);
        // Where the kernel has BPF LSM, it is refused while the pod is isolated.
        socket.send(&FRAME);
        std::thread::sleep(SHORT);
        observer.count(|frame| frame.bytes()[12..14] == FRAME[12..14])
    };
    assert_eq!(arrived(), 1, "the frame does not get through");
    assert!(web.app().call(&Request::LeaveNetwork).is_ok(), "it cannot leave");
    assert_eq!(arrived(), 1, "the socket went with the process");

    let added = agent.run(&["add", web.uid()]).expect(5);
    assert_eq!(arrived(), 0, "frames get out\n{}", added.text());
    agent.remove(&[web.uid()]);
    assert_eq!(arrived(), 1, "the frame does not get through any more");
}
