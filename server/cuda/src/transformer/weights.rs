//! The transformer's weights on the GPU.

use crate::compute::Linear;
use crate::error::LoadError;
use crate::gpu::Gpu;
use crate::matmul::Output;
use crate::matrix::ROTATED;
use crate::memory::{Memory, Region};
use crate::ops::hopper;
use crate::precision::Precision;
use crate::weights::{Loader, Source};
use zimage_checkpoint::Component;
use zimage_checkpoint::config::TransformerConfig;
use zimage_core::rotary::TIME_FREQUENCIES;
use zimage_core::validate::ModelLimits;

/// Width of the first layer of the time's embedding.
const TIME_HIDDEN: usize = 1024;

/// The denoising transformer.
pub(crate) struct Transformer {
    pub(super) config: TransformerConfig,
    /// Width of the feed-forward layers, filled up to a multiple of eight.
    pub(super) ffn: usize,
    pub(super) x_embedder: Linear,
    pub(super) x_pad_token: Region,
    pub(super) cap_norm: Region,
    pub(super) cap_embedder: Linear,
    pub(super) cap_pad_token: Region,
    pub(super) time_in: Linear,
    pub(super) time_out: Linear,
    pub(super) noise_refiner: Vec<Block>,
    pub(super) context_refiner: Vec<Block>,
    pub(super) layers: Vec<Block>,
    /// Modulations of the noise refiner's blocks and then of the layers.
    pub(super) modulation: Linear,
    pub(super) final_modulation: Linear,
    pub(super) final_linear: Linear,
    /// What every region above is a part of.
    memory: Vec<Memory>,
}

/// The weights of one block.
pub(super) struct Block {
    pub(super) qkv: Linear,
    pub(super) out: Linear,
    pub(super) qk_norms: Option<(Region, Region)>,
    pub(super) attention_norm1: Region,
    pub(super) attention_norm2: Region,
    pub(super) ffn_norm1: Region,
    pub(super) ffn_norm2: Region,
    pub(super) gate_and_up: Linear,
    pub(super) down: Linear,
}

impl Transformer {
    /// What holds all of its weights: another GPU copies them.
    pub(crate) fn memory(&self) -> &[Memory] {
        &self.memory
    }

    pub(crate) fn load(
        gpu: &Gpu,
        source: Source<'_>,
        precision: Precision,
    ) -> Result<Self, LoadError> {
        let config = source.checkpoint.transformer().clone();
        supported(&config)?;
        if precision == Precision::Int8 {
            integers_are_supported(gpu, &config)?;
        }
        let formats = |name: &str| Some(precision.format(name));
        let mut loader = Loader::new(gpu, source, Component::Transformer, formats)?;
        let (dim, adaln, patch) = (config.dim, config.adaln_dim(), config.patch_dim());
        let caption = config.cap_feat_dim;
        let last = "all_final_layer.2-1";
        let names = |list: &str, count: usize| -> Vec<String> {
            (0..count).map(|i| format!("{list}.{i}")).collect()
        };
        let noise_refiner = names("noise_refiner", config.n_refiner_layers);
        let context_refiner = names("context_refiner", config.n_refiner_layers);
        let layers = names("layers", config.n_layers);
        let modulated: Vec<String> = [noise_refiner.clone(), layers.clone()].concat();
        let of_each = |what: &str| -> Vec<(String, usize)> {
            let name = |block: &String| (format!("{block}.adaLN_modulation.0.{what}"), 4 * dim);
            modulated.iter().map(name).collect()
        };
        let mut blocks = |names: &[String]| -> Result<Vec<Block>, LoadError> {
            names
                .iter()
                .map(|name| Block::load(&mut loader, &config, name))
                .collect()
        };
        let (noise_refiner, context_refiner, layers) = (
            blocks(&noise_refiner)?,
            blocks(&context_refiner)?,
            blocks(&layers)?,
        );
        Ok(Self {
            ffn: config.ffn_dim().next_multiple_of(8),
            x_embedder: loader.linear("all_x_embedder.2-1", (patch, dim), Output::Bf16)?,
            x_pad_token: loader.tensor("x_pad_token", &[1, dim])?,
            cap_norm: loader.tensor("cap_embedder.0.weight", &[caption])?,
            cap_embedder: loader.linear("cap_embedder.1", (caption, dim), Output::Bf16)?,
            cap_pad_token: loader.tensor("cap_pad_token", &[1, dim])?,
            time_in: loader.linear(
                "t_embedder.mlp.0",
                (TIME_FREQUENCIES, TIME_HIDDEN),
                Output::F32,
            )?,
            time_out: loader.linear("t_embedder.mlp.2", (TIME_HIDDEN, adaln), Output::F32)?,
            noise_refiner,
            context_refiner,
            layers,
            modulation: Linear {
                bias: Some(loader.vectors(&of_each("bias"))?),
                output: Output::F32,
                ..loader.joined(&of_each("weight"), adaln)?
            },
            final_modulation: loader.linear(
                &format!("{last}.adaLN_modulation.1"),
                (adaln, dim),
                Output::F32,
            )?,
            final_linear: loader.linear(&format!("{last}.linear"), (dim, patch), Output::F32)?,
            config,
            memory: loader.finish()?,
        })
    }

