//! Which requests are taken at all, whatever the device.

use crate::request::ImageRequest;
use std::fmt::Display;
use std::ops::RangeInclusive;

/// Pixels that a side is a multiple of: the VAE halves three times, the transformer's patches once more.
pub const SIDE_MULTIPLE: u32 = 16;

/// A request that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidRequest {
    /// Field of the request at fault, by its name in the API.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}

impl InvalidRequest {
    /// A fault of one field.
    pub fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self {
            field,
            message: message.into(),
        }
    }
}

/// Bounds of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Shortest side in pixels.
    pub min_side: u32,
    /// Largest width in pixels.
    pub max_width: u32,
    /// Largest height in pixels.
    pub max_height: u32,
    /// Largest area in pixels.
    pub max_pixels: u64,
    /// Most denoising steps.
    pub max_steps: u32,
    /// Largest guidance scale.
    pub max_guidance_scale: f32,
    /// Largest factor of `cfg_normalization`.
    pub max_cfg_normalization: f32,
    /// Largest conditioning scale of a control image.
    pub max_conditioning_scale: f32,
    /// Most images of one request.
    pub max_images: u32,
    /// Highest cost of a request, in forwards x megapixels: see [`crate::cost`].
    pub max_cost: u32,
    /// Most condition images of one image.
    pub max_references: usize,
    /// Most pixels of the condition images together, so that small files never take much memory.
    pub max_reference_pixels: u64,
    /// Longest prompt in bytes. The text encoder sees 512 tokens of it; this bounds what is tokenized.
    pub max_prompt_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            min_side: 64,
            max_width: 4096,
            max_height: 4096,
            max_pixels: 2048 * 2048,
            max_steps: 100,
            max_guidance_scale: 20.0,
            max_cfg_normalization: 100.0,
            max_conditioning_scale: 2.0,
            max_images: 10,
            // Ten of the largest Base images: nine minutes of an H100.
            max_cost: 4000,
            max_references: 4,
            max_reference_pixels: 2048 * 2048,
            max_prompt_bytes: 32 << 10,
        }
    }
}

impl Limits {
    /// Images of one request.
    pub const fn images(&self) -> RangeInclusive<u32> {
        1..=self.max_images
    }

    /// Denoising steps.
    pub const fn num_inference_steps(&self) -> RangeInclusive<u32> {
        1..=self.max_steps
    }

    /// Guidance scales.
    pub const fn guidance_scale(&self) -> RangeInclusive<f32> {
        0.0..=self.max_guidance_scale
    }

    /// Factors of `cfg_normalization`; 0 is none.
    pub const fn cfg_normalization(&self) -> RangeInclusive<f32> {
        0.0..=self.max_cfg_normalization
    }

    /// Normalised times above which there is no guidance.
    pub const fn cfg_truncation(&self) -> RangeInclusive<f32> {
        0.0..=1.0
    }

    /// Shares of a start image that are replaced. That a step must be left is for the request to say.
    pub const fn strength(&self) -> RangeInclusive<f32> {
        0.0..=1.0
    }

    /// Conditioning scales of a control image.
    pub const fn conditioning_scale(&self) -> RangeInclusive<f32> {
        0.0..=self.max_conditioning_scale
    }

    /// Checks one image, apart from the images that it comes with.
    ///
    /// # Errors
    /// Names the first field at fault.
    pub fn check<I>(&self, request: &ImageRequest<I>) -> Result<(), InvalidRequest> {
        self.check_side("width", request.width, self.max_width)?;
        self.check_side("height", request.height, self.max_height)?;
        let pixels = u64::from(request.width) * u64::from(request.height);
        if pixels > self.max_pixels {
            let message = format!(
                "an image has at most {} pixels, this one {pixels}",
                self.max_pixels
            );
            return Err(InvalidRequest::new("size", message));
        }
        for (field, prompt) in [
            ("prompt", &request.prompt),
            ("negative_prompt", &request.negative_prompt),
        ] {
            if prompt.len() > self.max_prompt_bytes {
                let message = format!(
                    "{field} has {} bytes, at most {} are taken",
                    prompt.len(),
                    self.max_prompt_bytes
                );
                return Err(InvalidRequest::new(field, message));
            }
        }
        let steps = request.num_inference_steps;
        within("num_inference_steps", steps, self.num_inference_steps())?;
        if request.references.len() > self.max_references {
            let message = format!(
                "references has {} images, at most {} are taken",
                request.references.len(),
                self.max_references
            );
            return Err(InvalidRequest::new("references", message));
        }
        self.check_guidance(request)
    }

    /// Checks how many images a request asks for.
    ///
    /// # Errors
    /// Says how many are taken.
    pub fn check_images(&self, count: u32) -> Result<(), InvalidRequest> {
        within("n", count, self.images())
    }

