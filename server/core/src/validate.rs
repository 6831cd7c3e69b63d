//! What a request must hold before anything is computed for it.

use crate::executor::ExecutorError;
use crate::limits::{InvalidRequest, Limits, SIDE_MULTIPLE};
use crate::request::{ImageRequest, InitImage};
use crate::rotary::SEQUENCE_MULTIPLE;
use crate::start_image::first_step;

/// More steps than any use; each costs a forward.
const MAX_STEPS: u32 = 1000;

/// What a model has positions for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelLimits {
    /// Tokens of a caption, which is padded to a multiple of [`SEQUENCE_MULTIPLE`].
    pub caption: usize,
    /// Rows of patches.
    pub rows: usize,
    /// Columns of patches.
    pub columns: usize,
}

impl ModelLimits {
    /// Of the positions that the rotary embedding's axes have. The image has a frame of its own after the caption.
    pub fn of_axes(lens: &[usize]) -> Self {
        let frames = lens[0].saturating_sub(2);
        Self {
            caption: frames / SEQUENCE_MULTIPLE * SEQUENCE_MULTIPLE,
            rows: lens[1],
            columns: lens[2],
        }
    }

    /// Checks how many tokens the prompt of a field has.
    ///
    /// # Errors
    /// Names the field, and says how many the model computes.
    pub fn check_prompt(&self, field: &'static str, tokens: usize) -> Result<(), InvalidRequest> {
        let message = match tokens {
            0 => "the chat template made no text of the prompt".to_owned(),
            _ if tokens > self.caption => format!(
                "{field} has {tokens} tokens; this model computes at most {}",
                self.caption
            ),
            _ => return Ok(()),
        };
        Err(InvalidRequest::new(field, message))
    }
}

/// Checks a request against what a model can compute.
///
/// # Errors
/// [`ExecutorError::InvalidRequest`] for the first field at fault.
pub fn check(request: &ImageRequest, model: &ModelLimits) -> Result<(), ExecutorError> {
    let pixels = |patches: usize| {
        let patches = u32::try_from(patches).unwrap_or(u32::MAX);
        patches.saturating_mul(SIDE_MULTIPLE)
    };
    let limits = Limits {
        min_side: SIDE_MULTIPLE,
        max_width: pixels(model.columns),
        max_height: pixels(model.rows),
        max_pixels: u64::MAX,
        max_steps: MAX_STEPS,
        ..Limits::default()
    };
    limits.check(request)?;
    if request.noise.index >= request.noise.count {
        let (index, count) = (request.noise.index, request.noise.count);
        let message = format!("there is no image {index} in a request of {count} images");
        return Err(InvalidRequest::new("noise", message).into());
    }
    check_inputs(request)?;
    Ok(request.check_sizes()?)
}

/// Refuses a control image for an executor that has no ControlNet.
///
/// # Errors
/// [`ExecutorError::InvalidRequest`], which says what to do.
pub fn refuse_control(request: &ImageRequest) -> Result<(), ExecutorError> {
    match request.control {
        None => Ok(()),
        Some(_) => Err(InvalidRequest::new(
            "control_image",
            "this server has no ControlNet to follow control_image: start it with --device cpu and --controlnet, or leave the image out",
        )
        .into()),
    }
}

/// Checks what the images that come with a request are to do, before they are read.
pub(crate) fn check_inputs<I>(request: &ImageRequest<I>) -> Result<(), InvalidRequest> {
    let Some(init) = &request.init else {
        return Ok(());
    };
    check_strength(request.num_inference_steps, init.strength)?;
    match request.control {
        Some(_) => check_inpainting(init),
        None => Ok(()),
    }
}

/// With a ControlNet nothing starts from the image: the ControlNet sees what the mask keeps of it.
fn check_inpainting<I>(init: &InitImage<I>) -> Result<(), InvalidRequest> {
    let (field, message) = if init.mask.is_none() {
        let message = "a ControlNet starts from no image: give a mask too, or leave the image out";
        ("mask", message.to_owned())
    } else if init.strength != 1.0 {
        let strength = init.strength;
        let message = format!("strength is {strength}; with a control image it must be 1");
        ("strength", message)
    } else {
        return Ok(());
    };
    Err(InvalidRequest::new(field, message))
}

