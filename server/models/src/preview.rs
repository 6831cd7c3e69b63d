//! Previews through core's projection.

use crate::vae::Decoder;
use candle_core::{Device, Error, Result, Tensor};
use zimage_core::pixels::Pixels;
use zimage_core::preview::{Colour, Projection};

/// The mean colour of a small image whose every latent pixel has these values.
pub(crate) fn colour(decoder: &Decoder, values: &[f32]) -> Result<Colour> {
    let channels = values.len();
    let latents = Tensor::new(values, &Device::Cpu)?.reshape((channels, 1, 1))?;
    let image = decoder.forward(&latents.expand((channels, 2, 2))?.contiguous()?)?;
    let mean: Vec<f32> = image.mean((1, 2))?.to_vec1()?;
    mean.try_into()
        .map_err(|mean: Vec<f32>| Error::Msg(format!("an image has {} colours", mean.len())))
}

/// An image with one pixel for each pixel of the latents (channels, height, width).
pub(crate) fn apply(projection: &Projection, latents: &Tensor) -> Result<Pixels> {
    let (_, height, width) = latents.dims3()?;
    let values = latents.flatten_all()?.to_vec1::<f32>()?;
    let preview = projection.apply(&values, height as u32, width as u32);
    preview.ok_or_else(|| Error::Msg("a preview has another size than its latents".to_owned()))
}
