//! `config.json` of a ControlNet.

use super::TransformerConfig;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What refines the control image's tokens before the control layers see them: `add_control_noise_refiner`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Option<String>", into = "Option<String>")]
pub enum Refiner {
    /// Plain blocks of its own, which see no image and give no hints: `null`, as in Fun-Union 1.0.
    #[default]
    Own,
    /// The control layers themselves, which run twice: `control_layers`, as in Fun-Union 2.0.
    Shared,
    /// Control blocks of its own: `control_noise_refiner`, as in Fun-Union 2.1.
    Controlled,
}

impl Refiner {
    /// Every form.
    pub const ALL: [Self; 3] = [Self::Own, Self::Shared, Self::Controlled];
}

/// No form of refiner has this name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no ControlNet's refiner is called {0:?}: there are own, shared and controlled")]
pub struct UnknownRefiner(String);

impl FromStr for Refiner {
    type Err = UnknownRefiner;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|form| form.to_string() == name);
        found.ok_or_else(|| UnknownRefiner(name.to_owned()))
    }
}

impl fmt::Display for Refiner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "own",
            Self::Shared => "shared",
            Self::Controlled => "controlled",
        })
    }
}

impl TryFrom<Option<String>> for Refiner {
    type Error = String;

    fn try_from(stored: Option<String>) -> Result<Self, Self::Error> {
        match stored.as_deref() {
            None => Ok(Self::Own),
            Some("control_layers") => Ok(Self::Shared),
            Some("control_noise_refiner") => Ok(Self::Controlled),
            Some(other) => Err(format!(
                "add_control_noise_refiner is {other:?}; null, \"control_layers\" and \"control_noise_refiner\" are implemented"
            )),
        }
    }
}

impl From<Refiner> for Option<String> {
    fn from(form: Refiner) -> Self {
        match form {
            Refiner::Own => None,
            Refiner::Shared => Some("control_layers".to_owned()),
            Refiner::Controlled => Some("control_noise_refiner".to_owned()),
        }
    }
}

/// `config.json` of diffusers' `ZImageControlNetModel`; what is left out is diffusers' default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControlNetConfig {
    /// The transformer's layer behind which each control layer's hint is added.
    pub control_layers_places: Vec<usize>,
    /// The same for the noise refiner's blocks, which only the ControlNet's own pass over the image feels.
    #[serde(default)]
    pub control_refiner_layers_places: Option<Vec<usize>>,
    /// Channels of the control context: the latents', and for inpainting a mask's and the kept image's behind them.
    pub control_in_dim: usize,
    /// What refines the control image's tokens.
    #[serde(default)]
    pub add_control_noise_refiner: Refiner,
    /// Width of the hidden states: the transformer's.
    #[serde(default = "released_dim")]
    pub dim: usize,
    /// Blocks of the refiner, where it has blocks of its own.
    #[serde(default = "released_refiner_layers")]
    pub n_refiner_layers: usize,
    /// Attention heads: the transformer's.
    #[serde(default = "released_heads")]
    pub n_heads: usize,
    /// Epsilon of the blocks' RMS norms.
    #[serde(default = "released_eps")]
    pub norm_eps: f64,
    /// Whether queries and keys are normalised for each head.
    #[serde(default = "yes")]
    pub qk_norm: bool,
}

const fn released_dim() -> usize {
    3840
}

const fn released_refiner_layers() -> usize {
    2
}

const fn released_heads() -> usize {
    30
}

const fn released_eps() -> f64 {
    1e-5
}

const fn yes() -> bool {
    true
}

impl ControlNetConfig {
    /// Places of the noise refiner's hints: none where the refiner gives none.
    pub fn refiner_places(&self) -> &[usize] {
        match self.add_control_noise_refiner {
            Refiner::Own => &[],
            Refiner::Shared | Refiner::Controlled => {
                self.control_refiner_layers_places.as_deref().unwrap_or(&[])
            }
        }
    }

    /// Whether the control context has room for a mask and the image that it keeps.
    pub const fn inpaints(&self, latent_channels: usize) -> bool {
        self.control_in_dim == 2 * latent_channels + 1
    }

    /// The configuration of this ControlNet's blocks, which are the transformer's but for what is said here.
    pub fn blocks(&self, transformer: &TransformerConfig) -> TransformerConfig {
        TransformerConfig {
            norm_eps: self.norm_eps,
            qk_norm: self.qk_norm,
            ..transformer.clone()
        }
    }
}
