//! What requests no longer need, for requests that need the same.

use std::collections::VecDeque;

/// Bytes that are kept. Captions and latents have a few megabytes at most.
const MOST: usize = 16 << 20;

/// Memory of requests that are over, the oldest first. The driver waits for the device when it takes memory back, and a
/// request need not go to it for what one before had.
pub(super) struct Spare<T>(VecDeque<(usize, T)>);

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Spare<T> {
    /// Something of exactly so many bytes, made if there is none.
    pub(super) fn take<E>(
        &mut self,
        bytes: usize,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let place = self.0.iter().position(|(has, _)| *has == bytes);
        match place.and_then(|place| self.0.remove(place)) {
            Some((_, found)) => Ok(found),
            None => make(),
        }
    }

    /// Keeps something of so many bytes, in place of the oldest if there is no room.
    pub(super) fn keep(&mut self, bytes: usize, item: T) {
        self.0.push_back((bytes, item));
        while self.0.iter().map(|(bytes, _)| bytes).sum::<usize>() > MOST {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn take(spare: &mut Spare<&'static str>, bytes: usize) -> &'static str {
        let Ok(taken) = spare.take(bytes, || Ok::<_, Infallible>("new"));
        taken
    }

    #[test]
    fn what_was_kept_is_taken_once_by_who_needs_exactly_as_much() {
        let mut spare = Spare::default();
        spare.keep(64, "a");
        spare.keep(128, "b");
        assert_eq!(take(&mut spare, 100), "new");
        assert_eq!(take(&mut spare, 128), "b");
        assert_eq!(take(&mut spare, 128), "new");
        assert_eq!(take(&mut spare, 64), "a");
    }

    #[test]
    fn the_oldest_goes_when_there_is_no_room() {
        let mut spare = Spare::default();
        spare.keep(MOST / 2, "a");
        spare.keep(MOST / 2, "b");
        spare.keep(1, "c");
        assert_eq!(take(&mut spare, 1), "c");
        assert_eq!(take(&mut spare, MOST / 2), "b");
        assert_eq!(take(&mut spare, MOST / 2), "new");
        spare.keep(MOST + 1, "too large");
        assert_eq!(take(&mut spare, MOST + 1), "new");
    }
}
