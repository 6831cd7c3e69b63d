//! What a device does next, decided anew at each step.
//!
//! Requests share a device step by step, in turn. They do not form a tensor batch: one image of 256x256 or more already
//! fills the card, and joining requests would only make other sizes wait and let one failure spoil its neighbours.

use crate::executor::Slot;
use std::collections::VecDeque;

/// What a device does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Begin the request that has waited longest.
    Begin,
    /// Take the next denoising step of a request.
    Step(Slot),
    /// Decode a request that has no step left.
    Decode(Slot),
    /// Wait for a request.
    Idle,
}

/// The requests on one device, round robin. The first of the queue is the next in turn.
#[derive(Clone, Debug)]
pub struct Scheduler {
    max_running: usize,
    /// Slots and the steps that they have left.
    running: VecDeque<(Slot, u32)>,
}

impl Scheduler {
    /// A device without requests that takes up to `max_running` at a time, at least one.
    pub fn new(max_running: usize) -> Self {
        Self {
            max_running: max_running.max(1),
            running: VecDeque::new(),
        }
    }

    /// What to do, when a request waits for a device or none does.
    pub fn next(&self, one_waits: bool) -> Turn {
        let done = self.running.iter().find(|(_, left)| *left == 0);
        match (done, self.running.front()) {
            (Some(&(slot, _)), _) => Turn::Decode(slot),
            (None, _) if one_waits && self.running.len() < self.max_running => Turn::Begin,
            (None, Some(&(slot, _))) => Turn::Step(slot),
            (None, None) => Turn::Idle,
        }
    }

    /// Requests on the device.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// A request has begun and needs `steps` steps. It is the last in turn.
    pub fn began(&mut self, slot: Slot, steps: u32) {
        self.running.push_back((slot, steps));
    }

    /// A request has taken a step: it becomes the last in turn.
    pub fn stepped(&mut self, slot: Slot) {
        let position = self.running.iter().position(|(other, _)| *other == slot);
        if let Some((slot, left)) = position.and_then(|position| self.running.remove(position)) {
            self.running.push_back((slot, left.saturating_sub(1)));
        }
    }

    /// A request has left the device.
    pub fn left(&mut self, slot: Slot) {
        self.running.retain(|(other, _)| *other != slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(requests: &[u32]) -> Scheduler {
        let mut scheduler = Scheduler::new(8);
        for (slot, &steps) in requests.iter().enumerate() {
            scheduler.began(Slot(slot as u32), steps);
        }
        scheduler
    }

    #[test]
    fn requests_take_their_steps_in_turn() {
        let mut scheduler = with(&[2, 3]);
        let mut order = Vec::new();
        while let Turn::Step(slot) = scheduler.next(false) {
            order.push(slot.0);
            scheduler.stepped(slot);
        }
        assert_eq!(order, [0, 1, 0]);
        assert_eq!(scheduler.next(true), Turn::Decode(Slot(0)));
    }

    #[test]
    fn a_request_without_steps_left_is_decoded_before_anything_else() {
        assert_eq!(with(&[3, 0]).next(true), Turn::Decode(Slot(1)));
    }

    #[test]
    fn a_request_that_waits_begins_as_soon_as_there_is_room() {
        let mut scheduler = Scheduler::new(1);
        assert_eq!(scheduler.next(false), Turn::Idle);
        assert_eq!(scheduler.next(true), Turn::Begin);
        scheduler.began(Slot(7), 2);
        assert_eq!(scheduler.next(true), Turn::Step(Slot(7)));
        scheduler.left(Slot(7));
        assert_eq!(scheduler.next(true), Turn::Begin);
    }

    proptest! {
        #[test]
        fn nobody_waits_for_more_than_one_step_of_each_other_request(
            steps in proptest::collection::vec(1..20_u32, 1..9),
            leaves in proptest::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut scheduler = with(&steps);
            let mut left: Vec<u32> = steps.clone();
            let mut since = vec![0; steps.len()];
            let mut leaves = leaves.into_iter();
            let mut turns = 0;
            loop {
                turns += 1;
                prop_assert!(turns <= 1000, "it never ends");
                let slot = match scheduler.next(false) {
                    Turn::Step(slot) => {
                        let number = slot.0 as usize;
                        prop_assert!(left[number] > 0, "a step too many");
                        prop_assert!(since[number] < steps.len(), "starved");
                        since.iter_mut().for_each(|turns| *turns += 1);
                        since[number] = 0;
                        left[number] -= 1;
                        scheduler.stepped(slot);
                        if !leaves.next().unwrap_or(false) {
                            continue;
                        }
                        slot
                    }
                    Turn::Decode(slot) => {
                        prop_assert_eq!(left[slot.0 as usize], 0);
                        slot
                    }
                    Turn::Idle => break,
                    Turn::Begin => unreachable!("nothing waits"),
                };
                scheduler.left(slot);
            }
            prop_assert_eq!(scheduler.running(), 0);
        }
    }
}
