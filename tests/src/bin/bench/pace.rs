//! How fast the processor is before and after each part: on a shared machine its neighbours decide, and all that computes follows.

use std::{hint::black_box, time::Instant};

use crate::{
    options::Part,
    report::{Report, Section, Table},
    stats::Series,
};

/// Fits into the first cache.
const WORDS: usize = 2048;
const SAMPLES: usize = 400;

/// What the same work took, beside each part, in µs.
#[derive(Debug, Default)]
pub(crate) struct Paces(Vec<(Part, [Series; 2])>);

impl Paces {
    /// Runs a part, with the pace before and after it.
    pub(crate) fn around(&mut self, part: Part, run: impl FnOnce()) {
        let before = take();
        run();
        self.0.push((part, [before, take()]));
    }

    /// Adds what was measured.
    pub(crate) fn tell(&self, report: &mut Report) {
        let mut table = Table::new(&["part", "before", "after"]);
        for (part, series) in &self.0 {
            let [before, after] = series.each_ref().map(|series| series.summary().median);
            table.row([format!("{part:?}"), format!("{before:.1} µs"), format!("{after:.1} µs")]);
            for (when, series) in ["before", "after"].into_iter().zip(series) {
                report.figure(&format!("pace.{part:?}.{when}").to_lowercase(), "µs", series);
            }
        }
        report.section(Section {
            title: "The processor's pace",
            text: format!(
                "What one and the same loop in user space ({WORDS} words of 8 bytes, hashed; it waits for nothing and stays in the first \
                 cache) took before and after each part. Where neighbours share the cores, absolute times of different parts, and of \
                 different runs, differ as these do."
            ),
            tables: vec![table],
            ..Section::default()
        });
    }
}

fn take() -> Series {
    let words: Vec<u64> = (0..WORDS as u64).collect();
    // Four chains side by side keep the units of a core busy, so that a neighbour on the same core is felt.
    let hash = |sums: [u64; 4], word: &u64| sums.map(|sum| (sum ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(17));
    let once = |_| {
        let start = Instant::now();
        let sums = black_box(&words).iter().fold([0, 1, 2, 3], hash);
        black_box(sums);
        start.elapsed().as_secs_f64() * 1e6
    };
    (0..SAMPLES).map(once).collect()
}
