//! What an executor keeps of its requests.

use crate::executor::{ExecutorError, Slot};
use std::collections::BTreeMap;

/// The state of each request that has a slot.
#[derive(Clone, Debug)]
pub struct Slots<S> {
    states: BTreeMap<Slot, S>,
    next: u32,
}

impl<S> Default for Slots<S> {
    fn default() -> Self {
        Self {
            states: BTreeMap::new(),
            next: 0,
        }
    }
}

impl<S> Slots<S> {
    /// Gives a request a slot of its own.
    pub fn add(&mut self, state: S) -> Slot {
        let slot = Slot(self.next);
        // Wraps after four thousand million requests, when the first are long released.
        self.next = self.next.wrapping_add(1);
        self.put_back(slot, state);
        slot
    }

    /// The state of a slot.
    ///
    /// # Errors
    /// [`ExecutorError::Failed`] when no request has the slot.
    pub fn get(&self, slot: Slot) -> Result<&S, ExecutorError> {
        self.states.get(&slot).ok_or_else(|| not_taken(slot))
    }

    /// The state of a slot, to change it.
    ///
    /// # Errors
    /// As [`Slots::get`].
    pub fn get_mut(&mut self, slot: Slot) -> Result<&mut S, ExecutorError> {
        self.states.get_mut(&slot).ok_or_else(|| not_taken(slot))
    }

    /// Takes the state out of its slot, for good or until [`Slots::put_back`].
    ///
    /// # Errors
    /// As [`Slots::get`].
    pub fn take(&mut self, slot: Slot) -> Result<S, ExecutorError> {
        self.states.remove(&slot).ok_or_else(|| not_taken(slot))
    }

    /// Puts a state into the slot that it was taken out of.
    pub fn put_back(&mut self, slot: Slot, state: S) {
        self.states.insert(slot, state);
    }

    /// Whether no request has a slot.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }
}

fn not_taken(slot: Slot) -> ExecutorError {
    ExecutorError::Failed(format!("slot {} is not taken", slot.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_a_slot_of_its_own_until_it_is_taken() {
        let mut slots = Slots::default();
        let (first, second) = (slots.add('a'), slots.add('b'));
        assert_eq!((slots.get(first), slots.get(second)), (Ok(&'a'), Ok(&'b')));
        assert_eq!(slots.take(first), Ok('a'));
        let error = slots.take(first).unwrap_err().to_string();
        assert!(error.contains("slot 0 is not taken"), "{error}");
        assert_ne!(slots.add('c'), second);
        slots.put_back(first, 'd');
        assert_eq!(slots.get_mut(first), Ok(&mut 'd'));
        assert!(!slots.is_empty());
    }
}
