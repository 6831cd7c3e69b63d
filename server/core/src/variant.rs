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

    /// The model of a name.
    ///
    /// # Errors
    /// Names the models that there are.
    pub fn from_model_name(name: &str) -> Result<Self, String> {
        let known = [Self::Turbo, Self::Base];
        let found = known
            .into_iter()
            .find(|variant| variant.model_name() == name);
        found.ok_or_else(|| format!("{name:?} is no model; there are z-image-turbo and z-image"))
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
