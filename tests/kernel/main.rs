//! The kernel tests: one binary, one file per subject, real packets. Needs root; `cargo xtask test` runs it.
//!
//! Run some: `cargo test -p isolate-tests --test kernel -- isolate::` (libtest's arguments and output). The agent under test
//! is `target/<profile>/isolate-agent`, or what `ISOLATE_AGENT_BIN` names. `ISOLATE_BLESS=1` writes the generated documents
//! instead of comparing them, `ISOLATE_MATRIX=FILE` adds the test that writes the containment matrix, `ISOLATE_WINDOWS=1` the one
//! that prints for how long what appears late is open, and `ISOLATE_TRACE=1` has the escape suite tell what each attempt gave.
//! `ISOLATE_SEED=N` repeats the random frames of a failure. With `CI` set a test that cannot run fails instead of being skipped;
//! with `ISOLATE_EMULATED` set those that are bound to the agent's deadlines count as ones that need not run.
//!
//! Rules of every test: its own [`Node`](isolate_tests::node::Node); a channel is shown to work before it is shown to be cut;
//! what is cut is proved by packets that do not arrive, not by maps; nothing is left when it ends.
#![allow(clippy::panic, reason = "a test fails by panicking with a message")]

mod allow;
mod arming;
mod bad_input;
mod behaviour;
mod clsact;
mod concurrent;
mod containers;
mod crash;
mod cri;
mod demo;
mod direct;
mod drop_semantics;
mod escape;
mod evidence;
mod faults;
mod full;
mod fuzzed;
mod guarantees;
mod harness;
mod held;
mod isolate;
mod kernel_errors;
mod late;
mod leaving;
mod limit;
mod loopback;
mod metrics;
mod names;
mod netkit;
mod nri;
mod powers;
mod preview;
mod priority;
mod probes;
mod reboot;
mod refused;
mod repair;
mod scene;
mod sniffers;
mod strangers;
mod suite;
mod upgrade;
mod v1;
mod verify;

use std::process::ExitCode;

use clap::Parser as _;
use isolate_tests::{residue, sweep};
use libtest_mimic::Trial;

/// libtest takes several filters, libtest-mimic one.
#[derive(clap::Parser)]
struct Choice {
    #[command(flatten)]
    libtest: libtest_mimic::Arguments,
    #[arg(value_name = "FILTER")]
    more_filters: Vec<String>,
}

impl Choice {
    /// With several filters: those of the tests that any of them matches.
    fn among(&mut self, trials: impl Iterator<Item = Trial>) -> Vec<Trial> {
        if self.more_filters.is_empty() {
            return trials.collect();
        }
        let filters: Vec<&String> = self.libtest.filter.iter().chain(&self.more_filters).collect();
        let chosen = |name: &str| {
            filters.iter().any(|filter| if self.libtest.exact { name == *filter } else { name.contains(*filter) })
        };
        let trials = trials.filter(|trial| chosen(trial.name())).collect();
        self.libtest.filter = None;
        trials
    }
}

fn main() -> ExitCode {
    if harness::is_leaking_child() {
        harness::leak();
    }
    let mut choice = Choice::parse();
    if !choice.libtest.list {
        sweep::dead_runs();
    }
    let trials = [
        harness::trials(),
        held::trials(),
        isolate::trials(),
        kernel_errors::trials(),
        loopback::trials(),
        limit::trials(),
        late::trials(),
        leaving::trials(),
        allow::trials(),
        probes::trials(),
        drop_semantics::trials(),
        metrics::trials(),
        containers::trials(),
        sniffers::trials(),
        strangers::trials(),
        crash::trials(),
        cri::trials(),
        direct::trials(),
        arming::trials(),
        clsact::trials(),
        clsact::others(),
        v1::trials(),
        names::trials(),
        netkit::trials(),
        nri::trials(),
        powers::trials(),
        preview::trials(),
        priority::trials(),
        verify::trials(),
        full::trials(),
        fuzzed::trials(),
        reboot::trials(),
        upgrade::trials(),
        faults::trials(),
        refused::trials(),
        repair::trials(),
        bad_input::trials(),
        behaviour::trials(),
        concurrent::trials(),
        demo::trials(),
        escape::trials(),
        escape::writers(),
        evidence::trials(),
        evidence::hanging::trials(),
        guarantees::trials(),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    let names = trials.iter().map(|trial| trial.name().to_owned()).collect();
    guarantees::NAMES.set(names).expect("they are noted once");
    let trials = trials.into_iter();
    let trials = choice.among(trials);
    let conclusion = libtest_mimic::run(&choice.libtest, trials);
    let left = residue::of_this_run();
    if !left.is_empty() {
        eprintln!("left behind by this run: {left:?}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}
