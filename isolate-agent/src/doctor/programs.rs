//! Programs on the pods' host interfaces, and whose they are.

use std::collections::BTreeSet;

use isolate_common::names;

/// Whose program it is, by the beginning of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    Isolate,
    Cilium,
    Calico,
    Unknown,
}

impl Owner {
    pub(super) fn of(program: &str) -> Self {
        let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| program.starts_with(prefix));
        if begins(&[names::VETH_IN, names::VETH_OUT]) {
            Self::Isolate
        } else if begins(&["cil_", "bpf_lxc"]) {
            Self::Cilium
        } else if begins(&["cali_", "calico_"]) {
            Self::Calico
        } else {
            Self::Unknown
        }
    }

    /// Whether it may deliver frames with `bpf_redirect_peer`, past the host veth.
    pub(super) const fn may_bypass(self) -> bool {
        matches!(self, Self::Cilium | Self::Calico)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Isolate => "isolate",
            Self::Cilium => "Cilium",
            Self::Calico => "Calico",
            Self::Unknown => "unknown owner",
        }
    }
}

/// What hangs on the host interfaces of all pods.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Programs {
    /// Of others: owner and name.
    pub(super) others: BTreeSet<(Owner, String)>,
    /// Interfaces on which another program runs before ours.
    pub(super) displaced: BTreeSet<String>,
    /// Why interfaces could not be asked: hundreds of them fail for the same reason.
    pub(super) unanswered: BTreeSet<String>,
}

impl Programs {
    /// Takes what one direction of an interface meets, first to last: the tcx chain, then the filters.
    pub(super) fn chain(&mut self, interface: &str, programs: &[String]) {
        if programs.iter().position(|program| Owner::of(program) == Owner::Isolate).is_some_and(|ours| ours > 0) {
            self.displaced.insert(interface.to_owned());
        }
        for program in programs {
            let owner = Owner::of(program);
            if owner != Owner::Isolate {
                self.others.insert((owner, program.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_told_by_name_and_ours_must_be_first() {
        let mut programs = Programs::default();
        programs.chain("lxc1", &["iso_veth_in".to_owned(), "cil_to_containe".to_owned()]);
        assert!(programs.displaced.is_empty());
        programs.chain("lxc2", &["cil_from_contai".to_owned(), "iso_veth_out".to_owned()]);
        programs.chain("cali1", &["iso_veth_out:/sys/fs/bpf/isolate-agent".to_owned(), "cali_tc_preambl".to_owned()]);
        programs.chain("veth1", &["shaper".to_owned()]);
        assert_eq!(programs.displaced, BTreeSet::from(["lxc2".to_owned()]));
        let owners: Vec<Owner> = programs.others.iter().map(|(owner, _)| *owner).collect();
        assert_eq!(owners, [Owner::Cilium, Owner::Cilium, Owner::Calico, Owner::Unknown]);
    }
}
