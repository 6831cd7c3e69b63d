//! Which of the running requests take the next step together.

/// What must be equal for two requests to be computed as one batch: width and height in pixels.
pub type Shape = (u32, u32);

/// Positions of the requests that step next: the oldest, and the others of its shape, at most `max_batch_size`.
///
/// The oldest always takes part, so every request ends; a later one of another shape waits for it.
pub fn next(running: &[Shape], max_batch_size: usize) -> Vec<usize> {
    let Some(oldest) = running.first() else {
        return Vec::new();
    };
    let same = running
        .iter()
        .enumerate()
        .filter(|(_, shape)| *shape == oldest);
    same.map(|(position, _)| position)
        .take(max_batch_size.max(1))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_the_oldest_ones_shape_go_together() {
        let running = [(64, 64), (128, 64), (64, 64), (64, 64)];
        assert_eq!(next(&running, 8), [0, 2, 3]);
        assert_eq!(next(&running, 2), [0, 2]);
    }

    #[test]
    fn width_and_height_are_not_interchangeable() {
        assert_eq!(next(&[(64, 128), (128, 64)], 8), [0]);
    }

    #[test]
    fn nothing_runs_when_nothing_is_there() {
        assert!(next(&[], 8).is_empty());
    }
}
