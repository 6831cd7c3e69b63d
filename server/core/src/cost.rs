//! What a request costs, before anything is known of the device.
//!
//! The unit is one forward of the transformer over a megapixel (2^20 pixels), which takes about 91 ms on an H100 at
//! 1024x1024 and 129 ms at 2048x2048, where attention weighs more. A Turbo image of 1024x1024 costs 8, a Base image 100.

use crate::limits::{InvalidRequest, Limits};
use crate::pace::Work;
use crate::request::ImageRequest;

const MEGAPIXEL: f64 = (1 << 20) as f64;

/// The cost of one image.
fn of_image<I>(request: &ImageRequest<I>) -> f64 {
    let work = Work::of(request);
    let pixels = f64::from(request.width) * f64::from(request.height);
    f64::from(work.steps) * f64::from(work.forwards) * pixels / MEGAPIXEL
}

impl Limits {
    /// Checks what `images` images like this one cost together.
    ///
    /// # Errors
    /// Names the limit, the cost, and what would fit.
    pub fn check_cost<I>(
        &self,
        request: &ImageRequest<I>,
        images: u32,
    ) -> Result<(), InvalidRequest> {
        let most = f64::from(self.max_cost);
        let (one, count) = (of_image(request), f64::from(images));
        if one * count <= most {
            return Ok(());
        }
        let fitting = (most / one) as u32;
        let steps = (f64::from(request.num_inference_steps) * most / one) as u32;
        let (field, way_out) = if fitting > 0 {
            ("n", format!("ask for at most {fitting} of them"))
        } else if steps > 0 {
            (
                "num_inference_steps",
                format!("ask for at most {steps} steps"),
            )
        } else {
            ("size", "ask for a smaller image".to_owned())
        };
        let message = format!(
            "{images} images of {}x{} in {} steps cost {:.0} forwards x megapixels, at most {} are taken: {way_out}",
            request.width,
            request.height,
            request.num_inference_steps,
            one * count,
            self.max_cost
        );
        Err(InvalidRequest::new(field, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(side: u32, steps: u32, guidance: f32) -> ImageRequest {
        ImageRequest {
            num_inference_steps: steps,
            guidance_scale: guidance,
            ..ImageRequest::plain("a fox", (side, side))
        }
    }

    fn limits(max_cost: u32) -> Limits {
        Limits {
            max_cost,
            ..Limits::default()
        }
    }

    #[test]
    fn a_turbo_image_costs_8_and_a_base_image_100() {
        assert_eq!(of_image(&request(1024, 8, 0.0)), 8.0);
        assert_eq!(of_image(&request(1024, 50, 5.0)), 100.0);
        assert_eq!(of_image(&request(2048, 50, 5.0)), 400.0);
    }

    #[test]
    fn ten_of_the_largest_images_with_the_models_defaults_are_taken_and_twice_the_steps_not() {
        assert_eq!(limits(4000).check_cost(&request(2048, 50, 5.0), 10), Ok(()));
        let refused = Limits::default().check_cost(&request(2048, 100, 5.0), 10);
        let refused = refused.unwrap_err();
        assert_eq!(refused.field, "n");
        assert!(refused.message.contains("cost 8000"), "{refused}");
        assert!(refused.message.contains("at most 4000"), "{refused}");
        assert!(refused.message.contains("at most 5 of them"), "{refused}");
    }

    #[test]
    fn an_image_that_is_too_dear_alone_is_told_the_steps_that_fit() {
        let refused = limits(100)
            .check_cost(&request(2048, 50, 5.0), 2)
            .unwrap_err();
        assert_eq!(refused.field, "num_inference_steps");
        assert!(refused.message.ends_with("at most 12 steps"), "{refused}");
        let refused = limits(1).check_cost(&request(2048, 1, 5.0), 1).unwrap_err();
        assert_eq!(refused.field, "size");
    }

    proptest! {
        #[test]
        fn what_an_error_proposes_is_taken(side in 4_u32..128, steps in 1_u32..100, images in 1_u32..10, most in 1_u32..500) {
            let (asked, limits) = (request(side * 16, steps, 5.0), limits(most));
            if let Err(refused) = limits.check_cost(&asked, images) {
                let proposed = refused.message.split("ask for at most ").nth(1);
                let number = proposed.and_then(|text| text.split(' ').next()?.parse().ok());
                match (refused.field, number) {
                    ("n", Some(images)) => prop_assert_eq!(limits.check_cost(&asked, images), Ok(())),
                    ("num_inference_steps", Some(steps)) => {
                        prop_assert_eq!(limits.check_cost(&request(side * 16, steps, 5.0), 1), Ok(()));
                    }
                    (field, _) => prop_assert_eq!(field, "size"),
                }
            }
        }
    }
}
