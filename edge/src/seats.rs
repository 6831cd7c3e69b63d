//! Places for connections. When all are taken, one that is silent gives its place to a new one: of the client that has most
//! places, the one that has been silent longest.
//!
//! Whether it waits for a head or for a body makes no difference: clients that announce bodies and send none would keep
//! their places, and those that have only just come would lose theirs before their first byte is read.

use crate::budget::of_one_client;
use crate::metrics::Metrics;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occupation {
    /// It has no complete head, is idle between requests, or its client takes nothing of the answer. Bytes of a head make no
    /// difference.
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
    clients: HashMap<IpAddr, Places>,
    /// Clients by their number of places.
    ranking: BTreeSet<(usize, IpAddr)>,
}

/// The places of one client.
#[derive(Default)]
struct Places {
    taken: usize,
    /// Connections that may be ended in favour of new ones, the one that has been silent longest first.
    silent: BTreeMap<u64, CancellationToken>,
}

/// One place, until it is dropped.
pub(crate) struct Seat {
    seats: Seats,
    client: IpAddr,
    /// When it was last heard of, as the table counts.
    heard: Mutex<u64>,
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

    /// A place, if need be another connection's. `None`: every connection works.
    pub(crate) fn take(&self, client: IpAddr) -> Option<Seat> {
        let client = of_one_client(client);
        let mut table = self.lock();
        if table.taken >= self.most && !table.evict() {
            return None;
        }
        let evicted = CancellationToken::new();
        let heard = table.count();
        table.change(client, |places| {
            places.taken += 1;
            places.silent.insert(heard, evicted.clone());
        });
        table.taken += 1;
        self.metrics.connections.inc();
        Some(Seat {
            seats: self.clone(),
            client,
            heard: Mutex::new(heard),
            evicted,
        })
    }

    /// Ends a connection that is silent. False: there is none.
    pub(crate) fn evict(&self) -> bool {
        self.lock().evict()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn count(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn change(&mut self, client: IpAddr, change: impl FnOnce(&mut Places)) {
        let places = self.clients.entry(client).or_default();
        let before = places.taken;
        change(places);
        let after = places.taken;
        if after == 0 {
            self.clients.remove(&client);
        }
        if after != before {
            self.ranking.remove(&(before, client));
            if after > 0 {
                self.ranking.insert((after, client));
            }
        }
    }

    fn evict(&mut self) -> bool {
        for (_, client) in self.ranking.iter().rev() {
            let places = self.clients.get_mut(client);
            if let Some((_, token)) = places.and_then(|places| places.silent.pop_first()) {
                token.cancel();
                return true;
            }
        }
        false
    }
}

impl Seat {
    /// The connection does something else now, or does it still.
    pub(crate) fn is_now(&self, occupation: Occupation) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = self.seats.lock();
        let now = table.count();
        table.change(self.client, |places| {
            places.silent.remove(&heard);
            if occupation != Occupation::Working && !self.evicted.is_cancelled() {
                places.silent.insert(now, self.evicted.clone());
            }
        });
        *heard = now;
    }

    /// Cancelled when the place goes to another connection.
    pub(crate) fn evicted(&self) -> &CancellationToken {
        &self.evicted
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let heard = *self.heard.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut table = self.seats.lock();
        table.change(self.client, |places| {
            places.silent.remove(&heard);
            places.taken -= 1;
        });
        table.taken -= 1;
        self.seats.metrics.connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    fn seats(most: usize) -> Seats {
        Seats::new(most, Metrics::default())
    }

    #[test]
    fn the_connection_that_has_waited_longest_gives_its_place() {
        let seats = seats(2);
        let (first, second) = (seats.take(ONE).unwrap(), seats.take(ONE).unwrap());
        first.is_now(Occupation::Waiting);
        let third = seats.take(ONE).unwrap();
        let evicted = [&first, &second, &third].map(|seat| seat.evicted().is_cancelled());
        assert_eq!(evicted, [false, true, false]);
    }

    #[test]
    fn a_body_that_does_not_come_gives_its_place_before_a_connection_that_has_just_come() {
        let seats = seats(2);
        let first = seats.take(ONE).unwrap();
        first.is_now(Occupation::Receiving);
        let second = seats.take(ONE).unwrap();
        let third = seats.take(ONE).unwrap();
        let evicted = [&first, &second, &third].map(|seat| seat.evicted().is_cancelled());
        assert_eq!(evicted, [true, false, false]);
    }

    #[test]
    fn a_body_that_comes_keeps_its_place() {
        let seats = seats(2);
        let (first, second) = (seats.take(ONE).unwrap(), seats.take(ONE).unwrap());
        first.is_now(Occupation::Receiving);
        second.is_now(Occupation::Receiving);
        first.is_now(Occupation::Receiving);
        let _third = seats.take(ONE).unwrap();
        assert!(second.evicted().is_cancelled() && !first.evicted().is_cancelled());
    }

    #[test]
    fn a_request_in_work_keeps_its_place() {
        let seats = seats(1);
        let only = seats.take(ONE).unwrap();
        only.is_now(Occupation::Working);
        assert!(seats.take(ONE).is_none());
        assert!(!only.evicted().is_cancelled());
        drop(only);
        assert!(seats.take(ONE).is_some());
    }

    #[test]
    fn a_client_with_many_places_loses_them_before_one_with_few() {
        let seats = seats(4);
        let honest = seats.take(OTHER).unwrap();
        let many: Vec<_> = (0..4).filter_map(|_| seats.take(ONE)).collect();
        assert!(!honest.evicted().is_cancelled());
        assert!(many[0].evicted().is_cancelled());
        // Where the client with most places only works, the other one has to give.
        let seats = self::seats(3);
        let honest = seats.take(OTHER).unwrap();
        let working = [seats.take(ONE).unwrap(), seats.take(ONE).unwrap()];
        for seat in &working {
            seat.is_now(Occupation::Working);
        }
        assert!(seats.take(ONE).is_some());
        assert!(honest.evicted().is_cancelled());
    }

    proptest! {
        #[test]
        fn the_books_are_balanced_whatever_happens(
            steps in proptest::collection::vec((0..4_u8, 0..6_usize), 0..80)
        ) {
            let seats = seats(4);
            let mut held: Vec<Seat> = Vec::new();
            for (step, which) in steps {
                match step {
                    0 => held.extend(seats.take([ONE, OTHER][which % 2])),
                    1 if !held.is_empty() => drop(held.swap_remove(which % held.len())),
                    2 => held.retain(|seat| !seat.evicted().is_cancelled()),
                    _ if !held.is_empty() => {
                        let occupations = [
                            Occupation::Waiting,
                            Occupation::Receiving,
                            Occupation::Working,
                        ];
                        held[which % held.len()].is_now(occupations[which % 3]);
                    }
                    _ => {}
                }
                let table = seats.lock();
                prop_assert_eq!(table.taken, held.len());
                prop_assert_eq!(table.ranking.iter().map(|(taken, _)| taken).sum::<usize>(), held.len());
                prop_assert_eq!(table.ranking.len(), table.clients.len());
            }
            drop(held);
            let table = seats.lock();
            prop_assert!(table.taken == 0 && table.clients.is_empty() && table.ranking.is_empty());
        }
    }
}
