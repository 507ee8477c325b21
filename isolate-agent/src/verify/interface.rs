//! Probes by frames, to the hooks of one interface. A guard stands behind the hook meanwhile, so that a frame that it lets
//! through goes no further.

use std::time::Duration;

use isolate_common::{Direction, Hook};

use super::{
    allowed::Allowed,
    frame::{self, Mac},
    judge::Evidence,
    packet::{Sender, Sent, Tap},
};
use crate::{
    enforce::{Guard, Post, within},
    inventory::{HostVeth, Interface},
    observed::{NetdevKey, Slot},
    plan::NetdevPlace,
};

/// How often each frame is sent.
const ROUNDS: usize = 3;
/// How long a frame may take to the other end of a veth on a busy node.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long nothing must come.
const QUIET: Duration = Duration::from_millis(300);

/// One hook of one interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe<'a> {
    pub(super) guard: &'a Guard,
    /// The source address of the frames.
    pub(super) source: Mac,
    pub(super) interface: &'a Interface,
    pub(super) slot: Option<Slot>,
    /// Whether the hook is said to hold.
    pub(super) holds: bool,
    /// Whether its tcx program or filter is said to: of the netdev hook that is not all.
    pub(super) drops: bool,
    /// What the pod may do all the same.
    pub(super) allowed: Allowed<'a>,
}

