//! Classifier-free guidance as `ZImagePipeline` computes it.

use crate::decimal;
use candle_core::{Result, Tensor};
use zimage_core::request::{CfgNormalization, ImageRequest};

/// How the predictions for the prompt and the negative prompt are joined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Guidance {
    scale: f64,
    normalization: CfgNormalization,
    truncation: f64,
}

impl Guidance {
    /// The request's guidance. `None` when its scale asks for none.
    pub(crate) fn of(request: &ImageRequest) -> Option<Self> {
        (request.guidance_scale > 0.0).then(|| Self {
            scale: f64::from(request.guidance_scale),
            normalization: request.cfg_normalization,
            truncation: decimal::written(request.cfg_truncation),
        })
    }

    /// Whether there is guidance at a time from 0 (noise) to 1. A truncation above 1 never ends it.
    pub(crate) fn applies_at(&self, time: f32) -> bool {
        self.truncation > 1.0 || f64::from(time) <= self.truncation
    }

    /// The guided prediction: `positive + scale * (positive - negative)`, its norm clamped if asked for.
    pub(crate) fn join(&self, positive: &Tensor, negative: &Tensor) -> Result<Tensor> {
        let guided = (positive + ((positive - negative)? * self.scale)?)?;
        match self.normalization {
            CfgNormalization::Clamp(factor) if factor > 0.0 => {
                let most = norm(positive)? * f64::from(factor);
                let actual = norm(&guided)?;
                if actual > most {
                    guided * (most / actual)
                } else {
                    Ok(guided)
                }
            }
            _ => Ok(guided),
        }
    }
}

/// Euclidean norm of all elements.
fn norm(x: &Tensor) -> Result<f64> {
    let values = x.flatten_all()?.to_vec1::<f32>()?;
    Ok(values
        .iter()
        .map(|&value| f64::from(value) * f64::from(value))
        .sum::<f64>()
        .sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn guidance(normalization: CfgNormalization, truncation: f64) -> Guidance {
        Guidance {
            scale: 2.0,
            normalization,
            truncation,
        }
    }

    fn join(normalization: CfgNormalization) -> Vec<f32> {
        let positive = Tensor::new(&[3f32, 4.0], &Device::Cpu).unwrap();
        let negative = Tensor::new(&[2f32, 4.0], &Device::Cpu).unwrap();
        guidance(normalization, 1.0)
            .join(&positive, &negative)
            .unwrap()
            .to_vec1()
            .unwrap()
    }

    #[test]
    fn guidance_adds_the_scaled_difference_to_the_positive_prediction() {
        assert_eq!(join(CfgNormalization::Off), [5.0, 4.0]);
    }

    #[test]
    fn clamp_keeps_the_norm_below_a_multiple_of_the_positive_predictions() {
        let clamped = join(CfgNormalization::Clamp(1.0));
        assert!((clamped[0].hypot(clamped[1]) - 5.0).abs() < 1e-6);
        assert_eq!(join(CfgNormalization::Clamp(2.0)), [5.0, 4.0]);
    }

    #[test]
    fn guidance_ends_behind_the_truncation_but_never_with_one_above_1() {
        let truncated = guidance(CfgNormalization::Off, 0.5);
        assert!(truncated.applies_at(0.5) && !truncated.applies_at(0.51));
        assert!(guidance(CfgNormalization::Off, 1.5).applies_at(1.0));
    }

    #[test]
    fn truncation_is_compared_as_the_decimal_that_was_written() {
        assert!(!guidance(CfgNormalization::Off, decimal::written(0.6)).applies_at(0.6));
    }
}
