//! Image-to-image and inpainting: what diffusers' `ZImageImg2ImgPipeline` and `ZImageInpaintPipeline` add.

use candle_core::{Result, Tensor};
use zimage_core::schedule::NoiseSchedule;

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
