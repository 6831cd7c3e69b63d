//! How many requests may be sent a second time. Pure.
//!
//! Retries turn a part's failure into load on the rest. So of the requests of the last ten seconds at most a fifth is sent
//! again after its body was sent once; a quiet gateway may always send some. A pod that leaves the rotation leaves its
//! requests behind, which may have come minutes ago: so many more may be sent again, for each pod once in ten seconds.

use std::time::{Duration, Instant};

/// The window, in slots of one second.
const SLOTS: usize = 10;
const SLOT: Duration = Duration::from_secs(1);
/// One request in this many may be sent again.
const ONE_IN: u32 = 5;
/// Requests in the window that may be sent again however few there were.
const ALWAYS: u32 = 20;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    requests: u32,
    retries: u32,
    /// Requests of pods that left the rotation.
    left_behind: u32,
}

/// The requests and retries of the last ten seconds.
#[derive(Clone, Debug)]
pub struct Budget {
    slots: [Slot; SLOTS],
    /// The slot of now, and when it began.
    current: usize,
    began: Instant,
}

impl Budget {
    /// An empty window.
    pub fn new(now: Instant) -> Self {
        Self {
            slots: [Slot::default(); SLOTS],
            current: 0,
            began: now,
        }
    }

    /// A request came.
    pub fn request(&mut self, now: Instant) {
        let slot = self.slot(now);
        slot.requests = slot.requests.saturating_add(1);
    }

    /// A pod left the rotation with so many requests in its hands.
    pub fn left_behind(&mut self, requests: usize, now: Instant) {
        let slot = self.slot(now);
        let requests = u32::try_from(requests).unwrap_or(u32::MAX);
        slot.left_behind = slot.left_behind.saturating_add(requests);
    }

    /// Takes a retry, if there is one left.
    pub fn retry(&mut self, now: Instant) -> bool {
        self.slot(now);
        let sum = |count: fn(&Slot) -> u32| {
            let counts = self.slots.iter().map(count);
            counts.fold(0, u32::saturating_add)
        };
        let usual = (sum(|slot| slot.requests) / ONE_IN).max(ALWAYS);
        let allowed = usual.saturating_add(sum(|slot| slot.left_behind));
        let is_left = sum(|slot| slot.retries) < allowed;
        if is_left {
            self.slots[self.current].retries += 1;
        }
        is_left
    }

    fn slot(&mut self, now: Instant) -> &mut Slot {
        let mut passed = 0;
        while now.saturating_duration_since(self.began) >= SLOT {
            self.began += SLOT;
            self.current = (self.current + 1) % SLOTS;
            self.slots[self.current] = Slot::default();
            passed += 1;
            if passed == SLOTS {
                self.began = now;
            }
        }
        &mut self.slots[self.current]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn retries(budget: &mut Budget, now: Instant, wanted: u32) -> u32 {
        (0..wanted).map(|_| u32::from(budget.retry(now))).sum()
    }

    #[test]
    fn a_quiet_gateway_may_always_retry_some() {
        let now = Instant::now();
        assert_eq!(retries(&mut Budget::new(now), now, 100), ALWAYS);
    }

    #[test]
    fn what_a_pod_leaves_behind_is_asked_elsewhere_once_whatever_was_spent_before() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        assert_eq!(retries(&mut budget, now, 100), ALWAYS);
        budget.left_behind(65, now);
        assert_eq!(retries(&mut budget, now, 100), 65);
        assert_eq!(retries(&mut budget, now + SLOT * 10, 100), ALWAYS);
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_sent_again() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        (0..1000).for_each(|_| budget.request(now));
        assert_eq!(retries(&mut budget, now, 1000), 200);
    }

    #[test]
    fn what_was_spent_comes_back_after_ten_seconds() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        assert_eq!(retries(&mut budget, now, 50), ALWAYS);
        assert_eq!(retries(&mut budget, now + SLOT * 9, 50), 0);
        assert_eq!(retries(&mut budget, now + SLOT * 10, 50), ALWAYS);
        assert_eq!(retries(&mut budget, now + SLOT * 3600, 50), ALWAYS);
    }

    proptest! {
        #[test]
        fn no_ten_seconds_have_more_than_their_share(
            seconds in prop::collection::vec((0..60_u32, 0..60_u32), 1..60),
        ) {
            let start = Instant::now();
            let mut budget = Budget::new(start);
            let mut history = Vec::new();
            for (second, (requests, wanted)) in (0_u32..).zip(seconds) {
                let now = start + SLOT * second;
                (0..requests).for_each(|_| budget.request(now));
                history.push((requests, retries(&mut budget, now, wanted)));
                let window = &history[history.len().saturating_sub(SLOTS)..];
                let requests: u32 = window.iter().map(|(requests, _)| requests).sum();
                let retries: u32 = window.iter().map(|(_, retries)| retries).sum();
                // What was allowed in an earlier, busier second counts on.
                let busiest: u32 = history.windows(SLOTS.min(history.len()))
                    .map(|window| window.iter().map(|(requests, _)| requests).sum()).max().unwrap_or(requests);
                prop_assert!(retries <= (busiest / ONE_IN).max(ALWAYS));
            }
        }
    }
}
