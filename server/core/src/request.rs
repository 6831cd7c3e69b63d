//! One image to be made, every default filled in. Field names are diffusers'.
//!
//! `I` is what an image that comes with the request is: pixels, or a file that is not read yet.

use crate::pixels::Pixels;
use crate::start_image::first_step;
use std::sync::Arc;

/// Which random numbers the initial noise is made of.
///
/// diffusers draws the noise of `num_images_per_prompt` images from one generator, so image `index` of a request takes
/// the `index`-th block of `16 * (height / 8) * (width / 8)` numbers of the stream that `seed` starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    /// Seed of `torch.Generator("cpu")`.
    pub seed: u64,
    /// Position of the image within its request.
    pub index: u32,
    /// Images of the request that share the generator.
    pub count: u32,
}

/// `cfg_normalization` of diffusers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CfgNormalization {
    /// The guided prediction is used as it is.
    Off,
    /// The guided prediction's norm is clamped to this multiple of the conditional prediction's norm.
    Clamp(f32),
}

impl CfgNormalization {
    /// The clamp of a factor; 0 is none.
    pub fn of(factor: f32) -> Self {
        if factor > 0.0 {
            Self::Clamp(factor)
        } else {
            Self::Off
        }
    }

    /// The clamp's factor; 0 without one.
    pub const fn factor(self) -> f32 {
        match self {
            Self::Off => 0.0,
            Self::Clamp(factor) => factor,
        }
    }
}

/// An image to start from instead of pure noise.
#[derive(Clone, Debug)]
pub struct InitImage<I = Arc<Pixels>> {
    /// The image, of the request's size.
    pub pixels: I,
    /// How much of it is replaced, above 0 to 1: the share of the schedule that runs.
    pub strength: f32,
    /// Where it is replaced (white) and kept (black), of the request's size. `None`: everywhere.
    pub mask: Option<I>,
}

impl InitImage {
    /// The image and its mask, when there is one.
    pub fn masked(&self) -> Option<(&Pixels, &Pixels)> {
        Some((&self.pixels, self.mask.as_deref()?))
    }
}

/// An image that the new one follows: edges, depth, a pose. What it means is what the ControlNet was trained with.
#[derive(Clone, Debug)]
pub struct Control<I = Arc<Pixels>> {
    /// The control image, of the request's size.
    pub pixels: I,
    /// diffusers' `controlnet_conditioning_scale`: how strongly the image follows; 0 means not at all.
    pub conditioning_scale: f32,
}

/// One image to be made.
#[derive(Clone, Debug)]
pub struct ImageRequest<I = Arc<Pixels>> {
    /// What the image shows.
    pub prompt: String,
    /// What it must not show; used only with guidance. Empty: the empty prompt.
    pub negative_prompt: String,
    /// Width in pixels, a multiple of 16.
    pub width: u32,
    /// Height in pixels, a multiple of 16.
    pub height: u32,
    /// Steps of the schedule.
    pub num_inference_steps: u32,
    /// diffusers' guidance scale; 0 means no guidance.
    pub guidance_scale: f32,
    /// Limit on the guided prediction's norm.
    pub cfg_normalization: CfgNormalization,
    /// Guidance is off while the normalised time is above this value. 1: always on.
    pub cfg_truncation: f32,
    /// Initial noise.
    pub noise: Noise,
    /// Image-to-image and inpainting.
    pub init: Option<InitImage<I>>,
    /// Images that the prompt speaks about, of any size: an Omni model's condition images.
    pub references: Vec<I>,
    /// What a ControlNet makes the image follow. With it `init` needs a mask and its strength is 1: the ControlNet sees
    /// what is kept, and the whole schedule runs.
    pub control: Option<Control<I>>,
}

impl<I> ImageRequest<I> {
    /// The image that the schedule starts from. With a ControlNet none: it sees what is kept of the image.
    pub fn start_image(&self) -> Option<&InitImage<I>> {
        self.init.as_ref().filter(|_| self.control.is_none())
    }

    /// Steps at the beginning of the schedule that do not run.
    pub fn skipped_steps(&self) -> u32 {
        let steps = self.num_inference_steps;
        let start = self.start_image();
        start.map_or(0, |init| first_step(steps, init.strength))
    }
}

impl ImageRequest {
    /// An image of a prompt alone, as Turbo makes it: eight steps without guidance, from seed 0.
    pub fn plain(prompt: impl Into<String>, (width, height): (u32, u32)) -> Self {
        Self {
            prompt: prompt.into(),
            negative_prompt: String::new(),
            width,
            height,
            num_inference_steps: 8,
            guidance_scale: 0.0,
            cfg_normalization: CfgNormalization::Off,
            cfg_truncation: 1.0,
            noise: Noise {
                seed: 0,
                index: 0,
                count: 1,
            },
            init: None,
            references: Vec::new(),
            control: None,
        }
    }
}
