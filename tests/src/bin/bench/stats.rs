//! Samples of interleaved rounds: medians, spread, and ratios within a round.

use serde::Serialize;

/// What one thing measured, a sample a round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(Vec<f64>);

/// A series in figures.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Summary {
    /// How many samples.
    pub(crate) samples: usize,
    /// The smallest.
    pub(crate) min: f64,
    /// The lower quartile.
    pub(crate) p25: f64,
    /// The median.
    pub(crate) median: f64,
    /// The upper quartile.
    pub(crate) p75: f64,
    /// The 99th percentile.
    pub(crate) p99: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Series {
    /// Adds a sample.
    pub(crate) fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// The samples in the order in which they were taken.
    pub(crate) fn samples(&self) -> &[f64] {
        &self.0
    }

    /// Of each round this series' sample over the other's: what both suffer alike falls out.
    pub(crate) fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(own, other)| own / other).collect())
    }

    /// The same for differences.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(own, other)| own - other).collect())
    }

    /// The figures. Panics without a sample.
    pub(crate) fn summary(&self) -> Summary {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share| percentile(&sorted, share);
        Summary {
            samples: sorted.len(),
            min: at(0.0),
            p25: at(0.25),
            median: at(0.5),
            p75: at(0.75),
            p99: at(0.99),
            max: at(1.0),
        }
    }

    /// The median.
    pub(crate) fn median(&self) -> f64 {
        self.summary().median
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

/// Of sorted samples, the one at this share of them, between two where it falls between them.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (number(sorted.len()) - 1.0);
    let (below, part) = (place.floor(), place.fract());
    let at = |place: f64| sorted[index(place)];
    if part == 0.0 { at(below) } else { at(below) + (at(below + 1.0) - at(below)) * part }
}

/// A count for calculations.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(crate) const fn number(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number that was an index before")]
const fn index(place: f64) -> usize {
    place as usize
}

/// The exponent b of y = a·x^b that fits best (least squares of the logarithms).
pub(crate) fn order(points: &[(f64, f64)]) -> f64 {
    let logs: Vec<(f64, f64)> =
        points.iter().filter(|(x, y)| *x > 0.0 && *y > 0.0).map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = number(logs.len());
    let mean = |value: fn(&(f64, f64)) -> f64| logs.iter().map(value).sum::<f64>() / count;
    let (x_mean, y_mean) = (mean(|point| point.0), mean(|point| point.1));
    let covariance: f64 = logs.iter().map(|(x, y)| (x - x_mean) * (y - y_mean)).sum();
    let variance: f64 = logs.iter().map(|(x, _)| (x - x_mean).powi(2)).sum();
    if variance == 0.0 { 0.0 } else { covariance / variance }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    #[test]
    fn percentiles_lie_between_the_samples() {
        let series: Series = [4.0, 1.0, 3.0, 2.0].into_iter().collect();
        let summary = series.summary();
        assert!(close(summary.median, 2.5) && close(summary.min, 1.0) && close(summary.max, 4.0));
        assert!(close(summary.p25, 1.75) && summary.samples == 4);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let (ours, theirs): (Series, Series) = ([1.0, 20.0].into_iter().collect(), [2.0, 40.0].into_iter().collect());
        assert!(close(ours.over(&theirs).median(), 0.5));
    }

    #[test]
    fn the_order_is_that_of_what_the_points_were_made_with() {
        let points: Vec<(f64, f64)> = [1.0, 10.0, 250.0].into_iter().map(|x: f64| (x, 3.0 * x.powf(1.5))).collect();
        assert!(close(order(&points), 1.5));
    }
}
