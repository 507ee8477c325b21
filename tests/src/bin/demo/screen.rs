//! How the demo looks: numbered steps, commands with their output, rows of results. Colour on a terminal only.

use std::{
    cell::Cell,
    env,
    io::{self, IsTerminal as _},
};

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";
const CYAN: &str = "36";

/// The output.
pub(crate) struct Screen {
    colour: bool,
    steps: Cell<u32>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: io::stdout().is_terminal() && !no_colour, steps: Cell::new(0) }
    }

    /// A step, and in a line what it shows.
    pub(crate) fn step(&self, title: &str, meaning: &str) {
        self.steps.set(self.steps.get() + 1);
        println!("\n{}\n{}", self.paint(BOLD, &format!("{}. {title}", self.steps.get())), self.paint(DIM, meaning));
    }

    /// A command as one would type it; its output follows by itself.
    pub(crate) fn command(&self, place: &str, command: &str) {
        println!("{}", self.paint(CYAN, &format!("{place}$ {command}")));
    }

    /// A result, and whether it is the right one.
    pub(crate) fn row(&self, name: &str, result: &str, verdict: Result<&str, &str>) {
        let verdict = match verdict {
            Ok(right) => self.paint(GREEN, right),
            Err(wrong) => self.paint(RED, &format!("WRONG: {wrong}")),
        };
        println!("  {name:<32} {result:<34} {verdict}");
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