    fn check_guidance<I>(&self, request: &ImageRequest<I>) -> Result<(), InvalidRequest> {
        let normalization = request.cfg_normalization.factor();
        let conditioning = request.control.as_ref();
        let conditioning = conditioning.map_or(0.0, |control| control.conditioning_scale);
        for (field, value, range) in [
            (
                "guidance_scale",
                request.guidance_scale,
                self.guidance_scale(),
            ),
            ("cfg_normalization", normalization, self.cfg_normalization()),
            (
                "cfg_truncation",
                request.cfg_truncation,
                self.cfg_truncation(),
            ),
            (
                "controlnet_conditioning_scale",
                conditioning,
                self.conditioning_scale(),
            ),
        ] {
            within(field, value, range)?;
        }
        Ok(())
    }

    fn check_side(&self, field: &'static str, side: u32, most: u32) -> Result<(), InvalidRequest> {
        within(field, side, self.min_side..=most)?;
        if !side.is_multiple_of(SIDE_MULTIPLE) {
            let below = side / SIDE_MULTIPLE * SIDE_MULTIPLE;
            let above = below + SIDE_MULTIPLE;
            let nearest = [below, above].map(|side| side.clamp(self.min_side, most));
            let message = format!(
                "{field} is a multiple of {SIDE_MULTIPLE}: {} or {}, not {side}",
                nearest[0], nearest[1]
            );
            return Err(InvalidRequest::new(field, message));
        }
        Ok(())
    }
}

/// A range holds no NaN, so none passes.
fn within<T: PartialOrd + Display>(
    field: &'static str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), InvalidRequest> {
    if range.contains(&value) {
        return Ok(());
    }
    let (least, most) = range.into_inner();
    let message = format!("{field} is from {least} to {most}, not {value}");
    Err(InvalidRequest::new(field, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::Pixels;
    use crate::request::{CfgNormalization, Control};
    use std::sync::Arc;

    fn request(width: u32, height: u32) -> ImageRequest {
        ImageRequest::plain("a fox", (width, height))
    }

    fn fault(request: &ImageRequest) -> Option<(&'static str, String)> {
        let fault = Limits::default().check(request).err()?;
        Some((fault.field, fault.message))
    }

    #[test]
    fn usual_sizes_are_taken() {
        for (width, height) in [
            (64, 64),
            (1024, 1024),
            (2048, 2048),
            (4096, 1024),
            (1280, 720),
        ] {
            assert_eq!(fault(&request(width, height)), None, "{width}x{height}");
        }
    }

    #[test]
    fn another_size_is_refused_with_the_nearest_ones() {
        let (field, message) = fault(&request(1000, 1024)).unwrap();
        assert_eq!(field, "width");
        assert!(message.contains("992 or 1008"), "{message}");
    }

    #[test]
    fn sides_areas_steps_and_prompts_have_bounds() {
        assert_eq!(fault(&request(48, 64)).unwrap().0, "width");
        assert_eq!(fault(&request(64, 4112)).unwrap().0, "height");
        assert_eq!(fault(&request(4096, 4096)).unwrap().0, "size");
        let long = ImageRequest {
            prompt: "x".repeat(40_000),
            ..request(64, 64)
        };
        assert_eq!(fault(&long).unwrap().0, "prompt");
        for steps in [0, 101] {
            let request = ImageRequest {
                num_inference_steps: steps,
                ..request(64, 64)
            };
            assert_eq!(fault(&request).unwrap().0, "num_inference_steps");
        }
    }

    #[test]
    fn condition_images_are_counted() {
        let pixels = std::sync::Arc::new(crate::pixels::Pixels::new(1, 1, vec![0; 3]).unwrap());
        let mut request = request(64, 64);
        request.references = vec![pixels; 4];
        assert_eq!(fault(&request), None);
        request.references.push(request.references[0].clone());
        assert_eq!(fault(&request).unwrap().0, "references");
    }

    #[test]
    fn guidance_is_finite_and_has_bounds() {
        for scale in [-0.1, 20.5, f32::NAN, f32::INFINITY] {
            let request = ImageRequest {
                guidance_scale: scale,
                ..request(64, 64)
            };
            assert_eq!(fault(&request).unwrap().0, "guidance_scale", "{scale}");
        }
        let truncated = ImageRequest {
            cfg_truncation: 1.5,
            ..request(64, 64)
        };
        assert_eq!(fault(&truncated).unwrap().0, "cfg_truncation");
        let clamped = ImageRequest {
            cfg_normalization: CfgNormalization::Clamp(f32::NAN),
            ..request(64, 64)
        };
        assert_eq!(fault(&clamped).unwrap().0, "cfg_normalization");
    }

    #[test]
    fn conditioning_scale_has_bounds() {
        for (scale, taken) in [(0.0, true), (2.0, true), (2.1, false), (f32::NAN, false)] {
            let pixels = Arc::new(Pixels::new(64, 64, vec![0; 64 * 64 * 3]).unwrap());
            let control = Some(Control {
                pixels,
                conditioning_scale: scale,
            });
            let fault = fault(&ImageRequest {
                control,
                ..request(64, 64)
            });
            let expected = (!taken).then_some("controlnet_conditioning_scale");
            assert_eq!(fault.map(|(field, _)| field), expected, "{scale}");
        }
    }
}
