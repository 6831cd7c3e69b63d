//! Condition images on their way to the transformer.

use crate::siglip::VisionTower;
use crate::vae::{Encoder, from_pixels};
use candle_core::{DType, Error, Result, Tensor};
use zimage_core::omni::{Grid, crop, shrink};
use zimage_core::pixels::Pixels;

/// A condition image as the transformer takes it.
pub(crate) struct Reference {
    /// (channels, height / 8, width / 8)
    pub(crate) latents: Tensor,
    /// (rows, columns, features)
    pub(crate) features: Tensor,
}

impl Reference {
    /// Latents and features of a condition image of a request that was checked, for an image of `area` pixels.
    pub(crate) fn of(
        pixels: &Pixels,
        area: u64,
        encoder: &Encoder,
        tower: &VisionTower,
    ) -> Result<Self> {
        let pixels = shrink(pixels, area).map_err(Error::wrap)?;
        // The pipeline rounds to bfloat16 before the VAE, whatever the VAE computes in.
        let image = from_pixels(&crop(&pixels).map_err(Error::wrap)?)?
            .to_dtype(DType::BF16)?
            .to_dtype(DType::F32)?;
        Ok(Self {
            latents: encoder.mode(&image)?,
            features: tower.forward(&pixels)?,
        })
    }

    /// The sizes that decide where its tokens are.
    pub(crate) fn grid(&self) -> Result<Grid> {
        let (_, height, width) = self.latents.dims3()?;
        let (rows, columns, _) = self.features.dims3()?;
        Ok(Grid {
            latents: [height, width],
            features: [rows, columns],
        })
    }
}
