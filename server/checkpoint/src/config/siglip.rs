//! The configurations that only an Omni model has: how a condition image is seen.

use serde::{Deserialize, Serialize};

/// `siglip/config.json`: transformers' `Siglip2VisionModel`. What the file leaves out has transformers' default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SiglipConfig {
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Encoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Channels of the image.
    pub num_channels: usize,
    /// Edge of a patch in pixels.
    pub patch_size: usize,
    /// Learned positions: a square, stretched to each image's patches.
    pub num_patches: usize,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
    /// Whether the checkpoint has the pooling head. It is never computed.
    pub vision_use_head: bool,
}

impl Default for SiglipConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            patch_size: 16,
            num_patches: 256,
            layer_norm_eps: 1e-6,
            vision_use_head: true,
        }
    }
}

impl SiglipConfig {
    /// Values of one patch.
    pub const fn patch_dim(&self) -> usize {
        self.num_channels * self.patch_size * self.patch_size
    }

    /// Rows and columns of the learned positions.
    pub const fn position_side(&self) -> usize {
        self.num_patches.isqrt()
    }
}

/// `siglip_processor/preprocessor_config.json`: transformers' `Siglip2ImageProcessor`, with its defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SiglipProcessorConfig {
    /// Edge of a patch in pixels.
    pub patch_size: usize,
    /// An image is resized to as many patches as fit below this.
    pub max_num_patches: usize,
    /// Factor on a byte before the mean is taken off.
    pub rescale_factor: f64,
    /// Taken off each channel.
    pub image_mean: [f32; 3],
    /// Divides each channel after that.
    pub image_std: [f32; 3],
}

impl Default for SiglipProcessorConfig {
    fn default() -> Self {
        Self {
            patch_size: 16,
            max_num_patches: 256,
            rescale_factor: 1.0 / 255.0,
            image_mean: [0.5; 3],
            image_std: [0.5; 3],
        }
    }
}
