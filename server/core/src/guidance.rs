//! Classifier-free guidance as `ZImagePipeline` asks for it.

use crate::decimal;
use crate::request::{CfgNormalization, ImageRequest};

/// How the predictions for the prompt and the negative prompt are joined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// Factor on their difference, which is added to the prediction for the prompt.
    pub scale: f64,
    /// Limit on the guided prediction's norm.
    pub normalization: CfgNormalization,
    truncation: f64,
}

impl Guidance {
    /// The request's guidance. `None` when its scale asks for none.
    pub fn of<I>(request: &ImageRequest<I>) -> Option<Self> {
        (request.guidance_scale > 0.0).then(|| {
            Self::new(
                f64::from(request.guidance_scale),
                request.cfg_normalization,
                decimal::written(request.cfg_truncation),
            )
        })
    }

    /// `truncation` is the last time with guidance; one above 1 never ends it.
    pub const fn new(scale: f64, normalization: CfgNormalization, truncation: f64) -> Self {
        Self {
            scale,
            normalization,
            truncation,
        }
    }

    /// Whether there is guidance at a time from 0 (noise) to 1.
    pub fn applies_at(&self, time: f32) -> bool {
        self.truncation > 1.0 || f64::from(time) <= self.truncation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: CfgNormalization = CfgNormalization::Off;

    #[test]
    fn guidance_ends_behind_the_truncation_but_never_with_one_above_1() {
        let truncated = Guidance::new(2.0, OFF, 0.5);
        assert!(truncated.applies_at(0.5) && !truncated.applies_at(0.51));
        assert!(Guidance::new(2.0, OFF, 1.5).applies_at(1.0));
    }

    #[test]
    fn truncation_is_compared_as_the_decimal_that_was_written() {
        assert!(!Guidance::new(2.0, OFF, decimal::written(0.6)).applies_at(0.6));
    }
}
