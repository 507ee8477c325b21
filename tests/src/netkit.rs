//! Pairs of netkit devices, which iproute2 of Debian 12 cannot make but in one form, and programs on them.

use std::{
    env, io,
    mem::zeroed,
    os::fd::{AsRawFd as _, OwnedFd},
};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::{
    netns::Netns,
    program::{self, Place},
};

/// Set by who knows that this kernel has netkit: its tests must not be passed over then.
pub const EXPECTED: &str = "ISOLATE_NETKIT";

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
/// Attributes of a link, `linux/if_link.h`.
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_NETKIT_PEER_INFO: u16 = 1;
const IFLA_NETKIT_POLICY: u16 = 3;
const IFLA_NETKIT_PEER_POLICY: u16 = 4;
const IFLA_NETKIT_MODE: u16 = 5;

/// What a pair is made like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// With hardware addresses, and with ARP.
    pub l2: bool,
    /// Drops what no program has decided on: what the primary device sends, and what the other one sends.
    pub blackhole: [bool; 2],
}

/// Why this kernel makes no netkit devices (it does since 6.7, commit 35dfaad7188c, if it is built so).
pub fn missing() -> Option<String> {
    let netns = Netns::new();
    let tried = netns.enter(|| make(Mode::default(), "probe0", netns.file().as_raw_fd(), "probe1"));
    let why = tried.err().map(|error| format!("make a pair of netkit devices: {error}"));
    assert!(why.is_none() || env::var_os(EXPECTED).is_none(), "this kernel should have netkit: {why:?}");
    why
}

/// Makes a pair: the primary device `host` in `node`, its peer `inner` in `pod`.
pub fn pair(mode: Mode, node: &Netns, host: &str, pod: &Netns, inner: &str) {
    let outcome = node.enter(|| make(mode, host, pod.file().as_raw_fd(), inner));
    outcome.unwrap_or_else(|error| panic!("netkit {host}: {error}"));
}

/// Gives a pair another policy, by its primary device.
pub fn set_policy(node: &Netns, host: &str, blackhole: [bool; 2]) {
    let data = policies(blackhole).concat();
    let info = [attribute(IFLA_INFO_KIND, b"netkit\0"), attribute(IFLA_INFO_DATA, &data)].concat();
    let body = [vec![0; 16], named(host), attribute(IFLA_LINKINFO, &info)].concat();
    let set = node.enter(|| ask(0, &body));
    set.unwrap_or_else(|error| panic!("the policy of {host}: {error}"));
}

fn named(name: &str) -> Vec<u8> {
    attribute(IFLA_IFNAME, &[name.as_bytes(), &[0]].concat())
}

fn policies(blackhole: [bool; 2]) -> [Vec<u8>; 2] {
    let policy = |kind, drops| attribute(kind, &u32::to_ne_bytes(if drops { 2 } else { 0 }));
    [policy(IFLA_NETKIT_POLICY, blackhole[0]), policy(IFLA_NETKIT_PEER_POLICY, blackhole[1])]
}

fn make(mode: Mode, host: &str, pod: i32, inner: &str) -> io::Result<()> {
    let peer = [vec![0; 16], named(inner), attribute(IFLA_NET_NS_FD, &pod.to_ne_bytes())].concat();
    let [inward, outward] = policies(mode.blackhole);
    let kind = attribute(IFLA_NETKIT_MODE, &u32::to_ne_bytes(u32::from(!mode.l2)));
    let data = [kind, inward, outward, attribute(IFLA_NETKIT_PEER_INFO, &peer)].concat();
    let info = [attribute(IFLA_INFO_KIND, b"netkit\0"), attribute(IFLA_INFO_DATA, &data)].concat();
    let body = [vec![0; 16], named(host), attribute(IFLA_LINKINFO, &info)].concat();
    ask(NLM_F_EXCL | NLM_F_CREATE, &body)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("an attribute is short");
    let mut attribute = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// Sends a request about a link, and reads what the kernel says to it.
fn ask(flags: u16, body: &[u8]) -> io::Result<()> {
    let flags = flags | NLM_F_REQUEST | NLM_F_ACK;
    let length = u32::try_from(16 + body.len()).map_err(io::Error::other)?;
    let head = [&length.to_ne_bytes()[..], &libc::RTM_NEWLINK.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]].concat();
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_ROUTE)))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is large enough for any address; all zeroes but the family is the kernel's.
    unsafe {
        let address = storage.view_as::<libc::sockaddr_nl>();
        *address = zeroed();
        address.nl_family = u16::try_from(libc::AF_NETLINK).map_err(io::Error::other)?;
    }
    let length = u32::try_from(size_of::<libc::sockaddr_nl>()).map_err(io::Error::other)?;
    // SAFETY: it was filled in just now, with this length.
    let kernel = unsafe { SockAddr::new(storage, length) };
    socket.connect(&kernel)?;
    socket.send(&[&head, body].concat())?;
    let mut answer = [0; 1024];
    let received = io::Read::read(&mut &socket, &mut answer)?;
    // A header of 16 bytes, then a negative error number or 0.
    let code = answer[..received].get(16..20).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("a short answer")),
    }
}

/// Puts a program in front of all others that a pair meets, which answers this number for every packet, until the link is
/// closed: as a CNI decides about them.
pub fn answer_first(node: &Netns, host: &str, place: Place, answer: i32) -> OwnedFd {
    let ifindex = crate::netdev::index(node, host);
    let attached = node.enter(|| program::answer_first(place, ifindex, answer));
    attached.unwrap_or_else(|error| panic!("a program on {host}: {error}"))
}
