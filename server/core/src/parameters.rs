//! From what was asked to what is computed: the one place for defaults, bounds and seeds, for the command line and every
//! route alike.
//!
//! ```text
//! flags, JSON, …  ─▶ Parameters<I> ─ resolve ─▶ ImageRequest<I> ─ read ─▶ ImageRequest ─ images ─▶ one for each image
//! ```
//! `I` is an image file that nobody has opened yet: a path, base64, a part of a form. What can be refused without opening
//! one is refused before.

use crate::limits::{InvalidRequest, Limits};
use crate::request::{CfgNormalization, Control, ImageRequest, InitImage, Noise};
use crate::validate;
use crate::variant::Defaults;

/// Side in pixels of an image whose width or height is left out.
pub const DEFAULT_SIDE: u32 = 1024;

/// diffusers' `controlnet_conditioning_scale` where it is left out.
pub const DEFAULT_CONDITIONING_SCALE: f32 = 0.75;

/// What was asked for, under the names of the API; `None` was left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters<I> {
    /// What the images show.
    pub prompt: String,
    /// What they must not show.
    pub negative_prompt: Option<String>,
    /// Images to make of the prompt.
    pub n: Option<u32>,
    /// Width in pixels.
    pub width: Option<u32>,
    /// Height in pixels.
    pub height: Option<u32>,
    /// Seed of the noise, which the images share.
    pub seed: Option<u64>,
    /// Steps of the schedule.
    pub num_inference_steps: Option<u32>,
    /// diffusers' guidance scale; 0 means no guidance.
    pub guidance_scale: Option<f32>,
    /// Limit on the guided prediction's norm.
    pub cfg_normalization: Option<CfgNormalization>,
    /// Normalised time above which there is no guidance.
    pub cfg_truncation: Option<f32>,
    /// Image to start from.
    pub image: Option<I>,
    /// Where `image` is replaced (white) and kept (black).
    pub mask: Option<I>,
    /// Share of `image` that is replaced.
    pub strength: Option<f32>,
    /// Image for a ControlNet to follow.
    pub control_image: Option<I>,
    /// How strongly `control_image` is followed.
    pub controlnet_conditioning_scale: Option<f32>,
    /// Condition images for an Omni model.
    pub references: Vec<I>,
}

impl<I> Parameters<I> {
    /// A prompt, everything else left out.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self {
            prompt: prompt.into(),
            negative_prompt: None,
            n: None,
            width: None,
            height: None,
            seed: None,
            num_inference_steps: None,
            guidance_scale: None,
            cfg_normalization: None,
            cfg_truncation: None,
            image: None,
            mask: None,
            strength: None,
            control_image: None,
            controlnet_conditioning_scale: None,
            references: Vec::new(),
        }
    }

    /// Fills in what was left out, and checks everything but the image files. `random_seed` is taken where none was asked
    /// for. The request is that of the first image: see [`ImageRequest::images`].
    ///
    /// # Errors
    /// Names the first field at fault.
    pub fn resolve(
        self,
        defaults: Defaults,
        limits: &Limits,
        random_seed: u64,
    ) -> Result<ImageRequest<I>, InvalidRequest> {
        let control = control(self.control_image, self.controlnet_conditioning_scale)?;
        let init = init(self.image, self.mask, self.strength, control.is_some())?;
        let request = ImageRequest {
            prompt: self.prompt,
            negative_prompt: self.negative_prompt.unwrap_or_default(),
            width: self.width.unwrap_or(DEFAULT_SIDE),
            height: self.height.unwrap_or(DEFAULT_SIDE),
            num_inference_steps: self
                .num_inference_steps
                .unwrap_or(defaults.num_inference_steps),
            guidance_scale: self.guidance_scale.unwrap_or(defaults.guidance_scale),
            cfg_normalization: self.cfg_normalization.unwrap_or(CfgNormalization::Off),
            cfg_truncation: self.cfg_truncation.unwrap_or(1.0),
            noise: Noise {
                seed: self.seed.unwrap_or(random_seed),
                index: 0,
                count: self.n.unwrap_or(1),
            },
            init,
            references: self.references,
            control,
        };
        limits.check_images(request.noise.count)?;
        limits.check(&request)?;
        validate::check_inputs(&request)?;
        limits.check_cost(&request, request.noise.count)?;
        Ok(request)
    }
}

