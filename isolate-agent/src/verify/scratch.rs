//! Two network namespaces with a link between them, for probes that test a cgroup's hook: a cgroup is the same in every
//! namespace, and in these nothing can be in the way but that hook, and nothing leads anywhere.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, AsRawFd as _},
    thread,
};

use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth, new_connection,
    packet_route::address::{AddressAttribute, AddressFlags},
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

const ENDS: [&str; 2] = ["near", "far"];
const LOOPBACK: &str = "lo";

/// A way from the near namespace and back: over the link, or over the near one's loopback.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// In words.
    pub(super) name: &'static str,
    /// Whether it is the loopback.
    pub(super) is_loopback: bool,
    /// The addresses of the near end, IPv4 and IPv6.
    pub(super) near: [IpAddr; 2],
    /// Those of the far end.
    pub(super) far: [IpAddr; 2],
}

/// Documentation addresses (RFC 5737, RFC 3849): they are of nobody's network.
pub(super) const LINK: Line = Line {
    name: "a link",
    is_loopback: false,
    near: [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))],
    far: [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2))],
};
pub(super) const LO: Line = Line {
    name: "loopback",
    is_loopback: true,
    near: [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
    far: [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
};

/// Both namespaces; they end when this is dropped and the last socket in them is closed.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) near: File,
    pub(super) far: File,
}

impl Scratch {
    pub(super) fn new() -> io::Result<Self> {
        let scratch = Self { near: namespace()?, far: namespace()? };
        within(&scratch.near, || {
            talk(async |handle| {
                let [near, far] = ENDS;
                handle.link().add(LinkVeth::new(near, far).build()).execute().await?;
                let far = index(&handle, far).await?;
                let moved = LinkUnspec::new_with_index(far).setns_by_fd(scratch.far.as_raw_fd()).build();
                handle.link().set(moved).execute().await?;
                set_up(&handle, LOOPBACK, &[]).await?;
                set_up(&handle, near, &LINK.near).await
            })
        })??;
        within(&scratch.far, || talk(async |handle| set_up(&handle, ENDS[1], &LINK.far).await))??;
        Ok(scratch)
    }
}

/// Runs `act` on a thread of its own that has entered the namespace, and ends with it.
pub(super) fn within<T: Send>(namespace: &File, act: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_a_thread(|| {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(act())
    })
}

fn namespace() -> io::Result<File> {
    on_a_thread(|| {
        // SAFETY: a new network namespace for this thread changes nothing that memory safety rests on.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        File::open("/proc/thread-self/ns/net")
    })
}

fn on_a_thread<T: Send>(act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let joined =
        thread::scope(|scope| thread::Builder::new().spawn_scoped(scope, act).map(thread::ScopedJoinHandle::join))?;
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Asks the kernel for something in the namespace of the calling thread.
fn talk<T>(ask: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (connection, handle, _events) = new_connection()?;
        let connection = tokio::spawn(connection);
        let answer = ask(handle).await.map_err(io::Error::other);
        connection.abort();
        answer
    })
}

async fn index(handle: &Handle, name: &str) -> Result<u32, rtnetlink::Error> {
    let found = handle.link().get().match_name(name.to_owned()).execute().try_next().await?;
    Ok(found.map_or(0, |link| link.header.index))
}

/// An address that the kernel has no room for (IPv6 that is switched off) is left out.
async fn set_up(handle: &Handle, name: &str, addresses: &[IpAddr]) -> Result<(), rtnetlink::Error> {
    let index = index(handle, name).await?;
    handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
    for address in addresses {
        let mut request = handle.address().add(index, *address, if address.is_ipv6() { 64 } else { 24 });
        // At once, without a look for another who has it.
        request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        if let Err(error) = request.execute().await {
            tracing::debug!(%error, %address, "an address of a verification");
        }
    }
    Ok(())
}
