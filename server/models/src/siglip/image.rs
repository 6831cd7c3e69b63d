//! transformers' `Siglip2ImageProcessor` over torchvision: an image as patches.

use candle_core::{Device, Result, Tensor};
use zimage_checkpoint::config::SiglipProcessorConfig;
use zimage_core::pixels::Pixels;
use zimage_core::resize::{Resampling, resize};

/// How exactly the factor of the size is searched for.
const PRECISION: f64 = 1e-5;

/// Patches (rows, columns, patch * patch * 3) of an image, whose sides are resized to as many patches as are allowed.
pub(super) fn patches(pixels: &Pixels, config: &SiglipProcessorConfig) -> Result<Tensor> {
    let patch = config.patch_size;
    let (rows, columns) = grid(pixels, config);
    let (height, width) = (rows * patch, columns * patch);
    let resized = resize(pixels, width, height, Resampling::TorchBilinear)
        .map_err(candle_core::Error::wrap)?;
    // The factor is folded into mean and deviation, in single precision.
    let unfolded = (1.0 / config.rescale_factor) as f32;
    let values = (resized.rgb().iter().enumerate()).map(|(i, &level)| {
        let (mean, deviation) = (config.image_mean[i % 3], config.image_std[i % 3]);
        (f32::from(level) - mean * unfolded) / (deviation * unfolded)
    });
    Tensor::from_iter(values, &Device::Cpu)?
        .reshape((rows, patch, columns, patch, 3))?
        .transpose(1, 2)?
        .reshape((rows, columns, patch * patch * 3))
}

/// Rows and columns of patches: the largest scale whose patches are not too many.
fn grid(pixels: &Pixels, config: &SiglipProcessorConfig) -> (usize, usize) {
    let patch = config.patch_size as f64;
    let at = |scale: f64| {
        [pixels.height(), pixels.width()]
            .map(|side| (f64::from(side) * scale / patch).ceil().max(1.0))
    };
    let (mut least, mut most) = (PRECISION / 10.0, 100.0);
    while most - least >= PRECISION {
        let scale = (least + most) / 2.0;
        let [rows, columns] = at(scale);
        if rows * columns <= config.max_num_patches as f64 {
            least = scale;
        } else {
            most = scale;
        }
    }
    let [rows, columns] = at(least);
    (rows as usize, columns as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Sizes that transformers 5.23 gives.
    #[test]
    fn patches_are_as_many_as_are_allowed() {
        let config = SiglipProcessorConfig::default();
        for ((width, height), expected) in [
            ((64, 64), (16, 16)),
            ((1024, 1024), (16, 16)),
            ((640, 480), (14, 18)),
            ((100, 800), (42, 6)),
            ((1203, 901), (14, 18)),
            ((1, 1), (7, 7)),
        ] {
            let pixels =
                Pixels::new(width, height, vec![0; (width * height * 3) as usize]).unwrap();
            assert_eq!(grid(&pixels, &config), expected, "{width}x{height}");
        }
    }
}
