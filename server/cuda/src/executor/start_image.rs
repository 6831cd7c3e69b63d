//! Image-to-image and inpainting: what diffusers' `ZImageImg2ImgPipeline` and `ZImageInpaintPipeline` add.

use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::memory::{Memory, Region};
use crate::ops::F32;
use crate::ops::sampler::{Kept, Patches, keep};
use zimage_core::pixels::Pixels;
use zimage_core::start_image::latent_mask;

/// An image's latents and the noise that hides them, on the host.
pub(super) struct Image<'a> {
    pub(super) latents: Vec<f32>,
    pub(super) noise: Vec<f32>,
    pub(super) mask: Option<&'a Pixels>,
}

/// What is kept of an image, on the GPU.
pub(super) struct StartImage {
    image: Memory,
    noise: Memory,
    mask: Memory,
}

impl Image<'_> {
    /// Writes the first latents, with the noise that they have at a sigma. Gives what steps keep.
    pub(super) fn begin(
        self,
        gpu: &Gpu,
        sigma: f32,
        latents: Region,
    ) -> Result<Option<StartImage>, GpuError> {
        let pairs = self.latents.iter().zip(&self.noise);
        let noisy: Vec<f32> = pairs
            .map(|(latent, noise)| noise * sigma + latent * (1.0 - sigma))
            .collect();
        gpu.upload(latents, &noisy)?;
        let Some(mask) = self.mask else {
            return Ok(None);
        };
        let upload = |values: &[f32]| -> Result<Memory, GpuError> {
            let memory = gpu.allocate(values.len() * F32)?;
            gpu.upload(memory.region(), values)?;
            Ok(memory)
        };
        let start = StartImage {
            image: upload(&self.latents)?,
            noise: upload(&self.noise)?,
            mask: upload(&latent_mask(mask))?,
        };
        Ok(Some(start))
    }
}

impl StartImage {
    /// Puts back what is kept, with the noise that it has at a sigma.
    pub(super) fn keep(
        &self,
        gpu: &Gpu,
        patches: Patches,
        latents: Region,
        sigma: f32,
    ) -> Result<(), GpuError> {
        let kept = Kept {
            image: self.image.region(),
            noise: self.noise.region(),
            mask: self.mask.region(),
        };
        keep(gpu, patches, latents, kept, sigma)
    }
}
