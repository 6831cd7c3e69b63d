//! From latents to pixels in host memory.

use super::{CudaExecutor, not_taken};
use crate::error::GpuError;
use crate::memory::Region;
use crate::ops::F32;
use crate::ops::image::Bytes;
use zimage_core::executor::{ExecutorError, Slot};
use zimage_core::pixels::Pixels;
use zimage_core::preview::{Colour, Projection};

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

    pub(super) fn image_of(&mut self, slot: Slot) -> Result<Pixels, ExecutorError> {
        let state = self.states.get(&slot).ok_or_else(|| not_taken(slot))?;
        let latents = state.latents.region();
        let (height, width) = (2 * state.patches.rows, 2 * state.patches.columns);
        let rgb = self.decode_pixels(latents, (height, width))?;
        Pixels::new(8 * width as u32, 8 * height as u32, rgb)
            .map_err(|error| ExecutorError::Failed(error.to_string()))
    }

    pub(super) fn preview_of(&mut self, slot: Slot) -> Result<Pixels, ExecutorError> {
        let latents = self.latents(slot)?;
        let state = self.states.get(&slot).ok_or_else(|| not_taken(slot))?;
        let (rows, columns) = (state.patches.rows, state.patches.columns);
        let projection = match self.projection.take() {
            Some(projection) => projection,
            None => {
                let channels = self.transformer.channels();
                Projection::measure(channels, |values| self.colour(values))?
            }
        };
        let preview = projection.apply(&latents, 2 * rows as u32, 2 * columns as u32);
        self.projection = Some(projection);
        preview.ok_or_else(|| ExecutorError::Failed("a preview has another size".to_owned()))
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
        let size = 64 * height * width;
        let bytes = Bytes::size(size);
        if self
            .pixels
            .as_ref()
            .is_none_or(|pinned| pinned.len() < bytes)
        {
            self.pixels = Some(self.compute.gpu.pinned(bytes)?);
        }
        let mut rgb = match &mut self.pixels {
            Some(pinned) => self
                .compute
                .gpu
                .download_pinned(pixels, pinned, bytes)?
                .to_vec(),
            None => self.compute.gpu.download(pixels, bytes)?,
        };
        if rgb[3 * size..].iter().any(|&byte| byte != 0) {
            return Err(GpuError::NoNumbers);
        }
        rgb.truncate(3 * size);
        Ok(rgb)
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
