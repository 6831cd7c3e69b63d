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
}

impl Component {
    /// Every component.
    pub const ALL: [Self; 3] = [Self::TextEncoder, Self::Transformer, Self::Vae];

    /// Its folder, which is its name in `model_index.json` too.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::TextEncoder => "text_encoder",
            Self::Transformer => "transformer",
            Self::Vae => "vae",
        }
    }

    /// Its weight files' names before ".safetensors".
    pub(crate) const fn stem(self) -> &'static str {
        match self {
            Self::TextEncoder => "model",
            Self::Transformer | Self::Vae => "diffusion_pytorch_model",
        }
    }

    /// What some checkpoints put before each tensor's name.
    pub(crate) const fn optional_prefix(self) -> &'static str {
        match self {
            Self::TextEncoder => "model.",
            Self::Transformer | Self::Vae => "",
        }
    }
}
