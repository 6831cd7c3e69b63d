//! Image-to-image and inpainting: what diffusers' `ZImageImg2ImgPipeline` and `ZImageInpaintPipeline` add.

use crate::schedule::NoiseSchedule;
use candle_core::{Device, Result, Tensor};
use zimage_core::pixels::Pixels;

/// An image's latents and the noise that hides them.
pub(crate) struct StartImage {
    /// (channels, height / 8, width / 8)
    pub(crate) latents: Tensor,
    /// Like `latents`.
    pub(crate) noise: Tensor,
    /// (1, height / 8, width / 8): 1 where the image is replaced, 0 where it is kept. `None`: replaced everywhere.
    pub(crate) mask: Option<Tensor>,
}

impl StartImage {
    /// The latents with the noise that they have at a step.
    pub(crate) fn noisy(&self, schedule: &NoiseSchedule, step: usize) -> Result<Tensor> {
        let sigma = f64::from(schedule.sigma(step));
        (&self.noise * sigma)? + (&self.latents * f64::from(1.0 - schedule.sigma(step)))?
    }

    /// Puts back what is kept, with the noise that it has before `step`.
    pub(crate) fn keep(
        &self,
        latents: Tensor,
        schedule: &NoiseSchedule,
        step: usize,
    ) -> Result<Tensor> {
        let Some(mask) = &self.mask else {
            return Ok(latents);
        };
        let kept = (1.0 - mask)?.broadcast_mul(&self.noisy(schedule, step)?)?;
        kept + mask.broadcast_mul(&latents)?
    }
}

/// The first step of a schedule that runs when a share of the image is replaced; Python's rounding.
pub(crate) fn first_step(steps: u32, strength: f64) -> u32 {
    let steps = f64::from(steps);
    (steps - (steps * strength).min(steps)).max(0.0) as u32
}

/// A mask (1, height / 8, width / 8) of ones and zeros: its top left pixel speaks for each eight by eight.
pub(crate) fn latent_mask(mask: &Pixels) -> Result<Tensor> {
    let (height, width) = (mask.height() as usize, mask.width() as usize);
    let replaced = |row: usize, column: usize| {
        let pixel = &mask.rgb()[3 * (8 * row * width + 8 * column)..][..3];
        f32::from(u8::from(luma(pixel) >= 128))
    };
    let values = (0..height / 8)
        .flat_map(|row| (0..width / 8).map(move |column| replaced(row, column)))
        .collect();
    Tensor::from_vec(values, (1, height / 8, width / 8), &Device::Cpu)
}

/// Pillow's grey of a colour.
fn luma(rgb: &[u8]) -> u32 {
    let weighted = rgb
        .iter()
        .zip([19595, 38470, 7471])
        .map(|(&level, weight)| u32::from(level) * weight);
    (weighted.sum::<u32>() + 0x8000) >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strength_is_the_share_of_the_steps_that_run() {
        for (steps, strength, first) in [
            (8, 1.0, 0),
            (8, 0.6, 3),
            (10, 0.3, 7),
            (50, 0.01, 49),
            (4, 0.1, 3),
        ] {
            assert_eq!(first_step(steps, strength), first, "{steps} {strength}");
        }
    }

    #[test]
    fn greys_are_their_own_luma() {
        for level in 0..=255 {
            assert_eq!(luma(&[level, level, level]), u32::from(level));
        }
    }

    #[test]
    fn top_left_pixel_of_each_eight_by_eight_is_the_mask() {
        let mut rgb = vec![0; 16 * 16 * 3];
        rgb[3 * 8..3 * 8 + 3].fill(255);
        rgb[3 * (8 * 16 + 1)..][..3].fill(255);
        let mask = latent_mask(&Pixels::new(16, 16, rgb).unwrap()).unwrap();
        assert_eq!(mask.to_vec3::<f32>().unwrap(), [[[0.0, 1.0], [0.0, 0.0]]]);
    }
}
