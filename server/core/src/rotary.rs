//! Where tokens are, and the angles that their places turn queries and keys by.

/// Sequences of the transformer are padded to a multiple of this with a learned token that takes part in attention.
pub const SEQUENCE_MULTIPLE: usize = 32;

/// Sines and cosines that a time is made into.
pub const TIME_FREQUENCIES: usize = 256;

/// A token's frame, row and column.
pub type Position = [usize; 3];

/// Positions of a caption whose length is padded already: one frame a token, from 1 on.
pub fn caption(padded: usize) -> Vec<Position> {
    (1..=padded).map(|frame| [frame, 0, 0]).collect()
}

/// Positions of an image's patches, in the frame after the caption's padding, and of its own padding.
pub fn image(caption: usize, rows: usize, columns: usize) -> Vec<Position> {
    let patches =
        (0..rows).flat_map(|row| (0..columns).map(move |column| [caption + 1, row, column]));
    let mut positions: Vec<Position> = patches.collect();
    positions.resize(
        positions.len().next_multiple_of(SEQUENCE_MULTIPLE),
        [0, 0, 0],
    );
    positions
}

/// Angles (tokens, head / 2) of the transformer's heads, of which `axes` says how many numbers each axis turns; rounded
/// where diffusers rounds to single precision.
pub fn angles(theta: f64, axes: &[usize], positions: &[Position]) -> Vec<f32> {
    let frequency = |width: usize, i: usize| theta.powf((2 * i) as f64 / width as f64).recip();
    let frequencies: Vec<(usize, f64)> = (axes.iter().enumerate())
        .flat_map(|(axis, &width)| (0..width / 2).map(move |i| (axis, frequency(width, i))))
        .collect();
    let angle = |position: &Position| {
        let position = *position;
        let turn =
            move |&(axis, frequency): &(usize, f64)| (position[axis] as f64 * frequency) as f32;
        frequencies.iter().map(turn).collect::<Vec<f32>>()
    };
    positions.iter().flat_map(angle).collect()
}

/// Angles (tokens, head / 2) of the text encoder's heads, rounded where transformers rounds to single precision.
pub fn text_angles(theta: f64, head: usize, tokens: usize) -> Vec<f32> {
    let half = head / 2;
    let frequency = |i: usize| theta.powf(-((2 * i) as f64) / head as f64) as f32;
    let angle = |token: usize| (0..half).map(move |i| token as f32 * frequency(i));
    (0..tokens).flat_map(angle).collect()
}

/// Angles of a time whose cosines and then sines, [`TIME_FREQUENCIES`] in all, embed it.
pub fn time_angles(scaled_time: f32) -> Vec<f32> {
    let half = TIME_FREQUENCIES / 2;
    let decay = -(10_000_f64.ln()) as f32;
    (0..half)
        .map(|i| scaled_time * (decay * i as f32 / half as f32).exp())
        .collect()
}

/// Cosine and sine of an angle through double precision: the last bit of the single precision functions depends on the
/// machine.
pub fn cos_sin(angle: f32) -> (f32, f32) {
    let angle = f64::from(angle);
    (angle.cos() as f32, angle.sin() as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_lies_behind_the_caption_and_its_padding_at_the_origin() {
        let positions = image(64, 2, 3);
        assert_eq!(positions.len(), 32);
        assert_eq!(
            positions[..7],
            [
                [65, 0, 0],
                [65, 0, 1],
                [65, 0, 2],
                [65, 1, 0],
                [65, 1, 1],
                [65, 1, 2],
                [0, 0, 0]
            ]
        );
    }

    #[test]
    fn caption_counts_its_padding_from_one() {
        assert_eq!(caption(32).last(), Some(&[32, 0, 0]));
    }
}
