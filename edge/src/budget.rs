//! The memory for bodies. It is taken as bytes arrive, never for what is announced, and given back when it is dropped.
//!
//! A client has its share, and while others have some too it may hold only so many times what it leaves free (the dynamic
//! threshold of Choudhury and Hahne, 1998): the more addresses hold as much as they may, the less each may, and one more
//! always finds some. What N hostile addresses can still do: of a part of S bytes with P shares they leave S / (1 + PN),
//! P parts in P + 1 of it for the next address. Of a gateway's 8 MiB for small bodies (a pod of 256 MiB, four shares), 4
//! addresses leave 480 KiB, 25 a body of 64 KiB, and 400 the 4 KiB of a short prompt; more keep others out for as
//! long as a slow body may take. Of the large part, two leave less than a body of 32 MiB: uploads are refused meanwhile.

use crate::metrics::Metrics;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Bodies up to this size have memory of their own, which larger ones cannot take.
pub const SMALL: usize = 64 << 10;
/// Share of the memory that small bodies have.
const SMALL_SHARE: usize = 8;
/// How long bytes wait for room.
const PATIENCE: Duration = Duration::from_secs(1);

/// How the memory is shared.
#[derive(Clone, Copy, Debug)]
pub struct BudgetOptions {
    /// Bytes in all.
    pub total: usize,
    /// One client's share is one part in so many, or `largest` where that is more, and at most so many times what is left
    /// free; a client that is alone leaves a quarter for the next one. 1: no share.
    pub client_parts: usize,
    /// The largest body: one of them fits into a client's share while few others have any.
    pub largest: usize,
    /// Bytes of `total` that answers have. One that is larger fits when there is no other.
    pub answers: usize,
}

/// The memory for bodies. Clones share it.
#[derive(Clone)]
pub struct Budget {
    state: Arc<State>,
    options: BudgetOptions,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    pools: Mutex<[Pool; 3]>,
    given_back: Notify,
}

#[derive(Default)]
struct Pool {
    used: usize,
    clients: HashMap<IpAddr, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Small = 0,
    Large = 1,
    Answer = 2,
}

/// Memory that is held, until it is dropped.
pub struct Charge {
    budget: Budget,
    client: IpAddr,
    part: Part,
    bytes: usize,
}

impl Budget {
    /// All of it is free.
    pub fn new(options: BudgetOptions, metrics: Metrics) -> Self {
        Self {
            state: Arc::default(),
            options,
            metrics,
        }
    }

    /// Where refusals of bodies are counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// No memory yet, for a client.
    pub fn charge(&self, client: IpAddr) -> Charge {
        Charge {
            budget: self.clone(),
            client: of_one_client(client),
            part: Part::Small,
            bytes: 0,
        }
    }

    /// The same, none of it of the part that small bodies have.
    pub(crate) fn large_charge(&self, client: IpAddr) -> Charge {
        let mut charge = self.charge(client);
        charge.part = Part::Large;
        charge
    }

    /// Room for an answer of so many bytes, if there is any.
    pub fn answer(&self, client: IpAddr, bytes: usize) -> Option<Charge> {
        let mut charge = self.charge(client);
        charge.part = Part::Answer;
        self.try_take(Part::Answer, charge.client, bytes).then(|| {
            charge.bytes = bytes;
            charge
        })
    }

    /// The largest body that there may be room for.
    pub(crate) fn largest_body(&self) -> usize {
        self.size(Part::Large)
    }

    /// Bytes of one part of the memory.
    fn size(&self, part: Part) -> usize {
        let small = self.options.total / SMALL_SHARE;
        match part {
            Part::Small => small,
            Part::Large => self.options.total - small - self.options.answers,
            Part::Answer => self.options.answers,
        }
    }

    /// Whether a client that holds `own` of the `used` bytes of a part may have more.
    fn has_room(&self, part: Part, (own, used): (usize, usize), more: usize) -> bool {
        let size = self.size(part);
        let largest = match part {
            Part::Small => SMALL,
            Part::Large => self.options.largest,
            Part::Answer => return used == 0 || used + more <= size,
        };
        let Some(left) = size.checked_sub(used + more) else {
            return false;
        };
        let share = match self.options.client_parts {
            0 | 1 => size,
            _ if own == used => (size - size / 4).max(largest),
            parts => (size / parts).max(largest).min(left.saturating_mul(parts)),
        };
        own + more <= share
    }

