//! Classifier-free guidance as `ZImagePipeline` computes it.

use candle_core::{Result, Tensor};
use zimage_core::guidance::Guidance;
use zimage_core::request::CfgNormalization;

/// The guided prediction: `positive + scale * (positive - negative)`, its norm clamped if asked for.
pub(crate) fn join(guidance: &Guidance, positive: &Tensor, negative: &Tensor) -> Result<Tensor> {
    let guided = (positive + ((positive - negative)? * guidance.scale)?)?;
    match guidance.normalization {
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

    fn join(normalization: CfgNormalization) -> Vec<f32> {
        let positive = Tensor::new(&[3f32, 4.0], &Device::Cpu).unwrap();
        let negative = Tensor::new(&[2f32, 4.0], &Device::Cpu).unwrap();
        super::join(
            &Guidance::new(2.0, normalization, 1.0),
            &positive,
            &negative,
        )
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
}
