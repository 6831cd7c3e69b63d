//! Condition images: what diffusers' `ZImageOmniPipeline` does with them before any model sees them.

mod sequence;

pub use sequence::{CLEAN, Grid, NOISY, Sequence};

use crate::executor::ExecutorError;
use crate::pixels::{PixelCountMismatch, Pixels};
use crate::request::ImageRequest;
use crate::resize::{Resampling, resize};
use std::borrow::Cow;

/// More pixels than this are resized to as many as the image that is made has.
const MOST_PIXELS: u64 = 1024 * 1024;
/// Shortest side of a condition image.
const LEAST_SIDE: u32 = 64;
/// How many times longer one side may be than the other.
const MOST_RATIO: u32 = 8;
/// Sides of what the VAE sees are multiples of this.
const MULTIPLE: u32 = 16;

/// Pixels of the image that is made.
pub fn area(request: &ImageRequest) -> u64 {
    u64::from(request.width) * u64::from(request.height)
}

/// Checks what only some models compute: condition images on an Omni model, a start image on the others.
///
/// # Errors
/// Names the request's field and what would be right.
pub fn check(request: &ImageRequest, omni: bool) -> Result<(), ExecutorError> {
    let invalid = |field, message| Err(ExecutorError::InvalidRequest { field, message });
    if !omni && !request.references.is_empty() {
        let message =
            "this model takes no condition images: it has no SigLIP tower; an Omni model has one";
        return invalid("references", message.to_owned());
    }
    if omni && request.init.is_some() {
        let message = "an Omni model starts from noise alone: give the image as a condition image";
        return invalid("image", message.to_owned());
    }
    for pixels in &request.references {
        let (width, height) = (pixels.width(), pixels.height());
        let (short, long) = (width.min(height), width.max(height));
        if short < LEAST_SIDE {
            let message = format!(
                "a condition image has {width}x{height} pixels; a side has at least {LEAST_SIDE}"
            );
            return invalid("references", message);
        }
        if u64::from(long) > u64::from(short) * u64::from(MOST_RATIO) {
            let message = format!(
                "a condition image has {width}x{height} pixels; a side is at most {MOST_RATIO} times the other"
            );
            return invalid("references", message);
        }
        let (width, height) = fitting(pixels, area(request));
        if width.min(height) < MULTIPLE {
            let message = format!(
                "a condition image would be shrunk to {width}x{height} pixels for this image; ask for a larger one"
            );
            return invalid("references", message);
        }
    }
    Ok(())
}

/// Width and height after shrinking.
fn fitting(pixels: &Pixels, area: u64) -> (u32, u32) {
    let (width, height) = (pixels.width(), pixels.height());
    let count = u64::from(width) * u64::from(height);
    if count <= MOST_PIXELS {
        return (width, height);
    }
    let scale = (area as f64 / count as f64).sqrt();
    let scaled = |side: u32| (f64::from(side) * scale) as u32;
    (scaled(width), scaled(height))
}

/// A condition image as the vision tower sees it, for an image of `area` pixels.
///
/// # Errors
/// Never: the buffer has the size it is made for.
pub fn shrink(pixels: &Pixels, area: u64) -> Result<Cow<'_, Pixels>, PixelCountMismatch> {
    let (width, height) = fitting(pixels, area);
    if (width, height) == (pixels.width(), pixels.height()) {
        return Ok(Cow::Borrowed(pixels));
    }
    let (width, height) = (width as usize, height as usize);
    resize(pixels, width, height, Resampling::PillowLanczos).map(Cow::Owned)
}

/// The middle of a shrunk condition image, its sides multiples of 16: as the VAE sees it.
///
/// # Errors
/// Never: the buffer has the size it is made for.
pub fn crop(pixels: &Pixels) -> Result<Pixels, PixelCountMismatch> {
    let (width, height) = (pixels.width(), pixels.height());
    let (wide, high) = (width / MULTIPLE * MULTIPLE, height / MULTIPLE * MULTIPLE);
    let (left, top) = ((width - wide) / 2, (height - high) / 2);
    let rows = pixels.rgb().chunks_exact(3 * width as usize);
    let rgb = rows
        .skip(top as usize)
        .take(high as usize)
        .flat_map(|row| &row[3 * left as usize..][..3 * wide as usize])
        .copied()
        .collect();
    Pixels::new(wide, high, rgb)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: u32, height: u32) -> Pixels {
        Pixels::new(width, height, vec![9; width as usize * height as usize * 3]).unwrap()
    }

    #[test]
    fn only_images_of_more_than_a_megapixel_are_resized() {
        assert_eq!(fitting(&grey(1024, 1024), 64 * 48), (1024, 1024));
        assert_eq!(fitting(&grey(1203, 901), 64 * 48), (64, 47));
    }

    #[test]
    fn crop_keeps_the_middle() {
        let mut rgb = vec![0; 20 * 16 * 3];
        rgb[3 * 2] = 7;
        let cropped = crop(&Pixels::new(20, 16, rgb).unwrap()).unwrap();
        assert_eq!((cropped.width(), cropped.height()), (16, 16));
        assert_eq!(cropped.rgb()[0], 7);
    }
}
