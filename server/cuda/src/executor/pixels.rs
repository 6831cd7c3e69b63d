//! From latents to pixels in host memory.

use super::CudaExecutor;
use crate::error::GpuError;
use crate::memory::Region;
use crate::ops::F32;
use zimage_core::preview::Colour;

impl CudaExecutor {
    /// Bytes of the arena that decoding latents of a height and width needs. What there is beyond it is asked for only
    /// where the whole image does not fit into it.
    pub(super) fn decode_bytes(&self, latents: (usize, usize)) -> Result<usize, GpuError> {
        let whole = self.decoder.bytes(latents, usize::MAX)?;
        if whole <= self.arena.region().bytes() {
            return Ok(whole);
        }
        self.decoder.bytes(latents, self.arena.room(self.gpu())?)
    }

    /// The bytes of an image (8 * height, 8 * width, 3) of latents. Waits for the GPU.
    pub(super) fn decode_pixels(
        &mut self,
        latents: Region,
        (height, width): (usize, usize),
    ) -> Result<Vec<u8>, GpuError> {
        let scratch = self.scratch(self.decode_bytes((height, width))?)?;
        let pixels = self
            .decoder
            .decode(&self.compute, scratch, latents, (height, width))?;
        self.compute.dnn.trim(&self.compute.gpu)?;
        let bytes = 64 * 3 * height * width;
        if self
            .pixels
            .as_ref()
            .is_none_or(|pinned| pinned.len() < bytes)
        {
            self.pixels = Some(self.compute.gpu.pinned(bytes)?);
        }
        match &mut self.pixels {
            Some(pinned) => Ok(self
                .compute
                .gpu
                .download_pinned(pixels, pinned, bytes)?
                .to_vec()),
            None => self.compute.gpu.download(pixels, bytes),
        }
    }

    /// The mean colour of a small image whose every latent pixel has these values.
    pub(super) fn colour(&mut self, values: &[f32]) -> Result<Colour, GpuError> {
        let latents = self.compute.gpu.allocate(values.len() * 4 * F32)?;
        let even: Vec<f32> = values.iter().flat_map(|&value| [value; 4]).collect();
        self.compute.gpu.upload(latents.region(), &even)?;
        let pixels = self.decode_pixels(latents.region(), (2, 2))?;
        let count = (pixels.len() / 3) as f32;
        let mut sums = [0.0; 3];
        for pixel in pixels.chunks_exact(3) {
            for (sum, &level) in sums.iter_mut().zip(pixel) {
                *sum += f32::from(level);
            }
        }
        Ok(sums.map(|sum| sum / count / 127.5 - 1.0))
    }
}
