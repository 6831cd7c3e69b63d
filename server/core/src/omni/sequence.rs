//! Where the tokens of an Omni request are, and which are noisy: diffusers' `patchify_and_embed_omni`.

use crate::rotary::{Position, SEQUENCE_MULTIPLE};

/// A condition image's two pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Rows and columns of the latents.
    pub latents: [usize; 2],
    /// Rows and columns of the vision tower's patches.
    pub features: [usize; 2],
}

/// The number of the step's time.
pub const NOISY: u32 = 0;
/// The number of the time of what is an image already.
pub const CLEAN: u32 = 1;

/// The positions and times of prompt, images and features, each part padded for itself.
pub struct Sequence {
    /// Of the prompt's tokens.
    pub captions: Vec<Position>,
    caption_times: Vec<u32>,
    /// Of the condition images' patches, and then of the patches of the image that is made.
    pub images: Vec<Position>,
    /// Which of the two times each patch has.
    pub image_times: Vec<u32>,
    /// Of the condition images' features. Empty without condition images.
    pub features: Vec<Position>,
    feature_times: Vec<u32>,
}

impl Sequence {
    /// `prompt` has the lengths of the prompt's parts, of which each condition image and then the image that is made
    /// follows one; `image` has the rows and columns of the latters' latents.
    pub fn new(prompt: &[usize], references: &[Grid], image: [usize; 2]) -> Self {
        let mut sequence = Self {
            captions: Vec::new(),
            caption_times: Vec::new(),
            images: Vec::new(),
            image_times: Vec::new(),
            features: Vec::new(),
            feature_times: Vec::new(),
        };
        let mut start = 1;
        let mut ends = Vec::with_capacity(prompt.len());
        for (i, &length) in prompt.iter().enumerate() {
            let padded = length.next_multiple_of(SEQUENCE_MULTIPLE);
            let frames = start..start + padded;
            sequence.captions.extend(frames.map(|frame| [frame, 0, 0]));
            // diffusers gives the padding positions twice, which moves those of the parts behind it, and cuts what is left
            // over at the end.
            let doubled = sequence.captions.len() + padded - length;
            sequence.captions.resize(doubled, [0; 3]);
            let time = if i < references.len() { CLEAN } else { NOISY };
            let times = sequence.caption_times.len() + padded;
            sequence.caption_times.resize(times, time);
            // The padding's frames are given out again: only the tokens count.
            start += length;
            ends.push(start);
            // A frame for the latents and one for the features.
            start += 2;
        }
        sequence.captions.truncate(sequence.caption_times.len());
        for (reference, &frame) in references.iter().zip(&ends) {
            sequence.image(frame, reference.latents, CLEAN);
            sequence.picture(frame + 1, *reference);
        }
        let frame = ends.get(references.len()).copied().unwrap_or(start);
        sequence.image(frame, image, NOISY);
        if !references.is_empty() {
            let padded = sequence.features.len() + SEQUENCE_MULTIPLE;
            sequence.features.resize(padded, [0; 3]);
            sequence.feature_times.resize(padded, NOISY);
        }
        sequence
    }

    fn image(&mut self, frame: usize, [rows, columns]: [usize; 2], time: u32) {
        let (rows, columns) = (rows / 2, columns / 2);
        let patches =
            (0..rows).flat_map(|row| (0..columns).map(move |column| [frame, row, column]));
        self.images.extend(patches);
        let padded = self.images.len().next_multiple_of(SEQUENCE_MULTIPLE);
        self.images.resize(padded, [0; 3]);
        self.image_times.resize(padded, time);
    }

    /// The features lie over the latents, corner on corner.
    fn picture(&mut self, frame: usize, grid: Grid) {
        let [rows, columns] = grid.features;
        // In single precision and cut, as diffusers does it.
        let over = |axis: usize, i: usize| {
            let last = grid.features[axis].saturating_sub(1).max(1) as f32;
            (i as f32 / last * (grid.latents[axis] - 1) as f32) as usize
        };
        let patches = (0..rows)
            .flat_map(|row| (0..columns).map(move |column| [frame, over(0, row), over(1, column)]));
        self.features.extend(patches);
        let padded = self.features.len().next_multiple_of(SEQUENCE_MULTIPLE);
        self.features.resize(padded, [0; 3]);
        self.feature_times.resize(padded, CLEAN);
    }

    /// The positions of all tokens.
    pub fn joint(&self) -> Vec<Position> {
        [&*self.captions, &*self.images, &*self.features].concat()
    }

    /// Which of the two times each token has.
    pub fn joint_times(&self) -> Vec<u32> {
        [
            &*self.caption_times,
            &*self.image_times,
            &*self.feature_times,
        ]
        .concat()
    }

    /// Whether no position is beyond what the rotary embedding was made for.
    pub fn fits(&self, axes_lens: &[usize]) -> bool {
        let mut positions = self.joint().into_iter();
        positions.all(|position| position.iter().zip(axes_lens).all(|(at, len)| at < len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_alone_counts_its_tokens_and_not_its_padding() {
        let sequence = Sequence::new(&[40], &[], [4, 4]);
        assert_eq!(sequence.captions.len(), 64);
        assert_eq!(
            (sequence.captions[0], sequence.captions[63]),
            ([1, 0, 0], [64, 0, 0])
        );
        assert_eq!(sequence.images[..3], [[41, 0, 0], [41, 0, 1], [41, 1, 0]]);
        assert_eq!(sequence.images[4], [0; 3]);
        assert!(sequence.features.is_empty());
        assert!(sequence.joint_times().iter().all(|&time| time == NOISY));
    }

    #[test]
    fn condition_images_lie_behind_their_part_of_the_prompt() {
        let grid = Grid {
            latents: [8, 12],
            features: [2, 3],
        };
        let sequence = Sequence::new(&[4, 9, 2], &[grid], [4, 4]);
        assert_eq!(sequence.captions.len(), 96);
        assert_eq!(
            (sequence.captions[31], sequence.captions[32]),
            ([32, 0, 0], [0; 3])
        );
        // After 4 tokens and 28 of padding, given twice.
        assert_eq!(
            (sequence.captions[59], sequence.captions[60]),
            ([0; 3], [7, 0, 0])
        );
        assert_eq!(
            (sequence.images[0], sequence.images[7]),
            ([5, 0, 0], [5, 1, 1])
        );
        assert_eq!(sequence.images[32], [16, 0, 0]);
        assert_eq!(
            sequence.features[..6],
            [
                [6, 0, 0],
                [6, 0, 5],
                [6, 0, 11],
                [6, 7, 0],
                [6, 7, 5],
                [6, 7, 11]
            ]
        );
        assert_eq!(sequence.features.len(), 64);
        let runs: Vec<u32> = sequence
            .joint_times()
            .chunks(32)
            .map(|run| run[0])
            .collect();
        assert_eq!(runs, [CLEAN, NOISY, NOISY, CLEAN, NOISY, CLEAN, NOISY]);
    }

    #[test]
    fn positions_beyond_the_tables_do_not_fit() {
        let sequence = Sequence::new(&[40], &[], [4, 4]);
        assert!(sequence.fits(&[65, 2, 2]));
        assert!(!sequence.fits(&[64, 2, 2]));
        assert!(!sequence.fits(&[65, 2, 1]));
    }
}
