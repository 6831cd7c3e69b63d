//! Which tier is asked first: smooth weighted round robin.
//!
//! The algorithm of nginx (commit 52327e0627f4, "Upstream: smooth weighted round-robin balancing"): each turn every tier
//! gains its weight, the richest is chosen and pays the sum. Every run of `sum` turns has each tier exactly as often as
//! its weight says, spread evenly.

use zimage_crds::{PerTier, Tier, Weights};

/// The state between two requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balancer {
    credit: PerTier<i64>,
    weights: PerTier<i64>,
}

impl Balancer {
    /// The tier of the next request. Weights that are both 0 give the primary.
    pub fn next(&mut self, weights: Weights) -> Tier {
        let weights = PerTier::from(weights).map(|_, weight| i64::from(weight).max(0));
        if weights != self.weights {
            // Credit that was earned under other weights would distort the first turns of the new ones.
            *self = Self {
                credit: PerTier::default(),
                weights,
            };
        }
        for (tier, weight) in weights.iter() {
            self.credit[tier] += weight;
        }
        let chosen = match self.credit.fallback > self.credit.primary {
            true => Tier::Fallback,
            false => Tier::Primary,
        };
        self.credit[chosen] -= weights.primary + weights.fallback;
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn weights(primary: i32, fallback: i32) -> Weights {
        Weights { primary, fallback }
    }

    fn picks(balancer: &mut Balancer, weights: Weights, count: usize) -> usize {
        (0..count)
            .filter(|_| balancer.next(weights) == Tier::Primary)
            .count()
    }

    #[test]
    fn nine_to_one_is_spread_evenly() {
        let mut balancer = Balancer::default();
        let turns: Vec<_> = (0..10).map(|_| balancer.next(weights(90, 10))).collect();
        assert_eq!(
            turns.iter().filter(|tier| **tier == Tier::Fallback).count(),
            1
        );
        assert_eq!(turns[5], Tier::Fallback, "{turns:?}");
    }

    #[test]
    fn a_weight_of_zero_is_never_chosen() {
        assert_eq!(picks(&mut Balancer::default(), weights(0, 100), 1000), 0);
        assert_eq!(picks(&mut Balancer::default(), weights(100, 0), 1000), 1000);
    }

    #[test]
    fn new_weights_count_from_the_next_request_on() {
        let mut balancer = Balancer::default();
        picks(&mut balancer, weights(90, 10), 7);
        assert_eq!(picks(&mut balancer, weights(0, 100), 10), 0);
        assert_eq!(picks(&mut balancer, weights(50, 50), 10), 5);
    }

    proptest! {
        #[test]
        fn any_window_is_off_by_one_at_most(primary in 0..=100_i32, fallback in 0..=100_i32, skip in 0..500_usize, count in 1..500_usize) {
            prop_assume!(primary + fallback > 0);
            let mut balancer = Balancer::default();
            picks(&mut balancer, weights(primary, fallback), skip);
            let exact = count as f64 * f64::from(primary) / f64::from(primary + fallback);
            let chosen = picks(&mut balancer, weights(primary, fallback), count) as f64;
            prop_assert!((chosen - exact).abs() <= 1.0, "{chosen} of {count}, {exact} expected");
        }
    }
}
