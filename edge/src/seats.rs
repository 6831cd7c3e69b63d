//! Places for connections. When all are taken, the one that has been silent longest gives its place to a new one.
//!
//! Whether it waits for a head or for a body makes no difference: clients that announce bodies and send none would keep
//! their places, and those that have only just come would lose theirs before their first byte is read.

use crate::metrics::Metrics;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occupation {
    /// It has no complete head, or is idle between requests. Bytes of a head make no difference.
    Waiting,
    /// Its request's body is still to come. Told again whenever some of it came.
    Receiving,
    /// It has a whole request.
    Working,
}

/// The places. Clones share them.
#[derive(Clone)]
pub(crate) struct Seats {
    table: Arc<Mutex<Table>>,
    most: usize,
    metrics: Metrics,
}

#[derive(Default)]
struct Table {
    taken: usize,
    next: u64,
    /// Connections that may be ended in favour of new ones, the one that has been silent longest first.
    idle: BTreeMap<u64, CancellationToken>,
}

/// One place, until it is dropped.
pub(crate) struct Seat {
    seats: Seats,
    key: Mutex<u64>,
    evicted: CancellationToken,
}

impl Seats {
    pub(crate) fn new(most: usize, metrics: Metrics) -> Self {
        Self {
            table: Arc::default(),
            most,
            metrics,
        }
    }

    /// A place, if need be that of the connection that has been silent longest. `None`: every connection works.
    pub(crate) fn take(&self) -> Option<Seat> {
        if self.lock().taken >= self.most && !self.evict() {
            return None;
        }
        let evicted = CancellationToken::new();
        let mut table = self.lock();
        table.taken += 1;
        table.next += 1;
        let key = table.next;
        table.idle.insert(key, evicted.clone());
        self.metrics.connections.inc();
        Some(Seat {
            seats: self.clone(),
            key: Mutex::new(key),
            evicted,
        })
    }

    /// Ends the connection that has been silent longest. False: there is none.
    pub(crate) fn evict(&self) -> bool {
        let Some((_, token)) = self.lock().idle.pop_first() else {
            return false;
        };
        token.cancel();
        true
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The connection does something else now.
    pub(crate) fn is_now(&self, occupation: Occupation) {
        let mut key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = self.seats.lock();
        table.idle.remove(&key);
        table.next += 1;
        *key = table.next;
        if occupation != Occupation::Working && !self.evicted.is_cancelled() {
            table.idle.insert(*key, self.evicted.clone());
        }
    }

    /// Cancelled when the place goes to another connection.
    pub(crate) fn evicted(&self) -> &CancellationToken {
        &self.evicted
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let key = *self.key.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut table = self.seats.lock();
        table.idle.remove(&key);
        table.taken -= 1;
        self.seats.metrics.connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(most: usize) -> Seats {
        Seats::new(most, Metrics::default())
    }

    #[test]
    fn the_connection_that_has_waited_longest_gives_its_place() {
        let seats = seats(2);
        let (first, second) = (seats.take().unwrap(), seats.take().unwrap());
        first.is_now(Occupation::Waiting);
        let third = seats.take().unwrap();
        let evicted = [&first, &second, &third].map(|seat| seat.evicted().is_cancelled());
        assert_eq!(evicted, [false, true, false]);
    }

    #[test]
    fn a_body_that_does_not_come_gives_its_place_before_a_connection_that_has_just_come() {
        let seats = seats(2);
        let first = seats.take().unwrap();
        first.is_now(Occupation::Receiving);
        let second = seats.take().unwrap();
        let third = seats.take().unwrap();
        let evicted = [&first, &second, &third].map(|seat| seat.evicted().is_cancelled());
        assert_eq!(evicted, [true, false, false]);
    }

    #[test]
    fn a_body_that_comes_keeps_its_place() {
        let seats = seats(2);
        let (first, second) = (seats.take().unwrap(), seats.take().unwrap());
        first.is_now(Occupation::Receiving);
        second.is_now(Occupation::Receiving);
        first.is_now(Occupation::Receiving);
        let _third = seats.take().unwrap();
        assert!(second.evicted().is_cancelled() && !first.evicted().is_cancelled());
    }

    #[test]
    fn a_request_in_work_keeps_its_place() {
        let seats = seats(1);
        let only = seats.take().unwrap();
        only.is_now(Occupation::Working);
        assert!(seats.take().is_none());
        assert!(!only.evicted().is_cancelled());
        drop(only);
        assert!(seats.take().is_some());
    }
}
