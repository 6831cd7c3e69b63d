//! The Qwen3 decoder up to the hidden states that condition the transformer.

use crate::attention::attend;
use crate::error::LoadError;
use crate::norm::RmsNorm;
use crate::part::Part;
use candle_core::{Device, Module as _, Result, Tensor};
use candle_nn::{Embedding, Linear};
use zimage_checkpoint::config::TextEncoderConfig;
use zimage_checkpoint::{Checkpoint, Component};
use zimage_core::rotary;

/// transformers' `Qwen3Model` without its last layer and its final norm: diffusers takes `hidden_states[-2]`.
pub(crate) struct TextEncoder {
    embed_tokens: Embedding,
    layers: Vec<Layer>,
    head_dim: usize,
    rope_theta: f64,
}

struct Layer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    heads: usize,
    kv_heads: usize,
}

impl TextEncoder {
    pub(crate) fn load(checkpoint: &Checkpoint) -> std::result::Result<Self, LoadError> {
        let config = checkpoint.text_encoder();
        let part = Part::root(checkpoint, Component::TextEncoder);
        let table = part
            .at("embed_tokens")
            .tensor("weight", &[config.vocab_size, config.hidden_size])?;
        Ok(Self {
            embed_tokens: Embedding::new(table, config.hidden_size),
            layers: (0..config.num_hidden_layers - 1)
                .map(|i| Layer::load(config, &part.at("layers").at(i)))
                .collect::<std::result::Result<_, _>>()?,
            head_dim: config.head_dim,
            rope_theta: config.rope_theta(),
        })
    }

    /// The hidden states (tokens, hidden) of a prompt's tokens. Padding would change nothing: attention is causal.
    pub(crate) fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        let rope = self.rope(ids.len())?;
        let mut x = self
            .embed_tokens
            .forward(&Tensor::new(ids, &Device::Cpu)?)?;
        for layer in &self.layers {
            x = layer.forward(&x, &rope)?;
        }
        Ok(x)
    }

    /// Cosines and sines (tokens, head / 2), rounded where transformers rounds to single precision.
    fn rope(&self, tokens: usize) -> Result<(Tensor, Tensor)> {
        let angles = rotary::text_angles(self.rope_theta, self.head_dim, tokens);
        crate::rope::cos_sin(&angles, tokens)
    }
}

impl Layer {
    fn load(config: &TextEncoderConfig, part: &Part<'_>) -> std::result::Result<Self, LoadError> {
        let (hidden, ffn, eps) = (
            config.hidden_size,
            config.intermediate_size,
            config.rms_norm_eps,
        );
        let mlp = part.at("mlp");
        Ok(Self {
            input_layernorm: RmsNorm::load(&part.at("input_layernorm"), hidden, eps)?,
            self_attn: Attention::load(config, &part.at("self_attn"))?,
            post_attention_layernorm: RmsNorm::load(
                &part.at("post_attention_layernorm"),
                hidden,
                eps,
            )?,
            gate_proj: mlp.at("gate_proj").linear_no_bias(hidden, ffn)?,
            up_proj: mlp.at("up_proj").linear_no_bias(hidden, ffn)?,
            down_proj: mlp.at("down_proj").linear_no_bias(ffn, hidden)?,
        })
    }

    fn forward(&self, x: &Tensor, rope: &(Tensor, Tensor)) -> Result<Tensor> {
        let x = (x + self
            .self_attn
            .forward(&self.input_layernorm.forward(x)?, rope)?)?;
        let normed = self.post_attention_layernorm.forward(&x)?;
        let gate = self.gate_proj.forward(&normed)?.silu()?;
        let mlp = self
            .down_proj
            .forward(&(gate * self.up_proj.forward(&normed)?)?)?;
        x + mlp
    }
}

impl Attention {
    fn load(config: &TextEncoderConfig, part: &Part<'_>) -> std::result::Result<Self, LoadError> {
        let (hidden, head, eps) = (config.hidden_size, config.head_dim, config.rms_norm_eps);
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        Ok(Self {
            q_proj: part.at("q_proj").linear_no_bias(hidden, heads * head)?,
            k_proj: part.at("k_proj").linear_no_bias(hidden, kv_heads * head)?,
            v_proj: part.at("v_proj").linear_no_bias(hidden, kv_heads * head)?,
            o_proj: part.at("o_proj").linear_no_bias(heads * head, hidden)?,
            q_norm: RmsNorm::load(&part.at("q_norm"), head, eps)?,
            k_norm: RmsNorm::load(&part.at("k_norm"), head, eps)?,
            heads,
            kv_heads,
        })
    }

    fn forward(&self, x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor> {
        let tokens = x.dim(0)?;
        // (tokens, heads * width) -> (1, tokens, heads, width)
        let split = |x: Tensor, heads: usize| x.reshape((1, tokens, heads, ()));
        let rotate = |x: Tensor| {
            candle_nn::rotary_emb::rope(&x.transpose(1, 2)?.contiguous()?, cos, sin)?.squeeze(0)
        };

        let q = rotate(
            self.q_norm
                .forward(&split(self.q_proj.forward(x)?, self.heads)?)?,
        )?;
        let k = rotate(
            self.k_norm
                .forward(&split(self.k_proj.forward(x)?, self.kv_heads)?)?,
        )?;
        let v = split(self.v_proj.forward(x)?, self.kv_heads)?
            .squeeze(0)?
            .transpose(0, 1)?
            .contiguous()?;
        let out = attend(&q, &self.repeat(&k)?, &self.repeat(&v)?, true)?;
        self.o_proj
            .forward(&out.transpose(0, 1)?.reshape((tokens, ()))?)
    }

    /// Gives each query head its key or value head: (key heads, tokens, width) -> (heads, tokens, width).
    fn repeat(&self, x: &Tensor) -> Result<Tensor> {
        let (kv_heads, tokens, width) = x.dims3()?;
        let groups = self.heads / self.kv_heads;
        x.unsqueeze(1)?
            .expand((kv_heads, groups, tokens, width))?
            .reshape((self.heads, tokens, width))
    }
}
