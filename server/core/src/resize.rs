//! Resizing of bytes as Pillow and torch do it: with filters as wide as the shrinking, in whole numbers.

use crate::pixels::{PixelCountMismatch, Pixels};
use std::f64::consts::PI;

/// Whose numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resampling {
    /// `torch.nn.functional.interpolate(mode="bilinear", antialias=True)`.
    TorchBilinear,
    /// `PIL.Image.resize(resample=LANCZOS)`.
    PillowLanczos,
}

/// A pixel of the result: the first pixel that it is made of, and the share of that one and of those that follow.
pub struct Tap {
    /// The first pixel.
    pub first: usize,
    /// Adds up to 1.
    pub shares: Vec<f64>,
}

impl Resampling {
    /// The filter's half width.
    const fn support(self) -> f64 {
        match self {
            Self::TorchBilinear => 1.0,
            Self::PillowLanczos => 3.0,
        }
    }

    fn filter(self, x: f64) -> f64 {
        match self {
            Self::TorchBilinear => (1.0 - x.abs()).max(0.0),
            Self::PillowLanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::PillowLanczos => 0.0,
        }
    }

    /// What each of `to` pixels in a row is made of, out of `from`.
    pub fn taps(self, from: usize, to: usize) -> Vec<Tap> {
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let reach = self.support() * stretch;
        let tap = |index: usize| {
            let centre = scale * (index as f64 + 0.5);
            // The casts cut negative numbers to 0.
            let first = (centre - reach + 0.5) as usize;
            let end = ((centre + reach + 0.5) as usize).min(from);
            let mut shares: Vec<f64> = (first..end)
                .map(|i| self.filter((i as f64 - centre + 0.5) / stretch))
                .collect();
            let whole: f64 = shares.iter().sum();
            if whole != 0.0 {
                shares.iter_mut().for_each(|share| *share /= whole);
            }
            Tap { first, shares }
        };
        (0..to).map(tap).collect()
    }

    /// Binary digits behind the point of a share: Pillow's are fixed, torch's as many as 16 bits can hold.
    fn digits(self, taps: &[Tap]) -> u32 {
        let largest = taps
            .iter()
            .flat_map(|tap| &tap.shares)
            .fold(0.0, |most: f64, &share| most.max(share));
        let fits = |digits: u32| (0.5 + largest * f64::from(1 << digits)) < f64::from(1 << 15);
        match self {
            Self::TorchBilinear => (0..22).find(|&digits| !fits(digits + 1)).unwrap_or(22),
            Self::PillowLanczos => 22,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        1.0
    } else {
        (x * PI).sin() / (x * PI)
    }
}

/// The image in another size: first the rows, then the columns, rounded to bytes after each.
///
/// # Errors
/// Never: the buffer has the size it is made for.
pub fn resize(
    pixels: &Pixels,
    width: usize,
    height: usize,
    resampling: Resampling,
) -> Result<Pixels, PixelCountMismatch> {
    let (from_width, from_height) = (pixels.width() as usize, pixels.height() as usize);
    let mut rgb = pixels.rgb().to_vec();
    if width != from_width {
        let lines = Lines {
            count: from_height,
            step: 3 * from_width,
            between: 3,
            channels: 3,
        };
        rgb = lines.resize(&rgb, from_width, width, resampling);
    }
    if height != from_height {
        let lines = Lines {
            count: 1,
            step: 0,
            between: 3 * width,
            channels: 3 * width,
        };
        rgb = lines.resize(&rgb, from_height, height, resampling);
    }
    Pixels::new(width as u32, height as u32, rgb)
}

/// Lines of equally far pixels: an image's rows, or all its columns as one line of whole rows.
struct Lines {
    count: usize,
    /// Bytes from line to line.
    step: usize,
    /// Bytes from pixel to pixel.
    between: usize,
    /// Bytes of a pixel.
    channels: usize,
}

impl Lines {
    fn resize(&self, bytes: &[u8], from: usize, to: usize, resampling: Resampling) -> Vec<u8> {
        let taps = resampling.taps(from, to);
        let digits = resampling.digits(&taps);
        let one = f64::from(1 << digits);
        let weights: Vec<(usize, Vec<i64>)> = (taps.iter())
            .map(|tap| {
                (
                    tap.first,
                    tap.shares
                        .iter()
                        .map(|share| (share * one).round() as i64)
                        .collect(),
                )
            })
            .collect();
        let mut out = Vec::with_capacity(self.count * to * self.channels);
        for line in 0..self.count {
            for (first, weights) in &weights {
                let start = line * self.step + first * self.between;
                for channel in 0..self.channels {
                    let sum: i64 = (weights.iter().enumerate())
                        .map(|(i, weight)| {
                            weight * i64::from(bytes[start + i * self.between + channel])
                        })
                        .sum();
                    let rounded = (sum + (1 << (digits - 1))) >> digits;
                    out.push(rounded.clamp(0, 255) as u8);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: usize, height: usize) -> Pixels {
        let bytes = (0..height * width * 3)
            .map(|i| (i * i * 7 % 251) as u8)
            .collect();
        Pixels::new(width as u32, height as u32, bytes).unwrap()
    }

    #[test]
    fn one_colour_stays_that_colour() {
        let white = Pixels::new(50, 20, vec![255; 3000]).unwrap();
        for resampling in [Resampling::TorchBilinear, Resampling::PillowLanczos] {
            let resized = resize(&white, 33, 41, resampling).unwrap();
            assert!(resized.rgb().iter().all(|&level| level == 255));
        }
    }

    #[test]
    fn same_size_changes_nothing() {
        let resized = resize(&image(7, 5), 7, 5, Resampling::PillowLanczos).unwrap();
        assert_eq!(resized, image(7, 5));
    }

    // Bytes that torch 2.11.0 and Pillow 13.0.0 give for the same image.
    #[test]
    fn bytes_are_torchs_and_pillows() {
        let torch = resize(&image(5, 4), 3, 3, Resampling::TorchBilinear).unwrap();
        assert_eq!(
            torch.rgb(),
            [
                32, 45, 71, 34, 113, 167, 37, 182, 122, 49, 84, 62, 56, 85, 129, 64, 159, 197, 83,
                116, 144, 94, 114, 108, 107, 154, 114
            ]
        );
        let pillow = resize(&image(5, 4), 3, 3, Resampling::PillowLanczos).unwrap();
        assert_eq!(
            pillow.rgb(),
            [
                30, 29, 68, 34, 122, 187, 34, 189, 105, 46, 82, 42, 54, 69, 126, 63, 166, 223, 86,
                129, 156, 96, 117, 103, 113, 146, 109
            ]
        );
    }
}