    fn try_take(&self, part: Part, client: IpAddr, bytes: usize) -> bool {
        let mut pools = self.lock();
        let pool = &mut pools[part as usize];
        let own = pool.clients.get(&client).copied().unwrap_or(0);
        if !self.has_room(part, (own, pool.used), bytes) {
            return false;
        }
        pool.used += bytes;
        *pool.clients.entry(client).or_default() += bytes;
        self.metrics.buffered.inc_by(count(bytes));
        true
    }

    fn give_back(&self, part: Part, client: IpAddr, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut pools = self.lock();
        let pool = &mut pools[part as usize];
        pool.used = pool.used.saturating_sub(bytes);
        if let Some(own) = pool.clients.get_mut(&client) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                pool.clients.remove(&client);
            }
        }
        drop(pools);
        self.metrics.buffered.dec_by(count(bytes));
        self.state.given_back.notify_waiters();
    }

    #[cfg(test)]
    pub(crate) fn is_unused_by_small_bodies(&self) -> bool {
        self.lock()[Part::Small as usize].used == 0
    }

    fn lock(&self) -> MutexGuard<'_, [Pool; 3]> {
        let pools = self.state.pools.lock();
        pools.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Charge {
    /// Bytes that are held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds `bytes` in all from now on, if there is room for what that is more.
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        let fits = bytes <= SMALL && self.part == Part::Small;
        if fits && self.budget.try_take(Part::Small, self.client, more) {
            self.bytes = bytes;
            return true;
        }
        // What has left the small part, or never fitted into it, is held in the large one.
        let (part, moved) = match self.part {
            Part::Small => (Part::Large, bytes),
            part => (part, more),
        };
        if !self.budget.try_take(part, self.client, moved) {
            return false;
        }
        if self.part == Part::Small {
            self.budget.give_back(Part::Small, self.client, self.bytes);
            self.part = Part::Large;
        }
        self.bytes = bytes;
        true
    }

    /// The same, after up to a second of waiting for room. False: there was none.
    pub async fn grow(&mut self, bytes: usize) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let state = Arc::clone(&self.budget.state);
        loop {
            // Before the try: room that comes between the two is not missed.
            let mut given_back = std::pin::pin!(state.given_back.notified());
            given_back.as_mut().enable();
            if self.try_grow(bytes) {
                return true;
            }
            if timeout_at(deadline, given_back).await.is_err() {
                return false;
            }
        }
    }

    /// Gives back what is above `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.budget.give_back(self.part, self.client, less);
        self.bytes -= less;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.part, self.client, self.bytes);
    }
}

/// One client has 2^64 addresses of version 6.
pub(crate) fn of_one_client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

