//! The `config.json` files of a checkpoint's components, as diffusers and transformers write them.

mod control_net;
mod siglip;

pub use control_net::{ControlNetConfig, Refiner, UnknownRefiner};
pub use siglip::{SiglipConfig, SiglipProcessorConfig};

use serde::{Deserialize, Serialize};

/// `text_encoder/config.json`: a Qwen3 decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextEncoderConfig {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Decoder layers in the checkpoint. The last one is never computed.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Added to the mean square in every RMS norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary embedding. Newer files keep it in `rope_parameters`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// Where transformers 5 keeps the rotary embedding's base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_parameters: Option<RopeParameters>,
}

/// `rope_parameters` of a transformers 5 configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeParameters {
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// How the embedding is stretched beyond the trained length; only "default", which is not at all, is implemented.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_type: Option<String>,
}

impl TextEncoderConfig {
    /// Base of the rotary embedding, wherever the file keeps it; Qwen3's own when it keeps none.
    pub fn rope_theta(&self) -> f64 {
        self.rope_theta
            .or_else(|| self.rope_parameters.as_ref().map(|rope| rope.rope_theta))
            .unwrap_or(1_000_000.0)
    }
}

/// `transformer/config.json` of `ZImageTransformer2DModel`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransformerConfig {
    /// Edge of an image patch in latent pixels; `[2]`.
    pub all_patch_size: Vec<usize>,
    /// Frames of a patch; `[1]`.
    pub all_f_patch_size: Vec<usize>,
    /// Channels of the latents.
    pub in_channels: usize,
    /// Width of the hidden states.
    pub dim: usize,
    /// Blocks over the joined image and caption tokens.
    pub n_layers: usize,
    /// Blocks of each refiner.
    pub n_refiner_layers: usize,
    /// Attention heads; diffusers ignores `n_kv_heads`.
    pub n_heads: usize,
    /// Epsilon of the blocks' RMS norms.
    pub norm_eps: f64,
    /// Whether queries and keys are normalised for each head.
    pub qk_norm: bool,
    /// Width of the text encoder's hidden states.
    pub cap_feat_dim: usize,
    /// Width of the vision tower's hidden states. `None`: the model takes no condition images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub siglip_feat_dim: Option<usize>,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// Factor on the time before it is embedded.
    pub t_scale: f64,
    /// Share of a head that each of the three axes rotates; they add up to the head's width.
    pub axes_dims: Vec<usize>,
    /// Positions of each axis.
    pub axes_lens: Vec<usize>,
}

impl TransformerConfig {
    /// Width of a head.
    pub const fn head_dim(&self) -> usize {
        self.dim / self.n_heads
    }

    /// Width of the feed-forward layers: Python's `int(dim / 3 * 8)`, rounding errors included.
    pub fn ffn_dim(&self) -> usize {
        (self.dim as f64 / 3.0 * 8.0) as usize
    }

    /// Width of the time embedding that modulates the blocks.
    pub fn adaln_dim(&self) -> usize {
        self.dim.min(256)
    }

    /// Values of one patch.
    pub fn patch_dim(&self) -> usize {
        self.in_channels
            * self.all_patch_size[0]
            * self.all_patch_size[0]
            * self.all_f_patch_size[0]
    }
}

/// `vae/config.json` of `AutoencoderKL`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VaeConfig {
    /// Channels of the image.
    pub in_channels: usize,
    /// Channels of the decoded image.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each resolution, the full one first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each resolution; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of the group norms.
    pub norm_num_groups: usize,
    /// Latents are divided by this before they are decoded.
    pub scaling_factor: f64,
    /// Added to the latents after that.
    pub shift_factor: f64,
}

/// `scheduler/scheduler_config.json` of `FlowMatchEulerDiscreteScheduler`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SchedulerConfig {
    /// Times are counted from 0 to this.
    #[serde(default = "thousand")]
    pub num_train_timesteps: u32,
    /// Static shift of the sigmas.
    #[serde(default = "one")]
    pub shift: f64,
    /// Whether the shift depends on the image's size. Z-Image's does not.
    #[serde(default)]
    pub use_dynamic_shifting: bool,
}

const fn thousand() -> u32 {
    1000
}

const fn one() -> f64 {
    1.0
}

#[cfg(test)]
mod tests {
    #[test]
    fn feed_forward_width_is_pythons_for_widths_that_three_does_not_divide() {
        let mut config = crate::shape::Shape::Tiny.spec().transformer;
        for (dim, expected) in [(3840, 10240), (280, 746), (64, 170), (96, 256)] {
            config.dim = dim;
            assert_eq!(config.ffn_dim(), expected, "dim {dim}");
        }
    }
}
