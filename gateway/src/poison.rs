//! Requests that cost pods. Pure.
//!
//! A request that ends the process which works on it must not work its way through the pods, and neither must the client's
//! own retries of it. A body that cost two pods is refused for a time; then one such request is let through as a trial,
//! and to one pod only. Its answer clears the body, another loss quadruples the time. So a body that was innocent (two
//! pods died for another reason while they had it) is refused for some seconds, and one that is not costs a few pods an
//! hour, however often it comes. A body that was answered before is never refused: clients that send the same request
//! again and again while a whole tier dies are not to blame. What one request costs is bounded in any case.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Pods that a body may cost.
pub const LOSSES: u32 = 2;
/// Bodies that are remembered; the oldest is forgotten for a new one.
const BODIES: usize = 1024;
/// Time for which a body is refused at first.
const REFUSED_FIRST: Duration = Duration::from_secs(10);
/// The longest such time.
const REFUSED_AT_MOST: Duration = Duration::from_secs(640);
/// A body that cost a pod is forgotten after this time.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(1800);
/// Several requests with one body that a pod had when it died are one loss: those of this time.
const ONE_DEATH: Duration = Duration::from_secs(2);
/// Answered bodies that are remembered at the least; at the most it is twice as many.
const ANSWERED: usize = 4096;

/// What tells bodies apart.
pub type Digest = u64;

#[derive(Clone, Copy, Debug)]
struct Entry {
    losses: u32,
    pod: SocketAddr,
    last: Instant,
    refused_until: Instant,
}

/// How often a request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// As often as any.
    Usual,
    /// Once.
    Trial,
    /// Not at all.
    Refused,
}

/// The bodies that cost pods lately.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: HashMap<Digest, Entry>,
    /// Bodies that were answered: the latest ones, and those before.
    answered: [HashSet<Digest>; 2],
}

impl Ledger {
    /// What may be done with a body.
    pub fn admit(&mut self, body: Digest, now: Instant) -> Admission {
        let Some(entry) = self.entries.get_mut(&body) else {
            return Admission::Usual;
        };
        if now.saturating_duration_since(entry.last) >= FORGOTTEN_AFTER {
            self.entries.remove(&body);
            return Admission::Usual;
        }
        if entry.losses < LOSSES {
            return Admission::Usual;
        }
        if now < entry.refused_until {
            return Admission::Refused;
        }
        // One trial at a time.
        entry.refused_until = now + refused_for(entry.losses);
        Admission::Trial
    }

    /// A pod was lost while it had this body.
    pub fn lost(&mut self, body: Digest, pod: SocketAddr, now: Instant) {
        if self.answered.iter().any(|bodies| bodies.contains(&body)) {
            return;
        }
        if let Some(entry) = self.entries.get_mut(&body) {
            let is_known = entry.pod == pod && now < entry.last + ONE_DEATH;
            if !is_known {
                entry.losses = entry.losses.saturating_add(1);
                (entry.pod, entry.last) = (pod, now);
                entry.refused_until = now + refused_for(entry.losses);
            }
            return;
        }
        if self.entries.len() >= BODIES {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last);
            if let Some(oldest) = oldest.map(|(body, _)| *body) {
                self.entries.remove(&oldest);
            }
        }
        let entry = Entry {
            losses: 1,
            pod,
            last: now,
            refused_until: now,
        };
        self.entries.insert(body, entry);
    }

    /// A pod answered a request with this body: it is no poison.
    pub fn answered(&mut self, body: Digest) {
        self.entries.remove(&body);
        let [latest, before] = &mut self.answered;
        if latest.len() >= ANSWERED {
            *before = std::mem::take(latest);
        }
        latest.insert(body);
    }
}

fn refused_for(losses: u32) -> Duration {
    REFUSED_FIRST
        .saturating_mul(4_u32.saturating_pow(losses.saturating_sub(LOSSES)))
        .min(REFUSED_AT_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn twice_lost(now: Instant) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.lost(7, pod(1), now);
        ledger.lost(7, pod(2), now);
        ledger
    }

    #[test]
    fn a_body_that_cost_two_pods_is_refused_then_tried_once() {
        let now = Instant::now();
        let mut ledger = twice_lost(now);
        assert_eq!(ledger.admit(7, now), Admission::Refused);
        assert_eq!(ledger.admit(8, now), Admission::Usual);
        let later = now + REFUSED_FIRST;
        assert_eq!(ledger.admit(7, later), Admission::Trial);
        assert_eq!(ledger.admit(7, later), Admission::Refused);
    }

    #[test]
    fn one_pods_death_is_one_loss_however_many_requests_it_had() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        (0..17).for_each(|_| ledger.lost(7, pod(1), now));
        assert_eq!(ledger.admit(7, now), Admission::Usual);
        ledger.lost(7, pod(1), now + ONE_DEATH);
        assert_eq!(ledger.admit(7, now + ONE_DEATH), Admission::Refused);
    }

    #[test]
    fn a_trial_that_is_answered_clears_the_body() {
        let now = Instant::now();
        let mut ledger = twice_lost(now);
        ledger.admit(7, now + REFUSED_FIRST);
        ledger.answered(7);
        assert_eq!(ledger.admit(7, now), Admission::Usual);
    }

    #[test]
    fn a_body_that_was_answered_before_is_not_to_blame_for_a_tier_that_dies() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        ledger.answered(7);
        (1..50).for_each(|port| ledger.lost(7, pod(port), now));
        assert_eq!(ledger.admit(7, now), Admission::Usual);
    }

    #[test]
    fn poison_costs_a_few_pods_an_hour_however_often_it_comes() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        let mut pods = 0;
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            let sent = match ledger.admit(7, now) {
                Admission::Usual => 2,
                Admission::Trial => 1,
                Admission::Refused => 0,
            };
            for _ in 0..sent {
                pods += 1;
                ledger.lost(7, pod(pods), now);
            }
        }
        assert!(pods <= 10, "{pods}");
    }

    #[test]
    fn a_single_loss_is_forgotten() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        ledger.lost(7, pod(1), now);
        assert_eq!(ledger.admit(7, now + FORGOTTEN_AFTER), Admission::Usual);
        assert!(ledger.entries.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        for body in 0..20_000 {
            ledger.lost(body, pod(1), now + Duration::from_millis(body));
            ledger.answered(body + 100_000);
        }
        assert_eq!(ledger.entries.len(), BODIES);
        assert!(ledger.entries.contains_key(&19_999));
        assert!(
            ledger
                .answered
                .iter()
                .all(|bodies| bodies.len() <= ANSWERED)
        );
    }
}
