//! What a request must hold before anything is computed for it.

use crate::executor::ExecutorError;
use crate::limits::{Limits, SIDE_MULTIPLE};
use crate::pixels::Pixels;
use crate::request::{Control, ImageRequest, InitImage};
use crate::start_image::first_step;

/// More steps than any use; each costs a forward.
const MAX_STEPS: u32 = 1000;

fn invalid(field: &'static str, message: String) -> ExecutorError {
    ExecutorError::InvalidRequest { field, message }
}

/// Checks a request against a model that knows `rows` x `columns` patches at most.
///
/// # Errors
/// [`ExecutorError::InvalidRequest`] for the first field at fault.
pub fn check(request: &ImageRequest, rows: usize, columns: usize) -> Result<(), ExecutorError> {
    let pixels = |patches: usize| {
        let patches = u32::try_from(patches).unwrap_or(u32::MAX);
        patches.saturating_mul(SIDE_MULTIPLE)
    };
    let limits = Limits {
        min_side: SIDE_MULTIPLE,
        max_width: pixels(columns),
        max_height: pixels(rows),
        max_pixels: u64::MAX,
        max_steps: MAX_STEPS,
        ..Limits::default()
    };
    limits
        .check(request)
        .map_err(|fault| invalid(fault.field, fault.message))?;
    if request.noise.index >= request.noise.count {
        let (index, count) = (request.noise.index, request.noise.count);
        return Err(invalid(
            "noise",
            format!("there is no image {index} in a request of {count} images"),
        ));
    }
    if let Some(init) = &request.init {
        check_init(request, init)?;
    }
    if let Some(control) = &request.control {
        check_control(request, control)?;
    }
    Ok(())
}

/// Refuses a control image for an executor that has no ControlNet.
///
/// # Errors
/// [`ExecutorError::InvalidRequest`], which says what to do.
pub fn refuse_control(request: &ImageRequest) -> Result<(), ExecutorError> {
    match request.control {
        None => Ok(()),
        Some(_) => Err(invalid(
            "control_image",
            "this server has no ControlNet to follow control_image: start it with --device cpu and --controlnet, or leave the image out"
                .to_owned(),
        )),
    }
}

fn check_control(request: &ImageRequest, control: &Control) -> Result<(), ExecutorError> {
    check_pixels(request, "control_image", "control image", &control.pixels)?;
    match &request.init {
        None => Ok(()),
        Some(init) if init.mask.is_none() => {
            let message =
                "a ControlNet starts from no image: give a mask too, or leave the image out";
            Err(invalid("mask", message.to_owned()))
        }
        Some(init) if init.strength == 1.0 => Ok(()),
        Some(init) => {
            let strength = init.strength;
            let message = format!("strength is {strength}; with a control image it must be 1");
            Err(invalid("strength", message))
        }
    }
}

fn check_init(request: &ImageRequest, init: &InitImage) -> Result<(), ExecutorError> {
    if !(init.strength > 0.0 && init.strength <= 1.0) {
        let strength = init.strength;
        return Err(invalid(
            "strength",
            format!("strength is {strength}; it must be above 0 and at most 1"),
        ));
    }
    let (steps, strength) = (request.num_inference_steps, init.strength);
    if first_step(steps, strength) >= steps {
        return Err(invalid(
            "strength",
            format!("strength is {strength}, which leaves none of the {steps} steps; raise it"),
        ));
    }
    check_pixels(request, "image", "image", &init.pixels)?;
    match &init.mask {
        Some(mask) => check_pixels(request, "mask", "mask", mask),
        None => Ok(()),
    }
}

fn check_pixels(
    request: &ImageRequest,
    field: &'static str,
    name: &str,
    pixels: &Pixels,
) -> Result<(), ExecutorError> {
    let (width, height) = (pixels.width(), pixels.height());
    if (width, height) == (request.width, request.height) {
        return Ok(());
    }
    let wanted = format!("{}x{}", request.width, request.height);
    let message = format!("the {name} has {width}x{height} pixels; {wanted} are needed");
    Err(invalid(field, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn request(width: u32, height: u32) -> ImageRequest {
        ImageRequest::plain("", (width, height))
    }

    fn message(request: &ImageRequest) -> String {
        check(request, 512, 512).unwrap_err().to_string()
    }

    #[test]
    fn sizes_that_are_multiples_of_16_are_valid() {
        for (width, height) in [(16, 16), (1024, 720), (8192, 16)] {
            assert_eq!(check(&request(width, height), 512, 512), Ok(()));
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
            (32, 64, 0.5, "the image has 32x64 pixels; 64x64 are needed"),
            (64, 32, 0.5, "the mask has 32x64 pixels; 64x64 are needed"),
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
            (32, 0.75, None, "the control image has 32x64 pixels"),
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
        assert_eq!(check(&followed, 512, 512), Ok(()));
        let refused = refuse_control(&followed).unwrap_err().to_string();
        assert!(
            refused.contains("with --device cpu and --controlnet"),
            "{refused}"
        );
    }
}
