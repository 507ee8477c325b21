//! Turns functions into tests with libtest's output, which has no other way to skip one for a reason found at run time.

use isolate_tests::feature::{self, Feature};
use libtest_mimic::Trial;

/// The tests of one subject, named `subject::function`.
macro_rules! trials {
    ($($test:ident $(needs $feature:ident)?),+ $(,)?) => {
        pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
            // Without the name of the test binary itself.
            let subject = module_path!().split_once("::").map_or_else(String::new, |(_, subject)| subject.to_owned());
            vec![$(crate::suite::trial(
                format!("{subject}::{}", stringify!($test)),
                &[$(isolate_tests::feature::Feature::$feature)?],
                $test,
            )),+]
        }
    };
}
pub(crate) use trials;

/// A test that runs where the machine has what it needs. Elsewhere it counts as ignored and says why, or fails on CI.
pub(crate) fn trial(name: String, needs: &[Feature], test: fn()) -> Trial {
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
