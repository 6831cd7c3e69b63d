//! The vision tower that reads condition images: transformers' `Siglip2VisionModel` without its pooling head.

mod image;
mod positions;

use crate::attention::attend;
use crate::error::LoadError;
use crate::norm::LayerNorm;
use crate::part::Part;
use candle_core::{Module as _, Result, Tensor};
use candle_nn::Linear;
use zimage_checkpoint::config::{SiglipConfig, SiglipProcessorConfig};
use zimage_checkpoint::{Checkpoint, Component, Siglip};
use zimage_core::pixels::Pixels;

/// From pixels to features.
pub(crate) struct VisionTower {
    processor: SiglipProcessorConfig,
    patch_embedding: Linear,
    /// (side, side, hidden)
    positions: Tensor,
    layers: Vec<Layer>,
    post_layernorm: LayerNorm,
}

struct Layer {
    layer_norm1: LayerNorm,
    self_attn: Attention,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: usize,
}

impl VisionTower {
    /// `None` for a model that takes no condition images.
    pub(crate) fn load(checkpoint: &Checkpoint) -> std::result::Result<Option<Self>, LoadError> {
        let Some(Siglip { tower, processor }) = checkpoint.siglip() else {
            return Ok(None);
        };
        let part = Part::root(checkpoint, Component::Siglip);
        let (hidden, side) = (tower.hidden_size, tower.position_side());
        let embeddings = part.at("embeddings");
        let positions = embeddings
            .at("position_embedding")
            .tensor("weight", &[tower.num_patches, hidden])?;
        let layers = part.at("encoder.layers");
        Ok(Some(Self {
            processor: processor.clone(),
            patch_embedding: embeddings
                .at("patch_embedding")
                .linear(tower.patch_dim(), hidden)?,
            positions: positions.reshape((side, side, hidden))?,
            layers: (0..tower.num_hidden_layers)
                .map(|i| Layer::load(tower, &layers.at(i)))
                .collect::<std::result::Result<_, _>>()?,
            post_layernorm: norm(tower, &part.at("post_layernorm"))?,
        }))
    }

    /// Features (rows, columns, hidden) of an image's patches: `last_hidden_state`.
    ///
    /// transformers pads to the most patches and masks the padding; without it the numbers are the same.
    pub(crate) fn forward(&self, pixels: &Pixels) -> Result<Tensor> {
        let patches = image::patches(pixels, &self.processor)?;
        let (rows, columns, _) = patches.dims3()?;
        let positions = positions::stretch(&self.positions, rows, columns)?;
        let embedded = (self.patch_embedding.forward(&patches)? + positions)?;
        let mut x = embedded.flatten(0, 1)?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        self.post_layernorm
            .forward(&x)?
            .reshape((rows, columns, ()))
    }
}

fn norm(config: &SiglipConfig, part: &Part<'_>) -> std::result::Result<LayerNorm, LoadError> {
    LayerNorm::load(part, config.hidden_size, config.layer_norm_eps)
}

impl Layer {
    fn load(config: &SiglipConfig, part: &Part<'_>) -> std::result::Result<Self, LoadError> {
        let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
        let mlp = part.at("mlp");
        Ok(Self {
            layer_norm1: norm(config, &part.at("layer_norm1"))?,
            self_attn: Attention::load(config, &part.at("self_attn"))?,
            layer_norm2: norm(config, &part.at("layer_norm2"))?,
            fc1: mlp.at("fc1").linear(hidden, ffn)?,
            fc2: mlp.at("fc2").linear(ffn, hidden)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = (x + self.self_attn.forward(&self.layer_norm1.forward(x)?)?)?;
        // candle's gelu is the approximation with tanh, which is the one asked for.
        let inner = self.fc1.forward(&self.layer_norm2.forward(&x)?)?.gelu()?;
        &x + self.fc2.forward(&inner)?
    }
}

impl Attention {
    fn load(config: &SiglipConfig, part: &Part<'_>) -> std::result::Result<Self, LoadError> {
        let projection = |name: &str| part.at(name).linear(config.hidden_size, config.hidden_size);
        Ok(Self {
            q_proj: projection("q_proj")?,
            k_proj: projection("k_proj")?,
            v_proj: projection("v_proj")?,
            out_proj: projection("out_proj")?,
            heads: config.num_attention_heads,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let tokens = x.dim(0)?;
        // (tokens, hidden) -> (heads, tokens, width)
        let split = |x: Tensor| {
            x.reshape((tokens, self.heads, ()))?
                .transpose(0, 1)?
                .contiguous()
        };
        let out = attend(
            &split(self.q_proj.forward(x)?)?,
            &split(self.k_proj.forward(x)?)?,
            &split(self.v_proj.forward(x)?)?,
            false,
        )?;
        self.out_proj
            .forward(&out.transpose(0, 1)?.reshape((tokens, ()))?)
    }
}
