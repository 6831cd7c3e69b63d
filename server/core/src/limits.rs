//! Which requests are taken at all, whatever the device.

use crate::request::{CfgNormalization, ImageRequest};

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
    /// Largest conditioning scale of a control image.
    pub max_conditioning_scale: f32,
    /// Most images of one request.
    pub max_images: u32,
    /// Highest cost of a request, in forwards x megapixels: see [`crate::cost`].
    pub max_cost: u32,
    /// Most condition images of one image.
    pub max_references: usize,
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
            max_conditioning_scale: 2.0,
            max_images: 10,
            // Ten of the largest Base images: nine minutes of an H100.
            max_cost: 4000,
            max_references: 4,
            max_prompt_bytes: 32 << 10,
        }
    }
}

impl Limits {
    /// Checks one image.
    ///
    /// # Errors
    /// Names the first field at fault.
    pub fn check(&self, request: &ImageRequest) -> Result<(), InvalidRequest> {
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
        if !(1..=self.max_steps).contains(&request.num_inference_steps) {
            let message = format!(
                "num_inference_steps is from 1 to {}, not {}",
                self.max_steps, request.num_inference_steps
            );
            return Err(InvalidRequest::new("num_inference_steps", message));
        }
        if request.references.len() > self.max_references {
            let message = format!(
                "an image has at most {} condition images, not {}",
                self.max_references,
                request.references.len()
            );
            return Err(InvalidRequest::new("references", message));
        }
        self.check_guidance(request)
    }

    /// A range holds no NaN, so none passes.
    fn check_guidance(&self, request: &ImageRequest) -> Result<(), InvalidRequest> {
        let normalization = match request.cfg_normalization {
            CfgNormalization::Off => 0.0,
            CfgNormalization::Clamp(factor) => factor,
        };
        let control = request.control.as_ref();
        for (field, value, most) in [
            (
                "guidance_scale",
                request.guidance_scale,
                self.max_guidance_scale,
            ),
            ("cfg_normalization", normalization, 100.0),
            ("cfg_truncation", request.cfg_truncation, 1.0),
            (
                "controlnet_conditioning_scale",
                control.map_or(0.0, |control| control.conditioning_scale),
                self.max_conditioning_scale,
            ),
        ] {
            if !(0.0..=most).contains(&value) {
                let message = format!("{field} is from 0 to {most}, not {value}");
                return Err(InvalidRequest::new(field, message));
            }
        }
        Ok(())
    }

    fn check_side(&self, field: &'static str, side: u32, most: u32) -> Result<(), InvalidRequest> {
        if !(self.min_side..=most).contains(&side) {
            let least = self.min_side;
            let message = format!("{field} is from {least} to {most}, not {side}");
            return Err(InvalidRequest::new(field, message));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::Pixels;
    use crate::request::Control;
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
