//! How a measure that was taken several times is told: how often, its middle and its ends.

use serde::{Deserialize, Serialize};

/// Several takes of one measure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many there are.
    pub n: usize,
    /// The middle one; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// Sums up what was taken; `None` if that is nothing.
    pub fn of(takes: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut takes: Vec<f64> = takes.into_iter().collect();
        takes.sort_by(f64::total_cmp);
        let (min, max) = (*takes.first()?, *takes.last()?);
        let (lower, upper) = (takes[(takes.len() - 1) / 2], takes[takes.len() / 2]);
        Some(Self {
            n: takes.len(),
            median: (lower + upper) / 2.0,
            min,
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn the_median_is_the_middle() {
        for (takes, median) in [
            (&[3.0, 1.0, 2.0][..], 2.0),
            (&[4.0, 1.0, 2.0, 3.0], 2.5),
            (&[7.0], 7.0),
        ] {
            let summary = Summary::of(takes.iter().copied()).unwrap();
            assert_eq!((summary.n, summary.median), (takes.len(), median));
            assert!(summary.min <= median && median <= summary.max);
        }
        assert_eq!(Summary::of([]), None);
    }
}
