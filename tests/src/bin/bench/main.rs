//! What `cargo xtask bench` runs: measures isolate-agent beside what people would use instead, and writes tables and plots.
//!
//! Everything is made of kernel objects of its own, bounded, and removed by a guard however the run ends. Variants of one
//! thing are measured in turns within one run. Times are of the cores' use where they can be, so that other work on the
//! machine falls out; what is a matter of waiting is taken by the clock.
#![expect(clippy::panic, reason = "a benchmark that cannot go on ends with a message, and the guard clears up")]

mod bounds;
mod churn;
mod cpu;
mod crowd;
mod cut;
mod flood;
mod floor;
mod growth;
mod healthy;
mod machine;
mod micro;
mod options;
mod pace;
mod plot;
mod report;
mod scale;
mod start;
mod stats;
mod stream;
mod targets;

use std::{fs, iter, process::ExitCode, time::Instant};

use clap::Parser as _;
use isolate_tests::{
    agent::{self, Agent},
    guard,
    node::Node,
};

use crate::{
    machine::Machine,
    options::{Options, Part},
    pace::Paces,
    report::Report,
};

fn main() -> ExitCode {
    if guard::is_story() { measure() } else { guard::watch("bench") }
}

/// A part of the benchmark: it measures and adds to the report.
type Run = fn(&Options, &mut Report);

const PARTS: [(Part, Run); 5] = [
    (Part::Micro, micro::run),
    (Part::Healthy, healthy::run),
    (Part::Flood, flood::run),
    (Part::Cut, cut::run),
    (Part::Scale, scale::run),
];

fn measure() -> ExitCode {
    // The first argument is the guard's.
    let options = Options::parse_from(std::env::args_os().skip(1)).settle();
    let machine = Machine::look(&Agent::new(&Node::new()));
    eprintln!("bench: {}", machine.describe());
    let mut report = Report::new(machine);
    let bytes = fs::metadata(agent::program()).expect("the agent is there").len();
    let kib = u32::try_from(bytes.div_ceil(1024)).expect("some MiB");
    report.figure("binary", "MiB", &iter::once(f64::from(kib) / 1024.0).collect());
    fs::create_dir_all(&options.out).expect("the folder for the results can be made");
    let mut paces = Paces::default();
    // Each time, so that a part that fails takes nothing with it.
    let write = |report: &Report| report.write(&options.out).expect("the folder for the results can be written");
    for (part, run) in PARTS.into_iter().filter(|(part, _)| options.wants(*part)) {
        let start = Instant::now();
        eprintln!("bench: {part:?} …");
        paces.around(part, || run(&options, &mut report));
        eprintln!("bench: {part:?} done in {:.0} s", start.elapsed().as_secs_f64());
        report.compare(targets::of(&report));
        write(&report);
    }
    paces.tell(&mut report);
    write(&report);
    tell(&options);
    ExitCode::SUCCESS
}

#[expect(clippy::print_stdout, reason = "where the results are is the result")]
fn tell(options: &Options) {
    println!("{}", options.out.join("performance.md").display());
}
