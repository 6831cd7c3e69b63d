//! Image-to-image and inpainting: which steps run, and where the image is replaced.

use crate::decimal;
use crate::pixels::Pixels;

/// The first step of a schedule that runs when a share of the image is replaced; Python's rounding.
pub fn first_step(steps: u32, strength: f32) -> u32 {
    let (steps, strength) = (f64::from(steps), decimal::written(strength));
    (steps - (steps * strength).min(steps)).max(0.0) as u32
}

/// A mask (height / 8, width / 8) of ones (replaced) and zeros (kept): its top left pixel speaks for each eight by eight.
pub fn latent_mask(mask: &Pixels) -> Vec<f32> {
    let (height, width) = (mask.height() as usize, mask.width() as usize);
    let replaced = |row: usize, column: usize| {
        let pixel = &mask.rgb()[3 * (8 * row * width + 8 * column)..][..3];
        f32::from(u8::from(is_white(pixel)))
    };
    (0..height / 8)
        .flat_map(|row| (0..width / 8).map(move |column| replaced(row, column)))
        .collect()
}

/// A mask (height, width) of zeros (replaced) and ones (kept), pixel by pixel.
pub fn kept_pixels(mask: &Pixels) -> Vec<f32> {
    let (pixels, _) = mask.rgb().as_chunks::<3>();
    pixels
        .iter()
        .map(|pixel| f32::from(u8::from(!is_white(pixel))))
        .collect()
}

/// Whether a mask's pixel says that the image is replaced there.
fn is_white(rgb: &[u8]) -> bool {
    luma(rgb) >= 128
}

/// Pillow's grey of a colour.
fn luma(rgb: &[u8]) -> u32 {
    let weighted = rgb
        .iter()
        .zip([19595, 38470, 7471])
        .map(|(&level, weight)| u32::from(level) * weight);
    (weighted.sum::<u32>() + 0x8000) >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strength_is_the_share_of_the_steps_that_run() {
        for (steps, strength, first) in [
            (8, 1.0, 0),
            (8, 0.6, 3),
            (10, 0.3, 7),
            (50, 0.01, 49),
            (4, 0.1, 3),
        ] {
            assert_eq!(first_step(steps, strength), first, "{steps} {strength}");
        }
    }

    #[test]
    fn greys_are_their_own_luma() {
        for level in 0..=255 {
            assert_eq!(luma(&[level, level, level]), u32::from(level));
        }
    }

    #[test]
    fn dark_pixels_are_kept() {
        let mask = Pixels::new(2, 1, vec![127, 127, 127, 128, 128, 128]).unwrap();
        assert_eq!(kept_pixels(&mask), [1.0, 0.0]);
    }

    #[test]
    fn top_left_pixel_of_each_eight_by_eight_is_the_mask() {
        let mut rgb = vec![0; 16 * 16 * 3];
        rgb[3 * 8..3 * 8 + 3].fill(255);
        rgb[3 * (8 * 16 + 1)..][..3].fill(255);
        let mask = latent_mask(&Pixels::new(16, 16, rgb).unwrap());
        assert_eq!(mask, [0.0, 1.0, 0.0, 0.0]);
    }
}
