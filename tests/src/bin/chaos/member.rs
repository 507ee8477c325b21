//! One pod of a run, and the streams that show whether it reaches the network and is reached.

use std::{net::SocketAddr, time::Duration};

use isolate_tests::{
    netdev,
    node::Node,
    pod::{Pod, Spec},
    process::Process,
    wait,
    wire::{Handle, Request},
};

use crate::stranger::Stranger;

/// Pause between two datagrams of a stream: with three streams a pod, some thousand a second on the node.
const PAUSE: Duration = Duration::from_millis(40);

/// A way of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// From a socket of the pod to the node: every hook sees it.
    Out,
    /// From the node to a socket of the pod.
    In,
    /// From a socket in the pod's namespace that is not the pod's: only the veth hook sees it.
    Beside,
}

#[derive(Clone, Copy)]
struct Stream {
    course: Course,
    source: Handle,
    sink: Handle,
}

/// A pod with its streams.
pub(crate) struct Member {
    pub(crate) pod: Pod,
    /// In the pod's namespace and outside its cgroup.
    beside: Process,
    pub(crate) isolated: bool,
    /// Its veth is new, and what only the veth hook cuts was not begun yet.
    pub(crate) uncovered: bool,
    pub(crate) stranger: Option<Stranger>,
    streams: Vec<Stream>,
}

impl Member {
    pub(crate) fn start(node: &Node) -> Self {
        let pod = node.pod(&Spec::default());
        netdev::ready_for_filters(node.netns(), &pod.host_veths()[0]);
        let beside = Process::start(pod.netns(), &node.service());
        Self { pod, beside, isolated: false, uncovered: false, stranger: None, streams: Vec::new() }
    }

    fn ends<'a>(&'a self, course: Course, hub: &'a (Process, SocketAddr)) -> (&'a Process, &'a Process, SocketAddr) {
        match course {
            Course::Out => (self.pod.app(), &hub.0, hub.1),
            Course::In => (&hub.0, self.pod.app(), (self.pod.end().v4, 0).into()),
            Course::Beside => (&self.beside, &hub.0, hub.1),
        }
    }

    fn open(&mut self, course: Course, hub: &(Process, SocketAddr)) {
        let (sender, receiver, address) = self.ends(course, hub);
        let sink = receiver.call(&Request::Sink(address));
        let port = u16::try_from(sink.value).expect("a port has 16 bits");
        let to = SocketAddr::new(address.ip(), port);
        let stream = sender.call(&Request::Flood { to, pause: PAUSE });
        let handles = stream.handle.zip(sink.handle);
        let (source, sink) = handles.expect("the processes of the run have room for sockets");
        self.streams.push(Stream { course, source, sink });
    }

    fn received(&self, one: Stream, hub: &(Process, SocketAddr)) -> i64 {
        self.ends(one.course, hub).1.call(&Request::Counted(one.sink)).value
    }

    /// Ends a stream; how many datagrams were sent, and how many arrived.
    fn close(&self, one: Stream, hub: &(Process, SocketAddr)) -> (i64, i64) {
        let (sender, receiver, _) = self.ends(one.course, hub);
        let sent = sender.call(&Request::StopFlood(one.source)).value;
        // What passes while the pod is isolated has passed before; what a healthy one sent may be on its way.
        if !self.isolated {
            wait::happens_within(Duration::from_secs(10), || self.received(one, hub) >= sent);
        }
        let arrived = self.received(one, hub);
        sender.call(&Request::Close(one.source));
        receiver.call(&Request::Close(one.sink));
        (sent, arrived)
    }

    /// Begins what fits the state of the pod. Of a healthy one all streams are shown to flow first: an address may have to
    /// be resolved anew.
    pub(crate) fn begin(&mut self, hub: &(Process, SocketAddr)) {
        assert!(self.streams.is_empty(), "the streams of {} were begun before", self.pod.uid());
        let courses = [Course::Out, Course::In, Course::Beside];
        if !self.isolated {
            for course in courses {
                self.open(course, hub);
            }
            for one in std::mem::take(&mut self.streams) {
                let flows = || self.received(one, hub) > 2;
                let what = format!("{:?} of healthy pod {} flows", one.course, self.pod.uid());
                wait::until(&what, flows);
                self.close(one, hub);
            }
        }
        let courses = courses.into_iter().filter(|course| !self.uncovered || *course != Course::Beside);
        for course in courses.collect::<Vec<_>>() {
            self.open(course, hub);
        }
    }

    /// Ends all streams and judges them; how many datagrams did what they should.
    pub(crate) fn end(&mut self, hub: &(Process, SocketAddr)) -> i64 {
        let mut right = 0;
        for one in std::mem::take(&mut self.streams) {
            let (sent, received) = self.close(one, hub);
            let (course, uid) = (one.course, self.pod.uid());
            if self.isolated {
                assert_eq!(received, 0, "{course:?}: datagrams passed while {uid} was isolated");
            } else {
                assert_eq!(received, sent, "{course:?}: datagrams were lost while {uid} was healthy");
            }
            right += sent;
        }
        right
    }

    /// Nothing has passed so far.
    pub(crate) fn check(&self, hub: &(Process, SocketAddr)) {
        for one in self.streams.iter().filter(|_| self.isolated) {
            let received = self.received(*one, hub);
            assert_eq!(received, 0, "{:?}: datagrams pass while {} is isolated", one.course, self.pod.uid());
        }
    }

    /// The veth of a new sandbox is cut now.
    pub(crate) fn cover(&mut self, hub: &(Process, SocketAddr)) {
        self.uncovered = false;
        self.open(Course::Beside, hub);
    }

    /// A new sandbox for the same pod: another namespace, another veth, the same cgroup.
    pub(crate) fn renew(&mut self, node: &Node) {
        self.stranger = None;
        self.pod.renew_sandbox();
        netdev::ready_for_filters(node.netns(), &self.pod.host_veths()[0]);
        self.beside = Process::start(self.pod.netns(), &node.service());
        self.uncovered = self.isolated;
    }
}
