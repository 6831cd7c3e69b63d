//! The Qwen3 decoder in bfloat16, up to the hidden states that condition the transformer.

use crate::compute::{Compute, Linear};
use crate::error::{GpuError, LoadError};
use crate::gpu::Gpu;
use crate::matrix::{Format, Matrix};
use crate::memory::{Layout, Memory, Region};
use crate::ops::embed::{gather, swiglu};
use crate::ops::norm::{Added, Next, Rows, add_norm, rms_norm};
use crate::ops::rope::{Pairs, norm_and_rotate};
use crate::ops::{BF16, F32};
use crate::shapes::{Attention, Heads};
use crate::weights::{Loader, Source};
use zimage_checkpoint::Component;
use zimage_checkpoint::config::TextEncoderConfig;
use zimage_core::rotary;

/// Prompts are computed as if they were this many tokens long, or a multiple: one plan serves many lengths. Attention is
/// causal, so what stands behind a token changes nothing.
const BUCKET: usize = 32;

/// transformers' `Qwen3Model` without its last layer and its final norm: diffusers takes `hidden_states[-2]`.
pub(crate) struct TextEncoder {
    config: TextEncoderConfig,
    embed_tokens: Region,
    layers: Vec<Layer>,
    memory: Vec<Memory>,
}

struct Layer {
    input_layernorm: Region,
    post_attention_layernorm: Region,
    q_norm: Region,
    k_norm: Region,
    qkv: Linear,
    out: Linear,
    gate_and_up: Linear,
    down: Linear,
}

/// Where prompts of so many tokens are encoded.
pub(crate) struct Work {
    /// Tokens, with what fills the bucket.
    pub(crate) tokens: usize,
    ids: Region,
    /// Cosines and sines of the tokens' places.
    table: Region,
    x: Region,
    y: Region,
    h: Region,
    qkv: Region,
    attended: Region,
    gate_and_up: Region,
    activated: Region,
}

impl TextEncoder {
    /// What holds all of its weights: another GPU copies them.
    pub(crate) fn memory(&self) -> &[Memory] {
        &self.memory
    }

    pub(crate) fn load(gpu: &Gpu, source: Source<'_>) -> Result<Self, LoadError> {
        let config = source.checkpoint.text_encoder().clone();
        supported(&config)?;
        let unused = format!("layers.{}.", config.num_hidden_layers - 1);
        let formats = |name: &str| (!name.starts_with(&unused)).then_some(Format::Bf16);
        let mut loader = Loader::new(gpu, source, Component::TextEncoder, formats)?;
        let layers = (0..config.num_hidden_layers - 1)
            .map(|i| Layer::load(&mut loader, &config, &format!("layers.{i}")))
            .collect::<Result<_, _>>()?;
        let table = [config.vocab_size, config.hidden_size];
        Ok(Self {
            embed_tokens: loader.tensor("embed_tokens.weight", &table)?,
            layers,
            config,
            memory: loader.finish()?,
        })
    }

    fn heads(&self, tokens: usize) -> Heads {
        Heads {
            tokens,
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            width: self.config.head_dim,
        }
    }

    /// Tokens that a prompt is computed with.
    pub(crate) const fn bucket(tokens: usize) -> usize {
        tokens.next_multiple_of(BUCKET)
    }

    /// Lays out memory for prompts of a bucket. `table` is what [`Self::table_of`] gave for it.
    pub(crate) fn lay_out(
        &self,
        layout: &mut Layout,
        tokens: usize,
        table: Region,
    ) -> Result<Work, GpuError> {
        let heads = self.heads(tokens);
        let row = tokens * self.config.hidden_size * BF16;
        let ffn = tokens * self.config.intermediate_size * BF16;
        Ok(Work {
            tokens,
            x: layout.take(row)?,
            ids: layout.take(tokens * size_of::<u32>())?,
            table,
            y: layout.take(row)?,
            h: layout.take(row)?,
            qkv: layout.take(heads.bytes())?,
            attended: layout.take(tokens * heads.heads * heads.width * BF16)?,
            gate_and_up: layout.take(2 * ffn)?,
            activated: layout.take(ffn)?,
        })
    }

    /// Bytes of a prompt's memory.
    pub(crate) fn bytes(&self, tokens: usize) -> Result<usize, GpuError> {
        let mut layout = Layout::measure();
        self.lay_out(&mut layout, Self::bucket(tokens), Region::NONE)?;
        Ok(layout.used())
    }

    /// The rotary embedding of a bucket's tokens.
    pub(crate) fn table_of(&self, gpu: &Gpu, tokens: usize) -> Result<Memory, GpuError> {
        let (theta, head) = (self.config.rope_theta(), self.config.head_dim);
        let angles = rotary::text_angles(theta, head, tokens);
        let turn = |&angle: &f32| <[f32; 2]>::from(rotary::cos_sin(angle));
        let table: Vec<f32> = angles.iter().flat_map(turn).collect();
        let memory = gpu.allocate(tokens * head * F32)?;
        gpu.upload(memory.region(), &table)?;
        Ok(memory)
    }

