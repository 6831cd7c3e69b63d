//! From latents to pixels in host memory.

use super::CudaExecutor;
use crate::error::GpuError;
use crate::memory::{Layout, Region};
use crate::ops::F32;
use crate::ops::image::Bytes;
use crate::ops::png;
use zimage_core::executor::{ExecutorError, Slot};
use zimage_core::pixels::Pixels;
use zimage_core::preview::{Colour, Projection};

impl CudaExecutor {
    /// Bytes of the arena that decoding latents of a height and width needs. What there is beyond it is asked for only
    /// where the whole image does not fit into it.
    pub(super) fn decode_bytes(&self, (height, width): (usize, usize)) -> Result<usize, GpuError> {
        let mut layout = Layout::measure();
        layout.take(Bytes::size(64 * height * width))?;
        png::Work::lay_out(&mut layout, (8 * height, 8 * width))?;
        let latents = (height, width);
        let mut decoding = self.decoder.bytes(latents, usize::MAX)?;
        if decoding > self.arena.region().bytes() {
            decoding = self.decoder.bytes(latents, self.arena.room(self.gpu())?)?;
        }
        Ok(decoding.max(layout.used()))
    }

    pub(super) fn image_of(&mut self, slot: Slot) -> Result<Pixels, ExecutorError> {
        let state = self.states.get(slot)?;
        let latents = state.latents.region();
        let size = (2 * state.patches.rows, 2 * state.patches.columns);
        let pixels = self.decode_pixels(latents, size)?;
        let (height, width) = (8 * size.0, 8 * size.1);
        // The decoder's memory behind the pixels is free again.
        let mut layout = Layout::over(self.arena.region());
        layout.take(Bytes::size(height * width))?;
        let work = png::Work::lay_out(&mut layout, (height, width))?;
        let data = png::compress(&self.compute.gpu, &work, pixels)?;
        let mut png_data = self.download(data.region())?;
        data.finish(&mut png_data);
        let rgb = self.download_pixels(pixels, height * width)?;
        Pixels::new(width as u32, height as u32, rgb)
            .map(|pixels| pixels.with_png_data(png_data))
            .map_err(|error| ExecutorError::Failed(error.to_string()))
    }

    pub(super) fn preview_of(&mut self, slot: Slot) -> Result<Pixels, ExecutorError> {
        let latents = self.latents(slot)?;
        let state = self.states.get(slot)?;
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

    /// Puts the work on the stream that makes an image (8 * height, 8 * width, 3) of latents, as [`Bytes`] at the
    /// beginning of the arena.
    fn decode_pixels(
        &mut self,
        latents: Region,
        (height, width): (usize, usize),
    ) -> Result<Region, GpuError> {
        let scratch = self.scratch(self.decode_bytes((height, width))?)?;
        let pixels = self
            .decoder
            .decode(&self.compute, scratch, latents, (height, width))?;
        self.compute.dnn.trim(&self.compute.gpu)?;
        Ok(pixels)
    }

    /// The bytes of an image in the arena. Waits for the GPU.
    fn download_pixels(&mut self, pixels: Region, count: usize) -> Result<Vec<u8>, GpuError> {
        let mut bytes = self.download(pixels.part(0, Bytes::size(count))?)?;
        if bytes[3 * count..].iter().any(|&byte| byte != 0) {
            return Err(GpuError::NoNumbers);
        }
        bytes.truncate(3 * count);
        Ok(bytes)
    }

    /// Copies from the GPU through pinned memory, which is as large as the largest copy was.
    fn download(&mut self, from: Region) -> Result<Vec<u8>, GpuError> {
        let (gpu, bytes) = (&self.compute.gpu, from.bytes());
        let pinned = match self.pinned.take() {
            Some(pinned) if pinned.len() >= bytes => pinned,
            _ => gpu.pinned(bytes)?,
        };
        let pinned = self.pinned.insert(pinned);
        Ok(gpu.download_pinned(from, pinned, bytes)?.to_vec())
    }

    /// The mean colour of a small image whose every latent pixel has these values.
    pub(super) fn colour(&mut self, values: &[f32]) -> Result<Colour, GpuError> {
        let latents = self.compute.gpu.allocate(values.len() * 4 * F32)?;
        let even: Vec<f32> = values.iter().flat_map(|&value| [value; 4]).collect();
        self.compute.gpu.upload(latents.region(), &even)?;
        let pixels = self.decode_pixels(latents.region(), (2, 2))?;
        let pixels = self.download_pixels(pixels, 64 * 4)?;
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
