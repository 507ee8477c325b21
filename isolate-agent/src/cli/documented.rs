//! `docs/cli.md` says what the commands are: every verb and flag, and samples that are the types they claim to be.

use std::{fs, path::Path};

use clap::CommandFactory;
use isolate_agent::{
    control::protocol::{Isolation, Outcomes, Status},
    preview::Preview,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::args::Cli;

fn page() -> String {
    read("cli.md")
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::read_to_string(path).expect("the pages are in docs")
}

/// The sample in `docs/preview.md`.
fn preview_sample() -> String {
    let page = read("preview.md");
    let sample = page.split("```json\n").nth(1).and_then(|rest| rest.split("```").next());
    sample.expect("docs/preview.md has a sample").to_owned()
}

/// The same as the type that it is.
pub(crate) fn preview() -> Preview {
    serde_json::from_str(&preview_sample()).expect("the sample is a preview")
}

/// Whether the sample is the type, with nothing left over.
fn is_whole<T: DeserializeOwned + Serialize>(sample: &str) -> bool {
    let value: serde_json::Value = serde_json::from_str(sample).expect("the sample is JSON");
    serde_json::from_value::<T>(value.clone())
        .is_ok_and(|read| serde_json::to_value(read).expect("the type is JSON") == value)
}

#[test]
fn every_verb_and_flag_is_documented() {
    let page = page();
    let mut command = Cli::command();
    command.build();
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        assert!(page.contains(&format!("### `{}", verb.get_name())), "{} is not documented", verb.get_name());
        for argument in verb.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let Some(flag) = argument.get_long().filter(|flag| !matches!(*flag, "help" | "version")) else {
                continue;
            };
            assert!(page.contains(&format!("--{flag}")), "--{flag} of {} is not documented", verb.get_name());
            if let Some(name) = argument.get_env() {
                let name = name.to_str().expect("the names are ASCII");
                assert!(page.contains(&format!("`{name}`")), "{name} is not documented");
            }
        }
    }
}

#[test]
fn the_samples_are_the_protocol() {
    let page = page();
    let samples: Vec<&str> = page.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let [outcomes, isolation, status] = samples[..] else {
        unreachable!("docs/cli.md has {} samples, not three", samples.len());
    };
    assert!(is_whole::<Outcomes>(outcomes), "{outcomes}");
    assert!(is_whole::<Isolation>(isolation), "{isolation}");
    assert!(is_whole::<Status>(status), "{status}");
    assert!(is_whole::<Preview>(&preview_sample()), "{}", preview_sample());
}
