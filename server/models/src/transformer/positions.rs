//! Where tokens are: frame, row and column.

use candle_core::{Result, Tensor};
use zimage_checkpoint::config::TransformerConfig;

/// Sequences are padded to a multiple of this with a learned token that takes part in attention.
pub(super) const SEQUENCE_MULTIPLE: usize = 32;

/// A token's frame, row and column.
pub(super) type Position = [usize; 3];

/// Positions of a caption whose length is padded already: one frame a token, from 1 on.
pub(super) fn caption(padded: usize) -> Vec<Position> {
    (1..=padded).map(|frame| [frame, 0, 0]).collect()
}

/// Positions of an image's patches, in the frame after the caption's padding, and of its own padding.
pub(super) fn image(caption: usize, rows: usize, columns: usize) -> Vec<Position> {
    let patches =
        (0..rows).flat_map(|row| (0..columns).map(move |column| [caption + 1, row, column]));
    let mut positions: Vec<Position> = patches.collect();
    positions.resize(
        positions.len().next_multiple_of(SEQUENCE_MULTIPLE),
        [0, 0, 0],
    );
    positions
}

/// Cosines and sines (tokens, head / 2) of the rotary embedding, rounded where diffusers rounds to single precision.
pub(super) fn rope(config: &TransformerConfig, positions: &[Position]) -> Result<(Tensor, Tensor)> {
    let frequency = |width: usize, i: usize| {
        config
            .rope_theta
            .powf((2 * i) as f64 / width as f64)
            .recip()
    };
    let frequencies: Vec<(usize, f64)> = (config.axes_dims.iter().enumerate())
        .flat_map(|(axis, &width)| (0..width / 2).map(move |i| (axis, frequency(width, i))))
        .collect();
    let angles: Vec<f32> = positions
        .iter()
        .flat_map(|position| {
            frequencies
                .iter()
                .map(|&(axis, frequency)| (position[axis] as f64 * frequency) as f32)
        })
        .collect();
    crate::rope::cos_sin(&angles, positions.len())
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
