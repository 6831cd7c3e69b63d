//! A cheap look at latents: one multiplication a pixel instead of the decoder.

use crate::vae::{Decoder, to_pixels};
use candle_core::{Device, Result, Tensor};
use zimage_core::pixels::Pixels;

/// The linear map from a latent pixel to a colour that is nearest to what the decoder does around zero.
pub(crate) struct Projection {
    /// (3, channels)
    weight: Tensor,
    /// (3, 1)
    bias: Tensor,
}

impl Projection {
    /// Measures the decoder: how much each channel alone changes the mean colour of a small even image.
    pub(crate) fn measure(decoder: &Decoder, channels: usize) -> Result<Self> {
        let colour = |channel: Option<usize>, value: f32| {
            let values: Vec<f32> = (0..channels)
                .map(|i| if Some(i) == channel { value } else { 0.0 })
                .collect();
            let latents = Tensor::from_vec(values, (channels, 1, 1), &Device::Cpu)?;
            // (3, 1)
            decoder
                .forward(&latents.expand((channels, 2, 2))?.contiguous()?)?
                .mean((1, 2))?
                .unsqueeze(1)
        };
        let slopes = (0..channels)
            .map(|channel| (colour(Some(channel), 1.0)? - colour(Some(channel), -1.0)?)? * 0.5)
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            weight: Tensor::cat(&slopes, 1)?,
            bias: colour(None, 0.0)?,
        })
    }

    /// An image with one pixel for each pixel of the latents (channels, height, width).
    pub(crate) fn apply(&self, latents: &Tensor) -> Result<Pixels> {
        let (channels, height, width) = latents.dims3()?;
        let colours = self
            .weight
            .matmul(&latents.reshape((channels, height * width))?)?
            .broadcast_add(&self.bias)?;
        to_pixels(&colours.reshape((3, height, width))?)
    }
}