    /// What the model has positions for.
    pub(crate) fn limits(&self) -> ModelLimits {
        ModelLimits::of_axes(&self.config.axes_lens)
    }

    /// Channels of the latents.
    pub(crate) const fn channels(&self) -> usize {
        self.config.in_channels
    }

    /// Numbers of a step's row of modulations.
    pub(super) const fn modulation_row(&self) -> usize {
        self.modulation.outputs()
    }
}

/// The kernels read eight numbers at once.
fn supported(config: &TransformerConfig) -> Result<(), LoadError> {
    for (field, size, most) in [
        ("dim", config.dim, 8192),
        ("dim / n_heads", config.head_dim(), 256),
        ("cap_feat_dim", config.cap_feat_dim, 8192),
        ("4 * in_channels", config.patch_dim(), 8192),
    ] {
        if !size.is_multiple_of(8) || size > most {
            return Err(LoadError::Unsupported(format!(
                "{field} is {size}; multiples of 8 up to {most} are computed"
            )));
        }
    }
    Ok(())
}

/// Whether the products of a step are computed in integers.
fn integers_are_supported(gpu: &Gpu, config: &TransformerConfig) -> Result<(), LoadError> {
    let refused = |why: String| {
        Err(LoadError::Unsupported(format!(
            "int8 {why}; bfloat16 works"
        )))
    };
    if !hopper::available(gpu) {
        let (name, (major, minor)) = (&gpu.properties().name, gpu.properties().capability);
        return refused(format!(
            "needs compute capability 9.0 (H100, H200, H800), and {name} has {major}.{minor}"
        ));
    }
    for (field, width) in [
        ("dim", config.dim),
        ("the feed-forward width", config.ffn_dim()),
    ] {
        if !width.is_multiple_of(ROTATED) {
            return refused(format!(
                "needs widths of multiples of {ROTATED}, and {field} is {width}"
            ));
        }
    }
    Ok(())
}

impl Block {
    fn load(
        loader: &mut Loader<'_>,
        config: &TransformerConfig,
        name: &str,
    ) -> Result<Self, LoadError> {
        let (dim, ffn) = (config.dim, config.ffn_dim());
        let padded = ffn.next_multiple_of(8);
        let attention = |part: &str| format!("{name}.attention.{part}.weight");
        let feed_forward = |part: &str| format!("{name}.feed_forward.{part}.weight");
        let qkv = ["to_q", "to_k", "to_v"].map(|part| (attention(part), dim));
        let gate_and_up = ["w1", "w3"].map(|part| (feed_forward(part), ffn));
        let mut norm =
            |part: &str, size: usize| loader.tensor(&format!("{name}.{part}.weight"), &[size]);
        Ok(Self {
            qk_norms: match config.qk_norm {
                true => Some((
                    norm("attention.norm_q", config.head_dim())?,
                    norm("attention.norm_k", config.head_dim())?,
                )),
                false => None,
            },
            attention_norm1: norm("attention_norm1", dim)?,
            attention_norm2: norm("attention_norm2", dim)?,
            ffn_norm1: norm("ffn_norm1", dim)?,
            ffn_norm2: norm("ffn_norm2", dim)?,
            qkv: loader.joined(&qkv, dim)?,
            out: loader.joined(&[(attention("to_out.0"), dim)], dim)?,
            gate_and_up: loader.joined_padded(&gate_and_up, dim, (padded, dim))?,
            down: loader.joined_padded(&[(feed_forward("w2"), dim)], ffn, (dim, padded))?,
        })
    }
}
