//! The parts of a model that have weights.

/// A part of a model that has weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// The Qwen3 decoder that reads the prompt.
    TextEncoder,
    /// The diffusion transformer.
    Transformer,
    /// The autoencoder between latents and pixels.
    Vae,
    /// The vision tower that reads condition images. Only an Omni model has it.
    Siglip,
}

impl Component {
    /// Every component; the last one is an Omni model's alone.
    pub const ALL: [Self; 4] = [
        Self::TextEncoder,
        Self::Transformer,
        Self::Vae,
        Self::Siglip,
    ];

    /// Its folder, which is its name in `model_index.json` too.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::TextEncoder => "text_encoder",
            Self::Transformer => "transformer",
            Self::Vae => "vae",
            Self::Siglip => "siglip",
        }
    }

    /// Its weight files' names before ".safetensors".
    pub(crate) const fn stem(self) -> &'static str {
        match self {
            Self::TextEncoder | Self::Siglip => "model",
            Self::Transformer | Self::Vae => "diffusion_pytorch_model",
        }
    }

    /// What some checkpoints put before each tensor's name.
    pub(crate) const fn optional_prefix(self) -> &'static str {
        match self {
            Self::TextEncoder => "model.",
            Self::Siglip => "vision_model.",
            Self::Transformer | Self::Vae => "",
        }
    }
}
