//! Requests that iproute2 has no words for, or is too slow for: a device made in another namespace that is known by its id
//! alone.

use isolate_tests::{
    process::Process,
    wire::{Raw, Request},
};

use super::{Halt, stage::done};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
/// Attributes of a link, `linux/if_link.h` and `linux/veth.h`.
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_TARGET_NETNSID: u16 = 46;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

/// Has the attacker make a veth pair: `inner` in the pod, `outer` in the namespace with this id, there a port of the device
/// with this index, if of any.
pub(super) fn veth_into(
    attacker: &Process,
    id: u32,
    outer: &str,
    master: Option<u32>,
    inner: &str,
) -> Result<(), Halt> {
    let name = |name: &str| attribute(IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
    // The inner end cannot be up before it has an outer one.
    let peer = attribute(VETH_INFO_PEER, &[header(0), name(inner)].concat());
    let kind = [attribute(IFLA_INFO_KIND, b"veth\0"), attribute(IFLA_INFO_DATA, &peer)].concat();
    let mut attributes =
        vec![name(outer), attribute(IFLA_TARGET_NETNSID, &id.to_ne_bytes()), attribute(IFLA_LINKINFO, &kind)];
    attributes.extend(master.map(|master| attribute(IFLA_MASTER, &master.to_ne_bytes())));
    request(attacker, NLM_F_EXCL | NLM_F_CREATE, &[header(libc::IFF_UP), attributes.concat()].concat())
}

/// Sets an interface of the pod up, sooner than a program that has to be started could.
pub(super) fn up(attacker: &Process, name: &str) -> Result<(), Halt> {
    let name = attribute(IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
    request(attacker, 0, &[header(libc::IFF_UP), name].concat())
}

/// A `struct ifinfomsg` that wants these flags of the device set.
fn header(flags: i32) -> Vec<u8> {
    [&[0; 8][..], &flags.to_ne_bytes(), &flags.to_ne_bytes()].concat()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("an attribute is short");
    let mut attribute = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// Sends a request about a link, and reads what the kernel says to it.
fn request(attacker: &Process, flags: u16, body: &[u8]) -> Result<(), Halt> {
    let call = |request: Request| done(&request, attacker.call(&request));
    let open = Raw::Open { domain: libc::AF_NETLINK, style: libc::SOCK_RAW, protocol: libc::NETLINK_ROUTE };
    let socket = call(Request::Raw(open))?.handle.expect("it makes a socket");
    let flags = flags | NLM_F_REQUEST | NLM_F_ACK;
    let length = u32::try_from(16 + body.len()).expect("a request is short");
    let head = [&length.to_ne_bytes()[..], &libc::RTM_NEWLINK.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]].concat();
    call(Request::Raw(Raw::Send { socket, flags: 0, to: None, data: [&head, body].concat() }))?;
    let answer = call(Request::Recv(socket))?.data;
    call(Request::Close(socket))?;
    // Behind the header of the message: 0, or a negated errno.
    match answer.get(16..20).and_then(|errno| errno.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        errno => Err(Halt::Failed(format!("RTM_NEWLINK into another namespace: {errno:?}"))),
    }
}
