//! Image-to-image and inpainting: what diffusers' `ZImageImg2ImgPipeline` and `ZImageInpaintPipeline` add.

use candle_core::{Result, Tensor};

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
    /// The latents with the noise that they have at a sigma.
    pub(crate) fn noisy(&self, sigma: f32) -> Result<Tensor> {
        (&self.noise * f64::from(sigma))? + (&self.latents * f64::from(1.0 - sigma))?
    }

    /// Puts back what is kept, with the noise that it has at a sigma.
    pub(crate) fn keep(&self, latents: Tensor, sigma: f32) -> Result<Tensor> {
        let Some(mask) = &self.mask else {
            return Ok(latents);
        };
        let kept = (1.0 - mask)?.broadcast_mul(&self.noisy(sigma)?)?;
        kept + mask.broadcast_mul(&latents)?
    }
}