fn control<I>(image: Option<I>, scale: Option<f32>) -> Result<Option<Control<I>>, InvalidRequest> {
    match (image, scale) {
        (Some(pixels), scale) => Ok(Some(Control {
            pixels,
            conditioning_scale: scale.unwrap_or(DEFAULT_CONDITIONING_SCALE),
        })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(InvalidRequest::new(
            "controlnet_conditioning_scale",
            "controlnet_conditioning_scale needs control_image: there is nothing to follow",
        )),
    }
}

/// `followed` says that there is a control image too: nothing starts from the image then, and all of it is replaced.
fn init<I>(
    image: Option<I>,
    mask: Option<I>,
    strength: Option<f32>,
    followed: bool,
) -> Result<Option<InitImage<I>>, InvalidRequest> {
    let alone = |field| Err(InvalidRequest::new(field, format!("{field} needs image")));
    match (image, mask, strength) {
        (Some(pixels), mask, strength) => Ok(Some(InitImage {
            pixels,
            // diffusers' default without a ControlNet is 0.6.
            strength: strength.unwrap_or(if followed { 1.0 } else { 0.6 }),
            mask,
        })),
        (None, Some(_), _) => alone("mask"),
        (None, None, Some(_)) => alone("strength"),
        (None, None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variant::Variant;

    /// File names stand for image files.
    type Named = Parameters<&'static str>;

    fn resolve(parameters: Named) -> Result<ImageRequest<&'static str>, InvalidRequest> {
        parameters.resolve(Variant::Base.defaults(), &Limits::default(), 7)
    }

    fn resolved(parameters: Named) -> ImageRequest<&'static str> {
        resolve(parameters).unwrap()
    }

    fn refused(parameters: Named) -> &'static str {
        resolve(parameters).unwrap_err().field
    }

    #[test]
    fn what_is_left_out_is_the_models_default() {
        let request = resolved(Parameters::new("a fox"));
        assert_eq!((request.width, request.height), (1024, 1024));
        assert_eq!(
            (request.num_inference_steps, request.guidance_scale),
            (50, 5.0)
        );
        assert_eq!((request.noise.seed, request.noise.count), (7, 1));
        assert_eq!(request.cfg_normalization, CfgNormalization::Off);
        assert_eq!(request.cfg_truncation, 1.0);
        assert!(request.init.is_none() && request.control.is_none());
    }

    #[test]
    fn what_is_given_is_taken() {
        let request = resolved(Parameters {
            n: Some(3),
            width: Some(640),
            seed: Some(u64::MAX),
            num_inference_steps: Some(9),
            guidance_scale: Some(0.0),
            references: vec!["a", "b"],
            ..Parameters::new("a fox")
        });
        assert_eq!((request.width, request.height), (640, 1024));
        assert_eq!((request.noise.seed, request.noise.count), (u64::MAX, 3));
        assert_eq!(
            (request.num_inference_steps, request.guidance_scale),
            (9, 0.0)
        );
        assert_eq!(request.references, ["a", "b"]);
    }

    #[test]
    fn strength_is_diffusers_default_and_all_of_it_with_a_control_image() {
        let strength = |control_image, mask, strength| {
            let request = resolved(Parameters {
                image: Some("a"),
                mask,
                strength,
                control_image,
                ..Parameters::new("a fox")
            });
            request.init.unwrap().strength
        };
        assert_eq!(strength(None, None, None), 0.6);
        assert_eq!(strength(None, None, Some(0.3)), 0.3);
        assert_eq!(strength(Some("b"), Some("c"), None), 1.0);
    }

    #[test]
    fn conditioning_scale_is_diffusers_default() {
        let scale = |controlnet_conditioning_scale| {
            let request = resolved(Parameters {
                control_image: Some("a"),
                controlnet_conditioning_scale,
                ..Parameters::new("a fox")
            });
            request.control.unwrap().conditioning_scale
        };
        assert_eq!(scale(None), 0.75);
        assert_eq!(scale(Some(1.0)), 1.0);
    }

    #[test]
    fn what_has_no_meaning_alone_is_refused() {
        let plain = || Named::new("a fox");
        let mask = Some("a");
        assert_eq!(refused(Parameters { mask, ..plain() }), "mask");
        let strength = Some(0.5);
        assert_eq!(
            refused(Parameters {
                strength,
                ..plain()
            }),
            "strength"
        );
        let controlnet_conditioning_scale = Some(0.5);
        let scale = Parameters {
            controlnet_conditioning_scale,
            ..plain()
        };
        assert_eq!(refused(scale), "controlnet_conditioning_scale");
    }

    #[test]
    fn everything_has_its_bounds() {
        let plain = || Named::new("a fox");
        for (parameters, field) in [
            (Named::new("x".repeat(40_000)), "prompt"),
            (
                Parameters {
                    n: Some(0),
                    ..plain()
                },
                "n",
            ),
            (
                Parameters {
                    n: Some(11),
                    ..plain()
                },
                "n",
            ),
            (
                Parameters {
                    width: Some(1000),
                    ..plain()
                },
                "width",
            ),
            (
                Parameters {
                    num_inference_steps: Some(101),
                    ..plain()
                },
                "num_inference_steps",
            ),
            (
                Parameters {
                    cfg_truncation: Some(f32::NAN),
                    ..plain()
                },
                "cfg_truncation",
            ),
            (
                Parameters {
                    image: Some("a"),
                    strength: Some(0.0),
                    ..plain()
                },
                "strength",
            ),
            (
                Parameters {
                    image: Some("a"),
                    control_image: Some("b"),
                    ..plain()
                },
                "mask",
            ),
            (
                Parameters {
                    references: vec![""; 5],
                    ..plain()
                },
                "references",
            ),
            (
                Parameters {
                    n: Some(10),
                    num_inference_steps: Some(100),
                    width: Some(2048),
                    height: Some(2048),
                    ..plain()
                },
                "n",
            ),
        ] {
            assert_eq!(refused(parameters), field);
        }
    }
}