impl Probe<'_> {
    /// What becomes of the frames; why there are none.
    pub(super) fn send(&self, hook: Hook, direction: Direction) -> Result<Evidence, String> {
        let place = self.place();
        match (hook, direction, &self.interface.host) {
            (Hook::Veth, Direction::Out, Some(veth)) if veth.netkit.is_some() => {
                self.out_of_netkit(veth, place.as_ref())
            }
            (Hook::Netdev, Direction::In, Some(veth)) if veth.netkit.is_some() => {
                Err("only bpf_redirect_peer comes to it past the programs of a netkit device".to_owned())
            }
            (Hook::Veth, Direction::Out, Some(veth)) => self.out_of_the_pod(veth, place.as_ref()),
            (Hook::Veth, Direction::In, Some(veth)) => self.toward_the_pod(veth, place.as_ref()),
            (Hook::Netdev, Direction::In, Some(veth)) => self.past_the_host_end(veth, place.as_ref()),
            (Hook::Netdev, Direction::Out, None) => self.out_of_the_interface(place.as_ref()),
            (Hook::Netdev, Direction::In, None) => {
                Err(format!("what comes to a {} comes from outside of the node", self.interface.kind))
            }
            _ => Err("there is no probe for this hook".to_owned()),
        }
    }

    fn place(&self) -> Option<NetdevPlace> {
        let (inside, slot) = (self.interface.inside.as_ref()?, self.slot?);
        Some(NetdevPlace {
            has_host_end: self.interface.host.is_some(),
            key: NetdevKey { slot, namespace: inside.namespace, index: inside.index },
            way: inside.way.clone(),
            name: self.interface.name.clone(),
        })
    }

    /// From a packet socket inside the pod, past the queueing layer, so that no rule of the pod's is in the way; a tap on
    /// the host end sees what comes to the hook there.
    fn out_of_the_pod(&self, veth: &HostVeth, place: Option<&NetdevPlace>) -> Result<Evidence, String> {
        let place = known(place)?;
        self.guarded(Post::Veth(veth), Direction::Out, || {
            let to = Sender::new(veth.ifindex.0, false).map_err(said("the host end"))?.address;
            let tap = Tap::new(veth.ifindex.0, self.source).map_err(said("a tap on the host end"))?;
            let sender = within(place, || Sender::new(place.key.index, true)).map_err(said("a socket in the pod"))?;
            let sent = self.through(&sender, to, Direction::Out)?;
            Ok((sent.all(), tap.count(sent.gone, PATIENCE)))
        })
    }

    /// From a packet socket inside the pod: a netkit device runs its programs while it sends, and so the kernel tells the sender
    /// whether one dropped the frame.
    fn out_of_netkit(&self, veth: &HostVeth, place: Option<&NetdevPlace>) -> Result<Evidence, String> {
        let place = known(place)?;
        self.guarded(Post::Veth(veth), Direction::Out, || {
            let to = Sender::new(veth.ifindex.0, false).map_err(said("the host end"))?.address;
            let sender = within(place, || Sender::new(place.key.index, true)).map_err(said("a socket in the pod"))?;
            let sent = self.through(&sender, to, Direction::Out)?;
            Ok((sent.all(), sent.refused))
        })
    }

    /// From the host end through its queueing layer, where the kernel tells whether a program dropped the frame.
    fn toward_the_pod(&self, veth: &HostVeth, place: Option<&NetdevPlace>) -> Result<Evidence, String> {
        self.guarded(Post::Veth(veth), Direction::In, || {
            let sender = Sender::new(veth.ifindex.0, false).map_err(said("a socket on the host end"))?;
            let sent = self.through(&sender, address_inside(place).unwrap_or(sender.address), Direction::In)?;
            Ok((sent.all(), sent.refused))
        })
    }

    /// From the host end past its queueing layer and so past the hook there, as a CNI does with `bpf_redirect_peer`. A tap inside
    /// sees what comes to the tcx hook there; where XDP comes before it, the tap must see nothing, and that the frames came is for
    /// the hook's counter to say.
    fn past_the_host_end(&self, veth: &HostVeth, place: Option<&NetdevPlace>) -> Result<Evidence, String> {
        let place = known(place)?;
        let mut seen = 0;
        let evidence = self.guarded(Post::Netdev(place), Direction::In, || {
            let tap = within(place, || Tap::new(place.key.index, self.source)).map_err(said("a tap in the pod"))?;
            let sender = Sender::new(veth.ifindex.0, true).map_err(said("a socket on the host end"))?;
            let to = address_inside(Some(place)).unwrap_or(sender.address);
            let sent = self.through(&sender, to, Direction::In)?;
            if self.holds {
                seen = tap.count(1, QUIET);
                Ok((sent.all(), sent.gone))
            } else {
                Ok((sent.all(), tap.count(sent.gone, PATIENCE)))
            }
        })?;
        Ok(Evidence { passed: evidence.passed.max(seen), ..evidence })
    }

    /// From a packet socket inside the pod through the queueing layer, to the interface's own address: what the hook and
    /// the guard both let through would be sent.
    fn out_of_the_interface(&self, place: Option<&NetdevPlace>) -> Result<Evidence, String> {
        let place = known(place)?;
        self.guarded(Post::Netdev(place), Direction::Out, || {
            let sender = within(place, || Sender::new(place.key.index, false)).map_err(said("a socket in the pod"))?;
            let sent = self.through(&sender, sender.address, Direction::Out)?;
            Ok((sent.all(), sent.refused))
        })
    }

    /// Runs `probe`, which tells how many it sent and how many came to the hook, with the guard behind the hook.
    fn guarded(
        &self,
        post: Post<'_>,
        direction: Direction,
        probe: impl FnOnce() -> Result<(u64, u64), String>,
    ) -> Result<Evidence, String> {
        let stopped = || self.guard.stopped().map_err(|error| error.to_string());
        let _standing = self.guard.stand(post, direction, self.drops).map_err(said("a guard behind the hook"))?;
        let before = stopped()?;
        let (sent, came) = probe()?;
        let all = frame::all(self.source, self.source);
        let allowed = all.iter().filter(|frame| self.allowed.frame(frame, direction)).count() * ROUNDS;
        let allowed = u64::try_from(allowed).unwrap_or(u64::MAX);
        Ok(Evidence { sent, came, passed: stopped()? - before, allowed, how: frame::FAMILIES.to_owned() })
    }

    fn through(&self, sender: &Sender, to: Mac, direction: Direction) -> Result<Tally, String> {
        let mut tally = Tally::default();
        for frame in std::iter::repeat_n(frame::all(to, self.source), ROUNDS).flatten() {
            if self.allowed.frame(&frame, direction) {
                continue;
            }
            match sender.send(&frame) {
                Ok(Sent::Gone) => tally.gone += 1,
                Ok(Sent::Refused) => tally.refused += 1,
                Err(error) => return Err(format!("sending failed: {error}")),
            }
        }
        Ok(tally)
    }
}

#[derive(Debug, Default)]
struct Tally {
    gone: u64,
    refused: u64,
}

impl Tally {
    fn all(&self) -> u64 {
        self.gone + self.refused
    }
}

fn known(place: Option<&NetdevPlace>) -> Result<&NetdevPlace, String> {
    place.ok_or_else(|| "the pod's end of it cannot be reached".to_owned())
}

fn address_inside(place: Option<&NetdevPlace>) -> Option<Mac> {
    let place = place?;
    within(place, || Sender::new(place.key.index, false)).ok().map(|inside| inside.address)
}

fn said(what: &str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("no {what}: {error}")
}
