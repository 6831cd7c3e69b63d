//! diffusers' `AutoencoderKL`, and images as tensors.

mod decoder;
mod encoder;
mod layers;

pub(crate) use decoder::Decoder;
pub(crate) use encoder::Encoder;

use candle_core::{Device, Result, Tensor};
use zimage_core::pixels::Pixels;
use zimage_core::preview::level;

/// An image (3, height, width) from -1 to 1 as bytes, rounded as diffusers' `VaeImageProcessor` rounds. Fails when a value
/// is no number.
pub(crate) fn to_pixels(image: &Tensor) -> Result<Pixels> {
    let (_, height, width) = image.dims3()?;
    let values = image.permute((1, 2, 0))?.flatten_all()?.to_vec1::<f32>()?;
    if !values.iter().all(|value| value.is_finite()) {
        candle_core::bail!("the image has values that are no numbers: the checkpoint is damaged");
    }
    Pixels::new(
        width as u32,
        height as u32,
        values.into_iter().map(level).collect(),
    )
    .map_err(candle_core::Error::wrap)
}

/// Bytes as an image (3, height, width) from -1 to 1.
pub(crate) fn from_pixels(pixels: &Pixels) -> Result<Tensor> {
    let values: Vec<f32> = pixels
        .rgb()
        .iter()
        .map(|&level| 2.0 * (f32::from(level) / 255.0) - 1.0)
        .collect();
    let shape = (pixels.height() as usize, pixels.width() as usize, 3);
    Tensor::from_vec(values, shape, &Device::Cpu)?
        .permute((2, 0, 1))?
        .contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_with_a_value_that_is_no_number_is_refused() {
        let image = |value: f32| {
            let values = vec![0.0, 0.5, 1.0, -1.0, 0.25, value];
            to_pixels(&Tensor::from_vec(values, (3, 1, 2), &Device::Cpu).unwrap())
        };
        assert!(image(0.5).is_ok());
        for value in [f32::NAN, f32::INFINITY] {
            let error = image(value).unwrap_err().to_string();
            assert!(error.contains("no numbers"), "{error}");
        }
    }
}