    /// Puts a prompt's tokens where [`Self::forward`] reads them, and zeros behind them.
    pub(crate) fn embed(&self, gpu: &Gpu, work: &Work, ids: &[u32]) -> Result<(), GpuError> {
        let size = (work.tokens, self.config.hidden_size);
        gather(gpu, work.x, self.embed_tokens, ids, work.ids, size)
    }

    /// The hidden states (tokens, hidden) of the first tokens, after [`Self::forward`].
    pub(crate) fn hidden(&self, work: &Work, tokens: usize) -> Result<Region, GpuError> {
        work.x.part(0, tokens * self.config.hidden_size * BF16)
    }

    /// Puts the layers on the stream.
    pub(crate) fn forward(&self, compute: &Compute, work: &Work) -> Result<(), GpuError> {
        let (gpu, tokens) = (&compute.gpu, work.tokens);
        let rows = Rows {
            count: tokens,
            width: self.config.hidden_size,
            eps: self.config.rms_norm_eps as f32,
        };
        let y = Matrix::bf16(work.y, (tokens, rows.width))?;
        for (place, layer) in self.layers.iter().enumerate() {
            if place == 0 {
                rms_norm(gpu, rows, y, work.x, layer.input_layernorm, None)?;
            }
            self.attend(compute, layer, work)?;
            let plain = Added {
                h: work.h,
                weight: None,
                gate: None,
            };
            let norm = |weight| Next {
                y,
                weight,
                scale: None,
            };
            let next = Some(norm(layer.post_attention_layernorm));
            add_norm(gpu, rows, work.x, plain, next)?;
            layer
                .gate_and_up
                .run(compute, tokens, work.gate_and_up, work.y)?;
            let ffn = (tokens, self.config.intermediate_size);
            swiglu(gpu, work.activated, work.gate_and_up, ffn)?;
            layer.down.run(compute, tokens, work.h, work.activated)?;
            let next = self.layers.get(place + 1);
            let next = next.map(|following| norm(following.input_layernorm));
            add_norm(gpu, rows, work.x, plain, next)?;
        }
        Ok(())
    }

    fn attend(&self, compute: &Compute, layer: &Layer, work: &Work) -> Result<(), GpuError> {
        let tokens = work.tokens;
        let heads = self.heads(tokens);
        layer.qkv.run(compute, tokens, work.qkv, work.y)?;
        let norms = Some((layer.q_norm, layer.k_norm, self.config.rms_norm_eps as f32));
        norm_and_rotate(
            &compute.gpu,
            heads,
            Pairs::Halves,
            work.qkv,
            norms,
            work.table,
        )?;
        let attention = Attention {
            heads,
            causal: true,
        };
        compute.attend(attention, work.attended, work.qkv)?;
        layer.out.run(compute, tokens, work.h, work.attended)
    }
}

/// The kernels read eight numbers at once.
fn supported(config: &TextEncoderConfig) -> Result<(), LoadError> {
    for (field, size, most) in [
        ("hidden_size", config.hidden_size, 8192),
        ("intermediate_size", config.intermediate_size, usize::MAX),
        ("head_dim", config.head_dim, 256),
    ] {
        if !size.is_multiple_of(8) || size > most {
            return Err(LoadError::Unsupported(format!(
                "the text encoder's {field} is {size}; multiples of 8 up to {most} are computed"
            )));
        }
    }
    Ok(())
}

impl Layer {
    fn load(
        loader: &mut Loader<'_>,
        config: &TextEncoderConfig,
        name: &str,
    ) -> Result<Self, LoadError> {
        let (hidden, ffn, head) = (
            config.hidden_size,
            config.intermediate_size,
            config.head_dim,
        );
        let (queries, keys) = (
            config.num_attention_heads * head,
            config.num_key_value_heads * head,
        );
        let weight = |part: &str| format!("{name}.{part}.weight");
        let qkv = [
            (weight("self_attn.q_proj"), queries),
            (weight("self_attn.k_proj"), keys),
            (weight("self_attn.v_proj"), keys),
        ];
        let gate_and_up = ["mlp.gate_proj", "mlp.up_proj"].map(|part| (weight(part), ffn));
        let mut norm = |part: &str, size: usize| loader.tensor(&weight(part), &[size]);
        Ok(Self {
            input_layernorm: norm("input_layernorm", hidden)?,
            post_attention_layernorm: norm("post_attention_layernorm", hidden)?,
            q_norm: norm("self_attn.q_norm", head)?,
            k_norm: norm("self_attn.k_norm", head)?,
            qkv: loader.joined(&qkv, hidden)?,
            out: loader.joined(&[(weight("self_attn.o_proj"), hidden)], queries)?,
            gate_and_up: loader.joined(&gate_and_up, hidden)?,
            down: loader.joined(&[(weight("mlp.down_proj"), hidden)], ffn)?,
        })
    }
}
