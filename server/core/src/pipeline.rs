//! What diffusers' `ZImagePipeline` and its image-to-image and inpainting forms do around the model, without a tensor:
//! which steps run, when there is guidance, which numbers are drawn in which order. Every engine takes it from here.

use crate::executor::{ExecutorError, Slot};
use crate::guidance::Guidance;
use crate::noise::Generator;
use crate::request::ImageRequest;
use crate::schedule::NoiseSchedule;

/// A request's way through its schedule.
#[derive(Clone, Debug)]
pub struct Denoising {
    schedule: NoiseSchedule,
    next: usize,
    guidance: Option<Guidance>,
}

impl Denoising {
    /// The way of a request whose whole schedule is given: a start image skips a part of it.
    pub fn of<I>(request: &ImageRequest<I>, schedule: NoiseSchedule) -> Self {
        Self {
            next: request.skipped_steps() as usize,
            guidance: Guidance::of(request),
            schedule,
        }
    }

    /// The whole schedule.
    pub const fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Number of the next step in the whole schedule.
    pub const fn next(&self) -> usize {
        self.next
    }

    /// Steps that are left.
    pub fn left(&self) -> u32 {
        self.schedule.steps().saturating_sub(self.next) as u32
    }

    /// Whether there is a next step.
    ///
    /// # Errors
    /// Names the slot of a request that has none.
    pub fn check(&self, slot: Slot) -> Result<(), ExecutorError> {
        match self.left() {
            0 => Err(ExecutorError::Failed(format!(
                "slot {} has no step left",
                slot.0
            ))),
            _ => Ok(()),
        }
    }

    /// The model's time at the next step, from 0 (noise) to 1.
    pub fn time(&self) -> f32 {
        self.schedule.time(self.next)
    }

    /// By how much the noise changes in the next step: negative.
    pub fn delta(&self) -> f32 {
        self.schedule.delta(self.next)
    }

    /// The share of noise before the next step; 0 after the last.
    pub fn sigma(&self) -> f32 {
        self.schedule.sigma(self.next)
    }

    /// The guidance of the next step, if it has any.
    pub fn guidance(&self) -> Option<&Guidance> {
        let guidance = self.guidance.as_ref();
        guidance.filter(|guidance| guidance.applies_at(self.time()))
    }

    /// The next step was taken.
    pub const fn advance(&mut self) {
        self.next += 1;
    }
}

/// The random numbers of a request, drawn from one generator.
#[derive(Clone, Debug, PartialEq)]
pub struct Draws {
    /// For the distribution that the encoder makes of a start image, which diffusers draws first. Empty without one.
    pub encode: Vec<f32>,
    /// Of the initial latents.
    pub noise: Vec<f32>,
}

impl Draws {
    /// `count` numbers for the latents of one image.
    pub fn of(request: &ImageRequest, count: usize) -> Self {
        let mut generator = Generator::new(request.noise.seed);
        let starts = request.start_image().is_some();
        Self {
            encode: generator.randn(if starts { count } else { 0 }),
            noise: generator.image_noise(request.noise, count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::Pixels;
    use crate::request::{Control, InitImage, Noise};
    use std::sync::Arc;

    fn grey() -> Arc<Pixels> {
        Arc::new(Pixels::new(16, 16, vec![9; 16 * 16 * 3]).unwrap())
    }

    fn started(strength: f32) -> ImageRequest {
        let init = InitImage {
            pixels: grey(),
            strength,
            mask: Some(grey()),
        };
        ImageRequest {
            init: Some(init),
            ..ImageRequest::plain("a fox", (16, 16))
        }
    }

    fn followed(strength: f32) -> ImageRequest {
        ImageRequest {
            control: Some(Control {
                pixels: grey(),
                conditioning_scale: 1.0,
            }),
            ..started(strength)
        }
    }

    fn of(request: &ImageRequest) -> Denoising {
        let schedule = NoiseSchedule::new(3.0, 1000, request.num_inference_steps);
        Denoising::of(request, schedule)
    }

    #[test]
    fn a_start_image_skips_steps_and_a_followed_one_none() {
        for (request, left) in [
            (ImageRequest::plain("a fox", (16, 16)), 8),
            (started(0.6), 5),
            (followed(1.0), 8),
        ] {
            assert_eq!(of(&request).left(), left);
        }
    }

    #[test]
    fn a_request_goes_from_its_first_step_to_no_noise() {
        let mut denoising = of(&started(0.6));
        assert_eq!(denoising.next(), 3);
        let mut sigma = denoising.sigma();
        while denoising.check(Slot(1)).is_ok() {
            sigma += denoising.delta();
            denoising.advance();
            assert!((denoising.sigma() - sigma).abs() < 1e-6);
        }
        assert_eq!((denoising.sigma(), denoising.left()), (0.0, 0));
        let error = denoising.check(Slot(1)).unwrap_err().to_string();
        assert!(error.contains("slot 1 has no step left"), "{error}");
    }

    #[test]
    fn guidance_ends_with_its_truncation() {
        let mut denoising = of(&ImageRequest {
            guidance_scale: 2.0,
            cfg_truncation: 0.5,
            ..ImageRequest::plain("a fox", (16, 16))
        });
        let mut guided = 0;
        while denoising.left() > 0 {
            guided += u32::from(denoising.guidance().is_some());
            denoising.advance();
        }
        // Times 0, 0.05, 0.1, 0.17, 0.25, 0.36 and 0.5; the last is 0.7.
        assert_eq!(guided, 7);
    }

    #[test]
    fn a_start_image_has_its_numbers_before_the_noise() {
        let noise = Noise {
            seed: 5,
            index: 1,
            count: 2,
        };
        let numbers = |request: ImageRequest| Draws::of(&ImageRequest { noise, ..request }, 64);
        let all = Generator::new(5).randn(3 * 64);
        let plain = numbers(ImageRequest::plain("a fox", (16, 16)));
        assert_eq!(
            (plain.encode, plain.noise.as_slice()),
            (vec![], &all[64..128])
        );
        let started = numbers(started(0.5));
        assert_eq!(started.encode, all[..64]);
        assert_eq!(started.noise, all[128..]);
        assert_eq!(numbers(followed(1.0)).encode, []);
    }
}
