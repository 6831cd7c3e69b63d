//! What a forward computes, and how near to the libraries' best it does.

use zimage_checkpoint::config::TransformerConfig;
use zimage_core::rotary::SEQUENCE_MULTIPLE;
use zimage_cuda::Ceilings;

/// Floating point operations of one forward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Work {
    /// In the blocks' matrix products.
    pub(crate) products: f64,
    pub(crate) attention: f64,
}

impl Work {
    /// Of an image and a prompt of so many tokens.
    pub(crate) fn of(
        config: &TransformerConfig,
        (width, height): (u32, u32),
        prompt: usize,
    ) -> Self {
        let image = (width as usize / 16) * (height as usize / 16);
        let image = image.next_multiple_of(SEQUENCE_MULTIPLE);
        let joint = image + prompt.next_multiple_of(SEQUENCE_MULTIPLE);
        let (dim, ffn) = (config.dim as f64, config.ffn_dim() as f64);
        let weights = 4.0 * dim * dim + 3.0 * dim * ffn;
        let blocks = [(config.n_refiner_layers, image), (config.n_layers, joint)];
        let sum = |of_block: &dyn Fn(f64) -> f64| {
            let each = blocks.map(|(count, tokens)| count as f64 * of_block(tokens as f64));
            each.iter().sum()
        };
        Self {
            products: sum(&|tokens| 2.0 * tokens * weights),
            attention: sum(&|tokens| 4.0 * tokens * tokens * dim),
        }
    }

    /// The time that it would take at the ceilings, as a share of what it took.
    pub(crate) fn share(self, ceilings: Ceilings, seconds: f64) -> f64 {
        let least = self.products / ceilings.product + self.attention / ceilings.attention;
        least / seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zimage_checkpoint::{Checkpoint, Shape, make_model};

    #[test]
    fn an_image_of_1024_pixels_squared_is_55_6_tflop_with_the_released_sizes() {
        let dir = tempfile::tempdir().unwrap();
        make_model(dir.path(), Shape::Tiny, 1).unwrap();
        let tiny = Checkpoint::open(dir.path()).unwrap();
        let released = TransformerConfig {
            dim: 3840,
            n_layers: 30,
            n_refiner_layers: 2,
            n_heads: 30,
            ..tiny.transformer().clone()
        };
        let work = Work::of(&released, (1024, 1024), 62);
        assert!((work.products / 1e12 - 47.1).abs() < 0.1, "{work:?}");
        assert!((work.attention / 1e12 - 8.5).abs() < 0.1, "{work:?}");
        let ceilings = Ceilings {
            product: 500e12,
            attention: 500e12,
        };
        assert!((work.share(ceilings, 0.2) - 0.556).abs() < 0.001);
    }
}
