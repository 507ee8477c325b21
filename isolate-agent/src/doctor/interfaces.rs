//! The interfaces of the node's namespace that lead to pods, and other owners' programs on them. Reads only.

use std::io;

use aya::programs::{SchedClassifier, TcAttachType};
use futures_util::TryStreamExt as _;
use isolate_common::DIRECTIONS;
use rtnetlink::{
    Handle, new_connection,
    packet_route::{
        link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
        tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption},
    },
};
use thiserror::Error;

use super::{
    Finding, kernel,
    programs::{Owner, Programs},
};
use crate::{enforce::netkit_programs, inventory::IfIndex};

/// Why the interfaces cannot be told.
#[derive(Debug, Error)]
enum InterfacesError {
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    #[error("cannot list the interfaces: {0}")]
    List(#[source] rtnetlink::Error),
}

/// An interface of the node that may lead to a pod.
#[derive(Debug, PartialEq, Eq)]
struct Device {
    index: u32,
    name: String,
    leads: Leads,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leads {
    /// A veth into another namespace.
    Elsewhere,
    /// A veth whose other end is on the node.
    Here,
    /// A veth whose other end the kernel does not name.
    Unknown,
    /// The primary one of a pair of netkit devices, the other one elsewhere.
    Netkit,
    /// The other one of such a pair.
    NetkitPeer,
}

pub(super) async fn examine() -> Vec<Finding> {
    match look().await {
        Ok((devices, programs)) => tell(&devices, &programs),
        Err(error) => vec![Finding::fail(
            "interfaces",
            error.to_string(),
            "pods' host veths cannot be found",
            "allow AF_NETLINK in the seccomp profile or in RestrictAddressFamilies",
        )],
    }
}

async fn look() -> Result<(Vec<Device>, Programs), InterfacesError> {
    let (connection, handle, _events) = new_connection().map_err(InterfacesError::Socket)?;
    let connection = tokio::spawn(connection);
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await.map_err(InterfacesError::List)?;
    let mut devices: Vec<Device> = links.iter().filter_map(device).collect();
    let mut programs = Programs::default();
    for device in devices.iter_mut().filter(|device| device.leads == Leads::Netkit) {
        for direction in DIRECTIONS {
            match netkit_programs(IfIndex(device.index), direction) {
                Ok(chain) => programs.chain(&device.name, &chain),
                Err(error) if error.raw_os_error() == Some(libc::EACCES) => device.leads = Leads::NetkitPeer,
                Err(error) => drop(programs.unanswered.insert(format!("{}: {error}", device.name))),
            }
        }
    }
    for device in devices.iter().filter(|device| matches!(device.leads, Leads::Elsewhere | Leads::Unknown)) {
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            let mut chain = tcx_programs(device, side, &mut programs);
            chain.extend(filters(&handle, device, side).await);
            programs.chain(&device.name, &chain);
        }
    }
    connection.abort();
    Ok((devices, programs))
}

fn device(link: &LinkMessage) -> Option<Device> {
    let attributes = &link.attributes;
    let name = attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let kind = attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind),
            _ => None,
        }),
        _ => None,
    })?;
    // The kernel names the peer's namespace only where it is another one.
    let elsewhere = attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::LinkNetNsId(0..)));
    let peer = attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::Link(1..)));
    let leads = match kind {
        InfoKind::Netkit if elsewhere => Leads::Netkit,
        InfoKind::Veth if elsewhere => Leads::Elsewhere,
        InfoKind::Veth if peer => Leads::Here,
        InfoKind::Veth => Leads::Unknown,
        _ => return None,
    };
    Some(Device { index: link.header.index, name, leads })
}

/// The names of the tcx programs on one side, first to last.
fn tcx_programs(device: &Device, side: TcAttachType, programs: &mut Programs) -> Vec<String> {
    match SchedClassifier::query_tcx(&device.name, side) {
        Ok((_, chain)) => chain.iter().map(|program| String::from_utf8_lossy(program.name()).into_owned()).collect(),
        // No tcx, so no chain.
        Err(error) if kernel::errno(&error) == Some(libc::EINVAL) => Vec::new(),
        Err(error) => {
            programs.unanswered.insert(kernel::describe(&error));
            Vec::new()
        }
    }
}

