//! The released models and what a request gets when it leaves a field out.

/// A released Z-Image model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Z-Image-Turbo.
    Turbo,
    /// Z-Image (Base).
    Base,
}

/// What a request gets for the fields that it leaves out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defaults {
    /// Denoising steps.
    pub num_inference_steps: u32,
    /// diffusers' guidance scale: 0 means no guidance and one forward a step.
    pub guidance_scale: f32,
}

impl Variant {
    /// Name by which requests ask for the model.
    pub const fn model_name(self) -> &'static str {
        match self {
            Self::Turbo => "z-image-turbo",
            Self::Base => "z-image",
        }
    }

    /// Steps and guidance as the model's authors recommend them.
    pub const fn defaults(self) -> Defaults {
        match self {
            Self::Turbo => Defaults {
                num_inference_steps: 8,
                guidance_scale: 0.0,
            },
            Self::Base => Defaults {
                num_inference_steps: 50,
                guidance_scale: 5.0,
            },
        }
    }
}
