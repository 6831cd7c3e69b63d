//! A cheap look at latents: one multiplication a pixel instead of the decoder.

use crate::pixels::Pixels;

/// A colour from -1 to 1.
pub type Colour = [f32; 3];

/// The linear map from a latent pixel to a colour that is nearest to what the decoder does around zero.
#[derive(Clone, Debug)]
pub struct Projection {
    /// One colour for each channel.
    weights: Vec<Colour>,
    bias: Colour,
}

impl Projection {
    /// Measures a decoder by how much each channel alone changes the colour of an even image: `colour` decodes one whose
    /// every latent pixel has these values and gives the mean.
    ///
    /// # Errors
    /// What `colour` fails with.
    pub fn measure<E>(
        channels: usize,
        mut colour: impl FnMut(&[f32]) -> Result<Colour, E>,
    ) -> Result<Self, E> {
        let mut values = vec![0.0; channels];
        let bias = colour(&values)?;
        let mut weights = Vec::with_capacity(channels);
        for channel in 0..channels {
            values[channel] = 1.0;
            let above = colour(&values)?;
            values[channel] = -1.0;
            let below = colour(&values)?;
            values[channel] = 0.0;
            weights.push([0, 1, 2].map(|i| (above[i] - below[i]) * 0.5));
        }
        Ok(Self { weights, bias })
    }

    /// An image with one pixel for each pixel of latents (channels, height, width).
    ///
    /// # Panics
    /// When there are fewer latents than the size says.
    pub fn apply(&self, latents: &[f32], height: u32, width: u32) -> Option<Pixels> {
        let pixels = height as usize * width as usize;
        let colour = |pixel: usize| {
            let mut colour = self.bias;
            for (channel, weight) in self.weights.iter().enumerate() {
                let value = latents[channel * pixels + pixel];
                for (sum, weight) in colour.iter_mut().zip(weight) {
                    *sum += weight * value;
                }
            }
            colour.map(level)
        };
        Pixels::new(width, height, (0..pixels).flat_map(colour).collect()).ok()
    }
}

/// A number from -1 to 1 as a byte, rounded as diffusers' `VaeImageProcessor` rounds.
pub fn level(value: f32) -> u8 {
    ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn a_linear_decoder_is_measured_exactly() {
        let decoder = |values: &[f32]| Ok::<_, Infallible>([values[0] * 0.5, -values[1], 0.25]);
        let Ok(projection) = Projection::measure(2, decoder);
        let pixels = projection.apply(&[1.0, -1.0, 0.5, 0.0], 1, 2).unwrap();
        let expected: Vec<u8> = [[0.5, -0.5, 0.25], [-0.5, 0.0, 0.25]]
            .iter()
            .flatten()
            .map(|&value| level(value))
            .collect();
        assert_eq!(pixels.rgb(), expected);
    }
}