/// The names of the filters on one side, first to last: of the program, or else of the kind.
async fn filters(handle: &Handle, device: &Device, side: TcAttachType) -> Vec<String> {
    let request = handle.traffic_filter(device.index.cast_signed()).get();
    let request = if side == TcAttachType::Ingress { request.ingress() } else { request.egress() };
    // Without a clsact or ingress qdisc there is nothing to list, and some kernels say so by an error.
    let filters: Vec<TcMessage> = request.execute().try_collect().await.unwrap_or_default();
    // The line without a handle stands for the priority.
    filters.iter().filter(|filter| u32::from(filter.header.handle) != 0).filter_map(name).collect()
}

fn name(filter: &TcMessage) -> Option<String> {
    let options = filter.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    let name = options.into_iter().flatten().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.clone()),
        _ => None,
    });
    name.or_else(|| {
        filter.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.clone()),
            _ => None,
        })
    })
}

fn tell(devices: &[Device], programs: &Programs) -> Vec<Finding> {
    let count = |leads: Leads| devices.iter().filter(|device| device.leads == leads).count();
    let names = |leads: Leads| {
        let names: Vec<&str> =
            devices.iter().filter(|device| device.leads == leads).map(|device| device.name.as_str()).collect();
        names.join(", ")
    };
    let mut findings = vec![Finding::ok(
        "host-veths",
        format!("{} into other namespaces, {} within the node's", count(Leads::Elsewhere), count(Leads::Here)),
        "the first can carry the veth hook; the others are never touched",
    )];
    if count(Leads::Unknown) > 0 {
        findings.push(Finding::warn(
            "host-veths-without-peer",
            names(Leads::Unknown),
            "their other end is not known: a pod behind them is covered by the cgroup hook only",
            "ip link show type veth: remove what no pod uses",
        ));
    }
    if count(Leads::Netkit) > 0 {
        findings.push(Finding::ok(
            "netkit",
            format!("{} into other namespaces", count(Leads::Netkit)),
            "they can carry the veth hook at netkit's own attach points",
        ));
    }
    if count(Leads::NetkitPeer) > 0 {
        findings.push(Finding::warn(
            "netkit-peers",
            names(Leads::NetkitPeer),
            "the primary device of these pairs is in the pod: the pods behind them are hooked inside only, and partly covered",
            "have the CNI keep the primary device on the node, as Cilium does",
        ));
    }
    findings.push(others(programs));
    if !programs.displaced.is_empty() {
        findings.push(Finding::warn(
            "chain-order",
            joined(programs.displaced.iter()),
            "another program runs before the veth hook there, and may decide first",
            "run the daemon: where ours can be put first it does so within one pass; `isolate_hook_repairs_total` counts it",
        ));
    }
    if !programs.unanswered.is_empty() {
        findings.push(Finding::warn(
            "unread-chains",
            joined(programs.unanswered.iter()),
            "whose programs are there is not known",
            "run as root with CAP_NET_ADMIN and CAP_SYS_ADMIN",
        ));
    }
    findings
}

fn others(programs: &Programs) -> Finding {
    const NAME: &str = "other-programs";
    if programs.others.is_empty() {
        return Finding::ok(NAME, "none", "no other program decides on the pods' interfaces");
    }
    let value = joined(programs.others.iter().map(|(owner, name)| format!("{name} ({})", owner.name())));
    if programs.others.iter().map(|(owner, _)| *owner).any(Owner::may_bypass) {
        return Finding::warn(
            NAME,
            value,
            "the CNI may deliver frames into a pod with bpf_redirect_peer, past the veth hook; the cgroup hook still cuts the pod's sockets",
            "to close it, use the CNI's host routing (Cilium: bpf.hostLegacyRouting=true)",
        );
    }
    Finding::ok(NAME, value, "the veth hook goes before them and leaves them to decide on pods that are not isolated")
}

fn joined(texts: impl Iterator<Item = impl AsRef<str>>) -> String {
    let texts: Vec<String> = texts.map(|text| text.as_ref().to_owned()).collect();
    texts.join(", ")
}