fn count(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const MIB: usize = 1 << 20;

    fn budget(total: usize) -> Budget {
        let options = BudgetOptions {
            total,
            client_parts: 4,
            largest: MIB,
            answers: 0,
        };
        Budget::new(options, Metrics::default())
    }

    #[test]
    fn answers_have_memory_of_their_own_and_the_largest_fits_alone() {
        let options = BudgetOptions {
            total: 16 * MIB,
            client_parts: 2,
            largest: MIB,
            answers: 6 * MIB,
        };
        let budget = Budget::new(options, Metrics::default());
        let uploads: Vec<_> = std::iter::from_fn(|| held(&budget, A, MIB)).collect();
        assert_eq!(uploads.len(), 6);
        let mut answers: Vec<_> = (0..6).filter_map(|_| budget.answer(A, MIB)).collect();
        assert_eq!(answers.len(), 6);
        assert!(budget.answer(B, 1).is_none());
        answers[0].shrink(MIB - 1);
        assert!(budget.answer(B, 1).is_some());
        drop(answers);
        let oversized = budget.answer(A, 20 * MIB);
        assert!(oversized.is_some() && budget.answer(B, 1).is_none());
    }

    fn held(budget: &Budget, client: IpAddr, bytes: usize) -> Option<Charge> {
        let mut charge = budget.charge(client);
        charge.try_grow(bytes).then_some(charge)
    }

    #[test]
    fn uploads_cannot_take_what_small_bodies_have() {
        let budget = budget(16 * MIB);
        let uploads: Vec<_> = std::iter::from_fn(|| held(&budget, A, MIB)).collect();
        assert_eq!(uploads.len(), 10);
        let small: Vec<_> = std::iter::from_fn(|| held(&budget, B, SMALL)).collect();
        assert!(small.len() >= 2 * MIB / SMALL / 4 * 3, "{}", small.len());
        drop(uploads);
        assert!(held(&budget, A, MIB).is_some());
    }

    #[test]
    fn a_client_among_others_has_a_quarter_and_alone_leaves_one() {
        let budget = budget(16 * MIB);
        let other = held(&budget, B, MIB);
        let own: Vec<_> = std::iter::from_fn(|| held(&budget, A, MIB)).collect();
        assert_eq!(own.len(), 3);
        drop(other);
        let more: Vec<_> = std::iter::from_fn(|| held(&budget, A, MIB)).collect();
        assert_eq!(own.len() + more.len(), 10);
        assert!(held(&budget, B, 3 * MIB).is_some());
    }

    /// Addresses that hold as much as they may, by turns.
    fn hostile(budget: &Budget, addresses: u8, bytes: usize) -> Vec<Charge> {
        let mut charges = Vec::new();
        loop {
            let before = charges.len();
            for number in 0..addresses {
                let address = IpAddr::from([10, 1, 0, number]);
                charges.extend(held(budget, address, bytes));
            }
            if charges.len() == before {
                return charges;
            }
        }
    }

    #[test]
    fn one_more_client_finds_room_whatever_others_hold() {
        for (addresses, least) in [
            (1, 24 * SMALL),
            (4, 5 * SMALL),
            (30, 32 << 10),
            (250, 4 << 10),
        ] {
            let budget = budget(64 * MIB);
            let kept = hostile(&budget, addresses, 4 << 10);
            assert!(kept.iter().map(Charge::bytes).sum::<usize>() > 4 * MIB);
            let own: Vec<_> = std::iter::from_fn(|| held(&budget, A, 4 << 10)).collect();
            let room: usize = own.iter().map(Charge::bytes).sum();
            assert!(room >= least, "{room} beside {addresses}");
        }
    }

    #[test]
    fn uploads_from_several_addresses_leave_room_for_one_more() {
        let budget = budget(64 * MIB);
        let _kept = hostile(&budget, 4, MIB);
        assert!(held(&budget, A, MIB).is_some());
    }

    #[test]
    fn a_clients_share_has_room_for_the_largest_body() {
        let budget = budget(4 * MIB);
        let _other = held(&budget, B, SMALL + 1).unwrap();
        assert!(held(&budget, A, MIB).is_some());
    }

    #[test]
    fn a_client_cannot_be_many_by_the_addresses_of_its_network() {
        let one: IpAddr = "2001:db8:1:2::1".parse().unwrap();
        let other: IpAddr = "2001:db8:1:2:ffff::9".parse().unwrap();
        assert_eq!(of_one_client(one), of_one_client(other));
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(of_one_client(mapped), A);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_wait_a_second_for_room() {
        let budget = budget(16 * MIB);
        let uploads: Vec<_> = std::iter::from_fn(|| held(&budget, A, MIB)).collect();
        let mut charge = budget.charge(A);
        let began = Instant::now();
        assert!(!charge.grow(MIB).await);
        assert_eq!(began.elapsed(), PATIENCE);
        let freed = async {
            tokio::time::sleep(PATIENCE / 2).await;
            drop(uploads);
        };
        assert!(tokio::join!(charge.grow(MIB), freed).0);
    }

    proptest! {
        #[test]
        fn all_is_given_back(sizes in proptest::collection::vec((0_usize..2 * MIB, any::<bool>()), 1..40)) {
            let budget = budget(8 * MIB);
            let mut charges = Vec::new();
            for (bytes, client) in sizes {
                let mut charge = budget.charge(if client { A } else { B });
                charge.try_grow(bytes / 3);
                charge.try_grow(bytes);
                charge.shrink(bytes / 2);
                charges.push(charge);
                let held: usize = charges.iter().map(Charge::bytes).sum();
                let used: usize = budget.lock().iter().map(|pool| pool.used).sum();
                prop_assert_eq!(held, used);
                prop_assert!(used <= 8 * MIB);
            }
            charges.clear();
            let pools = budget.lock();
            prop_assert!(pools.iter().all(|pool| pool.used == 0 && pool.clients.is_empty()));
        }
    }
}
