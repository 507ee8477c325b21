//! Plots as SVG: bars, and lines on linear or logarithmic axes. Plain text, readable on light and dark pages.

use std::fmt::Write as _;

use crate::{report::figure, stats::number};

const WIDTH: f64 = 760.0;
const LABELS: f64 = 230.0;
const MARGIN: f64 = 56.0;
const HEIGHT: f64 = 380.0;
/// Colours that can be told apart, also by the colour-blind (Okabe and Ito's palette).
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#8c6d1f"];

/// A plot.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    /// Name of its file, without ending.
    pub(crate) name: String,
    /// Its heading.
    pub(crate) title: String,
    /// What it shows.
    pub(crate) kind: Kind,
}

/// What a plot shows.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A bar for each name; those of ours are marked.
    Bars {
        /// What the lengths are.
        unit: &'static str,
        /// Name, length, whether it is isolate's.
        bars: Vec<(String, f64, bool)>,
    },
    /// Lines with points.
    Lines {
        /// The x axis.
        x: Axis,
        /// The y axis.
        y: Axis,
        /// Name and points of each line.
        lines: Vec<(String, Vec<(f64, f64)>)>,
    },
}

/// An axis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    /// What is on it.
    pub(crate) title: &'static str,
    /// Whether it is logarithmic.
    pub(crate) logarithmic: bool,
}

impl Plot {
    /// The plot as a file.
    pub(crate) fn svg(&self) -> String {
        let (body, height) = match &self.kind {
            Kind::Bars { unit, bars } => self::bars(unit, bars),
            Kind::Lines { x, y, lines } => self::lines(*x, *y, lines),
        };
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
             <text x=\"{:.0}\" y=\"20\" font-size=\"14\" font-weight=\"bold\" text-anchor=\"middle\">{}</text>\n{body}</svg>\n",
            WIDTH / 2.0,
            escaped(&self.title)
        )
    }
}

fn bars(unit: &str, bars: &[(String, f64, bool)]) -> (String, f64) {
    let longest = bars.iter().map(|(_, length, _)| *length).fold(0.0, f64::max);
    let scale = (WIDTH - LABELS - 80.0) / longest;
    let mut body = String::new();
    for (at, (name, length, ours)) in bars.iter().enumerate() {
        let y = 36.0 + number(at) * 24.0;
        let colour = COLOURS[usize::from(!*ours)];
        let (width, text_y) = (length * scale, y + 13.0);
        writeln!(
            body,
            "<text x=\"{:.0}\" y=\"{text_y:.0}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABELS}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"18\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{text_y:.0}\">{} {unit}</text>",
            LABELS - 8.0,
            escaped(name),
            LABELS + width + 6.0,
            figure(*length)
        )
        .expect("a String takes every write");
    }
    (body, 36.0 + number(bars.len()) * 24.0 + 12.0)
}

/// From values to the page.
struct Scale {
    axis: Axis,
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Scale {
    fn new(axis: Axis, values: impl Iterator<Item = f64> + Clone, start: f64, end: f64) -> Self {
        let values = values.filter(|value| value.is_finite() && (!axis.logarithmic || *value > 0.0));
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        let (from, to) = if axis.logarithmic {
            (10_f64.powf(low.log10().floor()), 10_f64.powf(high.log10().ceil()))
        } else {
            (0.0, high)
        };
        Self { axis, from, to: if to > from { to } else { from + 1.0 }, start, end }
    }

    fn place(&self, value: f64) -> f64 {
        let share = if self.axis.logarithmic {
            (value.max(self.from) / self.from).log10() / (self.to / self.from).log10()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.start + share * (self.end - self.start)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.axis.logarithmic {
            let (mut tick, mut ticks) = (self.from, Vec::new());
            while tick <= self.to * 1.001 {
                ticks.push(tick);
                tick *= 10.0;
            }
            ticks
        } else {
            (0..=5).map(|step| self.from + (self.to - self.from) * f64::from(step) / 5.0).collect()
        }
    }
}

fn lines(x: Axis, y: Axis, lines: &[(String, Vec<(f64, f64)>)]) -> (String, f64) {
    let points = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    let legend = 18.0 * number(lines.len());
    let across = Scale::new(x, points().map(|(x, _)| x).collect::<Vec<_>>().into_iter(), MARGIN + 20.0, WIDTH - 30.0);
    let up = Scale::new(y, points().map(|(_, y)| y).collect::<Vec<_>>().into_iter(), HEIGHT - MARGIN, 40.0);
    let mut body = String::new();
    for tick in across.ticks() {
        let at = across.place(tick);
        writeln!(
            body,
            "<line x1=\"{at:.1}\" y1=\"40\" x2=\"{at:.1}\" y2=\"{:.0}\" stroke=\"#dddddd\"/><text x=\"{at:.1}\" \
             y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - MARGIN,
            HEIGHT - MARGIN + 16.0,
            short(tick)
        )
        .expect("a String takes every write");
    }
    for tick in up.ticks() {
        let at = up.place(tick);
        writeln!(
            body,
            "<line x1=\"{0:.0}\" y1=\"{at:.1}\" x2=\"{1:.0}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/><text x=\"{2:.0}\" \
             y=\"{3:.1}\" text-anchor=\"end\">{4}</text>",
            MARGIN + 20.0,
            WIDTH - 30.0,
            MARGIN + 14.0,
            at + 4.0,
            short(tick)
        )
        .expect("a String takes every write");
    }
    writeln!(
        body,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text><text transform=\"translate(14 {:.0}) rotate(-90)\" \
         text-anchor=\"middle\">{}</text>",
        WIDTH / 2.0,
        HEIGHT - MARGIN + 36.0,
        escaped(x.title),
        HEIGHT / 2.0,
        escaped(y.title)
    )
    .expect("a String takes every write");
    for (at, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let path: Vec<String> =
            points.iter().map(|&(x, y)| format!("{:.1},{:.1}", across.place(x), up.place(y))).collect();
        writeln!(
            body,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        )
        .expect("a String takes every write");
        if points.len() <= 12 {
            for &(x, y) in points {
                let (x, y) = (across.place(x), up.place(y));
                writeln!(body, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>")
                    .expect("a String takes every write");
            }
        }
        let below = HEIGHT + 8.0 + 18.0 * number(at);
        writeln!(
            body,
            "<rect x=\"{0:.0}\" y=\"{1:.0}\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{2:.0}\" \
             y=\"{3:.0}\">{4}</text>",
            MARGIN + 20.0,
            below - 10.0,
            MARGIN + 38.0,
            below,
            escaped(name)
        )
        .expect("a String takes every write");
    }
    (body, HEIGHT + legend + 8.0)
}

fn short(value: f64) -> String {
    if value == 0.0 {
        "0".to_owned()
    } else if value.abs() >= 1.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.3}").trim_end_matches('0').to_owned()
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logarithmic_axis_has_whole_decades() {
        let axis = Axis { title: "pods", logarithmic: true };
        let scale = Scale::new(axis, [3.0, 250.0].into_iter(), 0.0, 300.0);
        assert_eq!(scale.ticks(), [1.0, 10.0, 100.0, 1000.0]);
        assert!((scale.place(10.0) - 100.0).abs() < 1e-9);
    }

    #[test]
    fn names_cannot_break_the_file() {
        let kind = Kind::Bars { unit: "ns", bars: vec![("a<b&c".to_owned(), 1.0, true)] };
        let plot = Plot { name: "x".to_owned(), title: "t".to_owned(), kind };
        assert!(plot.svg().contains("a&lt;b&amp;c"));
    }
}
