//! What a pod's processes can do beyond the pod: capabilities that hold on the node, and the node's process namespace.
//! Reads procfs only.
//!
//! A capability holds in the user namespace of its process and below. The node's network namespace belongs to the node's
//! user namespace, so a process in a user namespace of its own has power over its own network at most.

use std::{collections::BTreeMap, io};

use super::{
    InventoryError, is_exhausted,
    process::{NodeNamespaces, Process},
};

const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_SYS_MODULE: u64 = 1 << 16;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Something that a process can do past every hook. An ordinary container's processes can do none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Power {
    /// `CAP_NET_ADMIN`: makes devices in the node's network namespace.
    NetAdmin,
    /// `CAP_SYS_ADMIN`: takes programs off, changes maps, enters namespaces.
    SysAdmin,
    /// `CAP_SYS_MODULE`: loads code into the kernel.
    SysModule,
    /// It lives in the node's process namespace (`hostPID`): traces processes of the node, and takes their sockets.
    NodeProcesses,
}

impl Power {
    const ALL: [Self; 4] = [Self::NetAdmin, Self::SysAdmin, Self::SysModule, Self::NodeProcesses];

    const fn capability(self) -> u64 {
        match self {
            Self::NetAdmin => CAP_NET_ADMIN,
            Self::SysAdmin => CAP_SYS_ADMIN,
            Self::SysModule => CAP_SYS_MODULE,
            Self::NodeProcesses => 0,
        }
    }
}

/// What the processes of a pod can do, and one of them that can.
pub type Powers = BTreeMap<Power, i32>;

/// Adds what a process can do, each of its threads looked at: they share namespaces and need not share capabilities.
pub(super) fn look(process: &Process, node: &NodeNamespaces, powers: &mut Powers) -> Result<(), InventoryError> {
    if powers.len() == Power::ALL.len() {
        return Ok(());
    }
    let exhausted = |source| InventoryError::Process { pid: process.pid(), source };
    let mut held = 0;
    for thread in process.threads().or_else(gone).map_err(exhausted)? {
        held |= process
            .read(&format!("task/{thread}/status"))
            .map(|text| within_reach(&text))
            .or_else(gone)
            .map_err(exhausted)?;
    }
    let over_the_node = held != 0 && node.has_user(process);
    for power in Power::ALL {
        let has = match power {
            Power::NodeProcesses => node.has_pids(process),
            _ => over_the_node && held & power.capability() != 0,
        };
        if has {
            powers.entry(power).or_insert_with(|| process.pid());
        }
    }
    Ok(())
}

/// What went away has no power.
fn gone<T: Default>(error: io::Error) -> io::Result<T> {
    if is_exhausted(&error) { Err(error) } else { Ok(T::default()) }
}

/// The capabilities of a thread, from its `status`: those that it has, and those that it can get by starting a program
/// (a set-user-id one, one with file capabilities) unless it has given that up for good. A line that is missing hides
/// nothing.
fn within_reach(status: &str) -> u64 {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let set = |name| field(name).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(u64::MAX);
    let by_exec = if field("NoNewPrivs") == Some("1") { 0 } else { set("CapBnd") | set("CapInh") };
    set("CapPrm") | by_exec
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What runtimes give a container by default.
    const DEFAULT: u64 = 0xa804_25fb;

    fn status(inheritable: u64, permitted: u64, bounding: u64, no_new_privileges: u32) -> String {
        format!(
            "Name:\tapp\\nCapPrm:\t0\nUid:\t0\t0\t0\t0\nCapInh:\t{inheritable:016x}\nCapPrm:\t{permitted:016x}\n\
             CapEff:\t0000000000000000\nCapBnd:\t{bounding:016x}\nCapAmb:\t0000000000000000\n\
             NoNewPrivs:\t{no_new_privileges}\nSeccomp:\t0\n"
        )
    }

    fn powers(held: u64) -> Vec<Power> {
        Power::ALL.into_iter().filter(|power| held & power.capability() != 0).collect()
    }

    #[test]
    fn an_ordinary_container_can_do_none_of_it() {
        assert_eq!(powers(within_reach(&status(0, DEFAULT, DEFAULT, 0))), []);
        assert_eq!(powers(within_reach(&status(DEFAULT, DEFAULT, DEFAULT, 0))), []);
    }

    #[test]
    fn what_can_be_had_by_starting_a_program_counts() {
        let net_admin = |inheritable, permitted, bounding, no_new| {
            powers(within_reach(&status(inheritable, permitted, bounding, no_new))) == [Power::NetAdmin]
        };
        assert!(net_admin(0, CAP_NET_ADMIN, 0, 1), "what a thread has");
        assert!(net_admin(0, 0, CAP_NET_ADMIN, 0), "a set-user-id program gives it");
        assert!(net_admin(CAP_NET_ADMIN, 0, 0, 0), "a program that inherits it gives it");
        assert!(!net_admin(CAP_NET_ADMIN, 0, CAP_NET_ADMIN, 1), "no program gives anything");
    }

    #[test]
    fn a_privileged_container_can_do_all_of_it() {
        let all = [Power::NetAdmin, Power::SysAdmin, Power::SysModule];
        assert_eq!(powers(within_reach(&status(0, u64::MAX >> 23, u64::MAX >> 23, 0))), all);
        assert_eq!(powers(within_reach("Name:\tapp\n")), all, "what is not said is not taken for harmless");
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "\\PC*") {
            let _held = within_reach(&text);
        }
    }
}
