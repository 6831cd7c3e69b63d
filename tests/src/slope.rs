//! Whether a figure grows over time.

use std::time::Duration;

/// Means of this many spans of time are what the line goes through: samples that follow each other closely are not
/// independent, and their number would make any line look certain.
const SPANS: usize = 12;

/// A straight line through samples by least squares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slope {
    /// Units that the figure grows by in an hour.
    pub per_hour: f64,
    /// Standard error of that.
    pub error: f64,
    /// Mean of the last twelfth of the time less that of the first.
    pub growth: f64,
}

impl Slope {
    /// The line through `samples`, in the order of their times; None when they are fewer than two for each span.
    pub fn of(samples: &[(Duration, f64)]) -> Option<Self> {
        if samples.len() < 2 * SPANS {
            return None;
        }
        let spans: Vec<(f64, f64)> = (0..SPANS)
            .map(|span| {
                let from = span * samples.len() / SPANS;
                let to = (span + 1) * samples.len() / SPANS;
                let part = &samples[from..to];
                (
                    mean(part.iter().map(|(time, _)| time.as_secs_f64() / 3600.0)),
                    mean(part.iter().map(|(_, figure)| *figure)),
                )
            })
            .collect();
        let (x, y) = (
            mean(spans.iter().map(|span| span.0)),
            mean(spans.iter().map(|span| span.1)),
        );
        let xx: f64 = spans.iter().map(|span| (span.0 - x).powi(2)).sum();
        let xy: f64 = spans.iter().map(|span| (span.0 - x) * (span.1 - y)).sum();
        let per_hour = xy / xx;
        let rest: f64 = spans
            .iter()
            .map(|span| (span.1 - y - per_hour * (span.0 - x)).powi(2))
            .sum();
        let freedom = u32::try_from(SPANS - 2).map_or(1.0, f64::from);
        let growth = spans[SPANS - 1].1 - spans[0].1;
        Some(Self {
            per_hour,
            error: (rest / freedom / xx).sqrt(),
            growth,
        })
    }

    /// Whether the figure grows for certain, by three standard errors, faster than `per_hour`, and by more than `least` in
    /// all: less is what an allocator does.
    pub fn exceeds(&self, per_hour: f64, least: f64) -> bool {
        self.per_hour - 3.0 * self.error > per_hour && self.growth > least
    }
}

fn mean(figures: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = u32::try_from(figures.len()).map_or(f64::NAN, f64::from);
    figures.sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An hour of samples, one each ten seconds.
    fn hour(figure: impl Fn(f64) -> f64) -> Vec<(Duration, f64)> {
        (0..360)
            .map(|number| {
                let time = Duration::from_secs(number * 10);
                (time, figure(time.as_secs_f64() / 3600.0))
            })
            .collect()
    }

    #[test]
    fn a_figure_that_grows_steadily_is_found_with_its_slope() {
        let slope = Slope::of(&hour(|hours| 40.0 + 3.0 * hours)).unwrap();
        assert!((slope.per_hour - 3.0).abs() < 1e-9, "{slope:?}");
        assert!(slope.exceeds(1.0, 1.0), "{slope:?}");
    }

    #[test]
    fn a_figure_that_swings_does_not_grow() {
        let slope = Slope::of(&hour(|hours| 40.0 + 5.0 * (hours * 300.0).sin())).unwrap();
        assert!(!slope.exceeds(1.0, 1.0), "{slope:?}");
    }

    #[test]
    fn growth_that_hides_in_the_swing_is_found_when_it_is_large_enough() {
        let slope = Slope::of(&hour(|hours| 40.0 + 8.0 * hours + (hours * 300.0).sin())).unwrap();
        assert!(slope.exceeds(1.0, 1.0), "{slope:?}");
    }

    #[test]
    fn a_little_growth_in_a_short_time_is_what_an_allocator_does() {
        let minutes: Vec<_> = hour(|hours| 40.0 + 3.0 * hours).split_off(340);
        let shortened: Vec<_> = minutes.iter().flat_map(|sample| [*sample; 2]).collect();
        let slope = Slope::of(&shortened).unwrap();
        assert!(!slope.exceeds(1.0, 1.0), "{slope:?}");
    }

    #[test]
    fn a_few_samples_say_nothing() {
        assert_eq!(Slope::of(&hour(|_| 1.0)[..20]), None);
    }
}
