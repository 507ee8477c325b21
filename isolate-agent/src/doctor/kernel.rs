//! What the kernel can do.

use std::{fs, io, path::Path};

use aya::{
    programs::{ProgramError, ProgramType},
    sys::{BpfHelper, is_helper_supported, is_program_supported},
};
use rustix::process::{Resource, getrlimit};

use super::{Finding, bpf};
use crate::{
    enforce::{has_clsact, has_tcx, lsm_refusal},
    settings::{Settings, VethHook},
};

const UPGRADE: &str =
    "run a kernel with this feature (Linux 5.10 or later has it), or enable it in the kernel's configuration";
const NO_BPF: &str = "no program can be loaded: no pod can be isolated";

pub(super) fn examine(settings: &Settings) -> Vec<Finding> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    let release = release.map_or_else(|error| format!("unknown: {error}"), |text| text.trim().to_owned());
    vec![
        Finding::ok("kernel", release, "for reference: what it can do is probed below"),
        program("veth-programs", ProgramType::SchedClassifier),
        program("cgroup-programs", ProgramType::CgroupSkb),
        ancestor_helper(),
        cgroup_links(),
        veth_hook(settings.veth_hook),
        memlock(),
        btf(),
        lsm(),
    ]
}

fn program(name: &'static str, kind: ProgramType) -> Finding {
    match is_program_supported(kind) {
        Ok(true) => Finding::ok(name, "can be loaded", "bpf(2) is allowed and the kernel accepts such programs"),
        Ok(false) => {
            Finding::fail(name, "not supported", "the kernel does not know them: no pod can be isolated", UPGRADE)
        }
        Err(error) => Finding::fail(
            name,
            format!("bpf(2) fails: {}", describe(&error)),
            NO_BPF,
            "run as root with CAP_BPF and CAP_NET_ADMIN; allow bpf(2) in the seccomp profile; disable kernel lockdown",
        ),
    }
}

fn ancestor_helper() -> Finding {
    const NAME: &str = "cgroup-ancestor-helper";
    match is_helper_supported(ProgramType::CgroupSkb, BpfHelper::BPF_FUNC_skb_ancestor_cgroup_id) {
        Ok(true) => Finding::ok(NAME, "supported", "a packet leads to the pod of its socket in the kernel"),
        Ok(false) => Finding::fail(NAME, "not supported", "the cgroup programs cannot be loaded", UPGRADE),
        Err(error) => Finding::fail(
            NAME,
            describe(&error),
            "could not be probed, so the programs will most likely not load",
            "see the findings about capabilities",
        ),
    }
}

fn cgroup_links() -> Finding {
    const NAME: &str = "cgroup-links";
    match bpf::has_links() {
        Ok(true) => Finding::ok(NAME, "supported", "the cgroup hook stays attached without a process"),
        Ok(false) => Finding::fail(NAME, "not supported", "the cgroup hook cannot be pinned", UPGRADE),
        Err(error) => {
            Finding::fail(NAME, format!("bpf(2) fails: {error}"), NO_BPF, "see the findings about capabilities")
        }
    }
}

/// Which way the programs get onto interfaces, and why.
fn veth_hook(setting: VethHook) -> Finding {
    const NAME: &str = "veth-hook";
    const UNKNOWN: &str = "the veth hook can most likely not be attached";
    const PRIVILEGE: &str = "run as root with CAP_NET_ADMIN and CAP_SYS_ADMIN";
    let tcx = match has_tcx() {
        Ok(tcx) => tcx,
        Err(error) => {
            return Finding::fail(NAME, format!("the kernel cannot be asked for tcx: {error}"), UNKNOWN, PRIVILEGE);
        }
    };
    let why = match (setting, tcx) {
        (VethHook::Auto | VethHook::Tcx, true) => {
            return Finding::ok(
                NAME,
                "tcx: the kernel has it",
                "it goes to the head of the chain, before all filters, and needs no process",
            );
        }
        (VethHook::Tcx, false) => {
            return Finding::fail(
                NAME,
                "tcx is set, and the kernel has none",
                "the veth hook cannot be attached: pods can be cut only at their sockets; ARP, raw frames and forwarded packets pass",
                "leave out --veth-hook (veth_hook, ISOLATE_VETH_HOOK), and clsact is used",
            );
        }
        (VethHook::Auto, false) => "the kernel has no tcx",
        (VethHook::Clsact, true) => "it is set; the kernel has tcx as well",
        (VethHook::Clsact, false) => "it is set; the kernel has no tcx",
    };
    match has_clsact() {
        Ok(true) => Finding::ok(
            NAME,
            format!("clsact: {why}"),
            "filters at the head of priority 1, before others wherever the kernel allows; who changes the node's filters can take them away, and the daemon puts them back",
        ),
        Ok(false) => Finding::fail(
            NAME,
            format!("clsact ({why}), and it cannot be used"),
            "the veth hook cannot be attached: pods can be cut only at their sockets; ARP, raw frames and forwarded packets pass",
            "load the modules sch_ingress and cls_bpf, or run a kernel with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF",
        ),
        Err(error) => Finding::fail(NAME, format!("clsact ({why}), and trying it fails: {error}"), UNKNOWN, PRIVILEGE),
    }
}

/// libbpf's probe: the helper came with the kernel (5.11) that accounts maps to the memory cgroup instead.
fn memlock() -> Finding {
    const NAME: &str = "memlock";
    let accounted = is_helper_supported(ProgramType::SocketFilter, BpfHelper::BPF_FUNC_ktime_get_coarse_ns);
    let limit = getrlimit(Resource::Memlock).maximum;
    let value = limit.map_or_else(|| "unlimited".to_owned(), |bytes| format!("{} KiB", bytes / 1024));
    match (accounted, limit) {
        (Ok(true), _) => Finding::ok(NAME, value, "the kernel does not count maps against it"),
        (_, None) => Finding::ok(NAME, value, "maps of any size can be made"),
        (_, Some(_)) => Finding::warn(
            NAME,
            value,
            "the kernel counts maps against this limit: making them may fail with EPERM",
            "set LimitMEMLOCK=infinity in the unit, or `ulimit -l unlimited` in the shell",
        ),
    }
}

fn btf() -> Finding {
    const NAME: &str = "btf";
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        Finding::ok(NAME, "present", "bpftool can show the maps with the names of their fields")
    } else {
        Finding::ok(NAME, "absent", "not needed to isolate: the programs read no kernel structure")
    }
}

fn lsm() -> Finding {
    const NAME: &str = "bpf-lsm";
    match lsm_refusal() {
        None => Finding::ok(NAME, "can be loaded", "an isolated pod is refused packet sockets and CAP_NET_ADMIN"),
        Some(why) => Finding::ok(
            NAME,
            format!("not in use: {why}"),
            "not needed to isolate pods with host ends; the packet sockets of hostNetwork pods, macvlan and the like stay open",
        ),
    }
}

pub(super) fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// aya's errors name the call and keep the cause apart.
pub(super) fn describe(error: &ProgramError) -> String {
    match errno(error) {
        Some(errno) => io::Error::from_raw_os_error(errno).to_string(),
        None => error.to_string(),
    }
}
