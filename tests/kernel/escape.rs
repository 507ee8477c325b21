//! The escape suite: every way out of a pod (and into it) that we know, tried by an attacker inside and decided outside.
//!
//! The attacker is root with a container's default capabilities, and with `CAP_NET_ADMIN` where it changes the pod's network; it has
//! no `CAP_SYS_ADMIN`. Each channel must get through on a pod that nobody isolates, and again after the release; in between, it must
//! not. So a channel cannot be blind, and what failed during the cut did not fail for another reason.

mod cut;
mod inward;
mod known;
mod l2;
mod matrix;
mod odd;
mod prober;
mod rtnetlink;
mod run;
mod sockets;
mod stage;
mod tampering;
mod topologies;
pub(crate) mod window;

use std::env;

use libtest_mimic::Trial;

use self::{
    cut::Cut,
    run::{Row, Setting, Verdict},
    stage::Stage,
};
use crate::suite;
use isolate_tests::frame::Mark;

/// A way to get something through.
pub(crate) struct Escape {
    /// Which pod it is tried on.
    setting: Setting,
    /// What it is, in a few words; unique.
    name: &'static str,
    /// Sends the mark, and tells whether it got through.
    attempt: fn(&Stage, &Mark) -> Result<bool, Halt>,
}

/// Why an attempt did not come to its end.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The kernel does not know what was asked for: the probe and its result.
    Missing(String),
    /// A call failed.
    Failed(String),
}

const fn escape(setting: Setting, name: &'static str, attempt: fn(&Stage, &Mark) -> Result<bool, Halt>) -> Escape {
    Escape { setting, name, attempt }
}

/// All channels, by family.
const FAMILIES: [(&str, &[Escape]); 6] = [
    ("sockets", sockets::ALL),
    ("frames", l2::ALL),
    ("odd packets", odd::ALL),
    ("tampering", tampering::ALL),
    ("inward", inward::ALL),
    ("topologies", topologies::ALL),
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = Setting::ALL
        .into_iter()
        .map(|setting| {
            suite::trial(&format!("escape::{}", setting.name()), &[], move || nothing_escapes(setting, Cut::Agent))
        })
        .collect();
    let probed = Setting::ALL.into_iter().filter(|setting| setting.has_host_end()).map(|setting| {
        let name = format!("escape::{}_while_probed", setting.name());
        suite::trial(&name, &[], move || nothing_escapes(setting, Cut::AgentKeepingProbes))
    });
    trials.extend(probed);
    trials.extend(window::trials());
    trials.push(suite::trial("escape::the_lists_agree", &[], the_lists_agree));
    trials
}

/// What writes the document, or prints a part of it, where that is asked for: once, and not with every kind of hook.
pub(crate) fn writers() -> Vec<Trial> {
    let matrix = env::var_os(matrix::PATH).map(|path| {
        let write = move || {
            matrix::write(path.as_ref());
            Ok(())
        };
        Trial::test("escape::matrix", write)
    });
    matrix.into_iter().chain(window::printer()).collect()
}

/// All channels of a setting: they work, are cut, and work again; except those that are known to leak, which do.
fn nothing_escapes(setting: Setting, cut: Cut) {
    let rows = run::perform(setting, cut);
    let wrong: Vec<String> = rows.iter().filter_map(disagreement).collect();
    assert!(wrong.is_empty(), "{} of {} channels:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

fn disagreement(row: &Row) -> Option<String> {
    let known = known::reason(row.name);
    match (&row.verdict, known) {
        (Verdict::Cut, None) | (Verdict::Open, Some(_)) | (Verdict::NotOffered(_) | Verdict::Refused, _) => None,
        (Verdict::Open, None) => Some(format!("LEAK: {}", row.name)),
        (Verdict::Cut, Some(_)) if known::is_race(row.name) => None,
        (Verdict::Cut, Some(_)) => Some(format!("{} is cut now: take it from the list of known leaks", row.name)),
        (Verdict::Blind(why), _) => Some(format!("{} shows nothing: {why}", row.name)),
    }
}

fn the_lists_agree() {
    let names: Vec<&str> = FAMILIES.iter().flat_map(|(_, all)| all.iter().map(|escape| escape.name)).collect();
    for name in &names {
        assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name} stands there twice");
    }
    for known in known::LEAKS {
        assert!(names.contains(&known.channel), "{} is no channel", known.channel);
    }
    for race in known::RACES {
        assert!(known::LEAKS.iter().any(|known| known.channel == *race), "{race} is no known leak");
    }
    assert!(names.len() >= 60, "{} channels", names.len());
}