fn check_strength(steps: u32, strength: f32) -> Result<(), InvalidRequest> {
    let message = if !(strength > 0.0 && strength <= 1.0) {
        format!("strength is {strength}; it must be above 0 and at most 1")
    } else if first_step(steps, strength) >= steps {
        format!("strength is {strength}, which leaves none of the {steps} steps; raise it")
    } else {
        return Ok(());
    };
    Err(InvalidRequest::new("strength", message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::Pixels;
    use crate::request::Control;
    use std::sync::Arc;

    fn request(width: u32, height: u32) -> ImageRequest {
        ImageRequest::plain("", (width, height))
    }

    const MODEL: ModelLimits = ModelLimits {
        caption: 1536,
        rows: 512,
        columns: 512,
    };

    #[test]
    fn a_prompt_has_as_many_tokens_as_the_caption_when_it_is_padded() {
        let limits = ModelLimits::of_axes(&[100, 7, 8]);
        assert_eq!((limits.caption, limits.rows, limits.columns), (96, 7, 8));
        assert_eq!(limits.check_prompt("prompt", 96), Ok(()));
        let refused = limits.check_prompt("negative_prompt", 97).unwrap_err();
        assert_eq!(refused.field, "negative_prompt");
        assert!(refused.message.ends_with("at most 96"), "{refused}");
        assert!(limits.check_prompt("prompt", 0).is_err());
    }

    fn message(request: &ImageRequest) -> String {
        check(request, &MODEL).unwrap_err().to_string()
    }

    #[test]
    fn sizes_that_are_multiples_of_16_are_valid() {
        for (width, height) in [(16, 16), (1024, 720), (8192, 16)] {
            assert_eq!(check(&request(width, height), &MODEL), Ok(()));
        }
    }

    #[test]
    fn other_sizes_are_refused_with_the_nearest_valid_ones() {
        assert_eq!(
            message(&request(1000, 512)),
            "width is a multiple of 16: 992 or 1008, not 1000"
        );
        assert_eq!(
            message(&request(512, 8)),
            "height is from 16 to 8192, not 8"
        );
        assert_eq!(
            message(&request(8200, 512)),
            "width is from 16 to 8192, not 8200"
        );
        assert_eq!(
            message(&request(u32::MAX, 512)),
            "width is from 16 to 8192, not 4294967295"
        );
    }

    #[test]
    fn numbers_that_cannot_be_computed_with_are_refused() {
        let mut steps = request(64, 64);
        steps.num_inference_steps = 0;
        assert!(message(&steps).contains("num_inference_steps is from 1 to 1000"));
        let mut scale = request(64, 64);
        scale.guidance_scale = f32::NAN;
        assert!(message(&scale).contains("guidance_scale is from 0 to 20, not NaN"));
        let mut index = request(64, 64);
        index.noise.index = 1;
        assert!(message(&index).contains("no image 1 in a request of 1"));
    }

    #[test]
    fn start_image_must_have_the_requests_size_and_a_strength() {
        let pixels = |width: u32| {
            Arc::new(Pixels::new(width, 64, vec![0; width as usize * 64 * 3]).unwrap())
        };
        let mut start = request(64, 64);
        for (image, mask, strength, expected) in [
            (
                32,
                64,
                0.5,
                "image has 32x64 pixels; the size asked for, 64x64, is needed",
            ),
            (
                64,
                32,
                0.5,
                "mask has 32x64 pixels; the size asked for, 64x64, is needed",
            ),
            (64, 64, 0.0, "strength is 0; it must be above 0"),
            (64, 64, f32::NAN, "strength is NaN"),
            (64, 64, 1e-30, "leaves none of the 8 steps"),
        ] {
            let (pixels, mask) = (pixels(image), Some(pixels(mask)));
            start.init = Some(InitImage {
                pixels,
                strength,
                mask,
            });
            assert!(message(&start).contains(expected), "{expected}");
        }
    }

    #[test]
    fn control_image_has_the_requests_size_and_excludes_a_part_of_the_schedule() {
        let pixels = |width: u32| {
            Arc::new(Pixels::new(width, 64, vec![0; width as usize * 64 * 3]).unwrap())
        };
        let mut followed = request(64, 64);
        let init = |strength, masked: bool| {
            Some(InitImage {
                pixels: pixels(64),
                strength,
                mask: masked.then(|| pixels(64)),
            })
        };
        for (width, scale, init, expected) in [
            (32, 0.75, None, "control_image has 32x64 pixels"),
            (64, f32::NAN, None, "controlnet_conditioning_scale is from"),
            (64, 0.75, init(1.0, false), "starts from no image"),
            (64, 0.75, init(0.6, true), "strength is 0.6; with a control"),
        ] {
            followed.init = init;
            followed.control = Some(Control {
                pixels: pixels(width),
                conditioning_scale: scale,
            });
            assert!(message(&followed).contains(expected), "{expected}");
        }
        followed.init = init(1.0, true);
        assert_eq!(check(&followed, &MODEL), Ok(()));
        let refused = refuse_control(&followed).unwrap_err().to_string();
        assert!(
            refused.contains("with --device cpu and --controlnet"),
            "{refused}"
        );
    }
}
