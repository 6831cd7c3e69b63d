//! When a refused client comes again. Pure but for the dice.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// No client is sent away for longer.
pub(crate) const AT_MOST: Duration = Duration::from_secs(60);

/// Whole seconds, 1 to 60: `time` and up to a quarter more, at least up to a second more, so that clients that were
/// refused together do not come back together.
pub(crate) fn jittered(time: Duration) -> Duration {
    spread(time, RandomState::new().hash_one(()))
}

fn spread(time: Duration, dice: u64) -> Duration {
    let least = time.min(AT_MOST).as_millis().div_ceil(1000).max(1);
    let least = u64::try_from(least).unwrap_or(1);
    let more = dice % (least / 4 + 2).max(2);
    Duration::from_secs(least + more).min(AT_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_client_waits_as_long_as_it_must_and_a_quarter_more_at_the_most(millis in any::<u32>(), dice in any::<u64>()) {
            let time = Duration::from_millis(millis.into());
            let told = spread(time, dice);
            prop_assert!(told >= time.min(AT_MOST) && told <= AT_MOST && told.subsec_nanos() == 0);
            prop_assert!(told <= time.mul_f64(1.25) + Duration::from_secs(2));
        }
    }

    #[test]
    fn clients_that_are_refused_together_do_not_come_back_together() {
        let told: std::collections::BTreeSet<_> = (0..100)
            .map(|dice| spread(Duration::from_secs(20), dice))
            .collect();
        assert_eq!(told.len(), 7);
    }
}
