//! Turns functions into tests with libtest's output, which has no other way to skip one for a reason found at run time.

use std::cell::Cell;

use isolate_tests::{
    agent,
    feature::{self, Feature},
};
use libtest_mimic::Trial;

/// The tests of one subject, named `subject::function`.
macro_rules! trials {
    ($($test:ident $(needs $($feature:ident)+)?),+ $(,)?) => {
        pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
            // Without the name of the test binary itself.
            let subject = module_path!().split_once("::").map_or_else(String::new, |(_, subject)| subject.to_owned());
            vec![$(crate::suite::trial(
                &format!("{subject}::{}", stringify!($test)),
                &[$($(isolate_tests::feature::Feature::$feature),+)?],
                $test,
            )),+]
        }
    };
}
pub(crate) use trials;

thread_local! {
    static ATTACHING_BY: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// The same tests once more, with agents that attach to interfaces in this way.
pub(crate) fn attaching_by(veth_hook: &'static str, trials: fn() -> Vec<Trial>) -> Vec<Trial> {
    ATTACHING_BY.set(Some(veth_hook));
    let trials = trials();
    ATTACHING_BY.set(None);
    trials
}

/// The tests of a subject that has more than one file.
pub(crate) fn named(subject: &str, tests: &[(&str, fn())]) -> Vec<Trial> {
    tests.iter().map(|(name, test)| trial(&format!("{subject}::{name}"), &[], *test)).collect()
}

/// A test that runs where the machine has what it needs. Elsewhere it counts as ignored and says why, or fails on CI.
pub(crate) fn trial(name: &str, needs: &[Feature], test: impl FnOnce() + Send + 'static) -> Trial {
    let veth_hook = ATTACHING_BY.get();
    let name = veth_hook.map_or_else(|| name.to_owned(), |veth_hook| format!("{veth_hook}::{name}"));
    let test = move || match veth_hook {
        Some(veth_hook) => agent::attaching_by(veth_hook, test),
        None => test(),
    };
    let missing: Vec<String> = needs.iter().filter_map(|feature| feature.missing()).collect();
    if missing.is_empty() {
        return Trial::test(name, move || {
            test();
            Ok(())
        });
    }
    let why = missing.join("; ");
    if feature::must_not_skip() {
        return Trial::test(name, move || Err(format!("must not be skipped on CI: {why}").into()));
    }
    eprintln!("skip {name}: {why}");
    Trial::test(name, || Ok(())).with_ignored_flag(true)
}
