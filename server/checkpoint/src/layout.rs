//! The names and shapes of the tensors that a component's configuration implies, as diffusers and transformers save them.

mod siglip;

pub use siglip::siglip;

use crate::config::{ControlNetConfig, Refiner, TextEncoderConfig, TransformerConfig, VaeConfig};

/// A tensor that must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Name in the checkpoint.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

/// Collects names below a prefix.
struct Names {
    tensors: Vec<Expected>,
}

impl Names {
    const fn new() -> Self {
        Self {
            tensors: Vec::new(),
        }
    }

    fn add(&mut self, name: String, shape: &[usize]) {
        self.tensors.push(Expected {
            name,
            shape: shape.to_vec(),
        });
    }

    fn weight(&mut self, module: &str, shape: &[usize]) {
        self.add(format!("{module}.weight"), shape);
    }

    fn weight_and_bias(&mut self, module: &str, shape: &[usize]) {
        self.weight(module, shape);
        self.add(format!("{module}.bias"), &shape[..1]);
    }
}

/// Tensors of transformers' `Qwen3Model`, without the "model." that some checkpoints put before each name.
pub fn text_encoder(config: &TextEncoderConfig) -> Vec<Expected> {
    let mut names = Names::new();
    let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    names.weight("embed_tokens", &[config.vocab_size, hidden]);
    for i in 0..config.num_hidden_layers {
        let layer = format!("layers.{i}");
        names.weight(&format!("{layer}.self_attn.q_proj"), &[queries, hidden]);
        names.weight(&format!("{layer}.self_attn.k_proj"), &[keys, hidden]);
        names.weight(&format!("{layer}.self_attn.v_proj"), &[keys, hidden]);
        names.weight(&format!("{layer}.self_attn.o_proj"), &[hidden, queries]);
        names.weight(&format!("{layer}.self_attn.q_norm"), &[config.head_dim]);
        names.weight(&format!("{layer}.self_attn.k_norm"), &[config.head_dim]);
        names.weight(&format!("{layer}.mlp.gate_proj"), &[ffn, hidden]);
        names.weight(&format!("{layer}.mlp.up_proj"), &[ffn, hidden]);
        names.weight(&format!("{layer}.mlp.down_proj"), &[hidden, ffn]);
        names.weight(&format!("{layer}.input_layernorm"), &[hidden]);
        names.weight(&format!("{layer}.post_attention_layernorm"), &[hidden]);
    }
    names.weight("norm", &[hidden]);
    names.tensors
}

/// Tensors of diffusers' `ZImageTransformer2DModel` with patches of 2 x 2.
pub fn transformer(config: &TransformerConfig) -> Vec<Expected> {
    let mut names = Names::new();
    let (dim, adaln, patch) = (config.dim, config.adaln_dim(), config.patch_dim());
    names.weight_and_bias("all_x_embedder.2-1", &[dim, patch]);
    names.weight_and_bias("all_final_layer.2-1.linear", &[patch, dim]);
    names.weight_and_bias("all_final_layer.2-1.adaLN_modulation.1", &[dim, adaln]);
    names.weight_and_bias("t_embedder.mlp.0", &[1024, 256]);
    names.weight_and_bias("t_embedder.mlp.2", &[adaln, 1024]);
    names.weight("cap_embedder.0", &[config.cap_feat_dim]);
    names.weight_and_bias("cap_embedder.1", &[dim, config.cap_feat_dim]);
    names.add("x_pad_token".to_owned(), &[1, dim]);
    names.add("cap_pad_token".to_owned(), &[1, dim]);
    for i in 0..config.n_refiner_layers {
        transformer_block(&mut names, config, &format!("noise_refiner.{i}"), true);
        transformer_block(&mut names, config, &format!("context_refiner.{i}"), false);
    }
    for i in 0..config.n_layers {
        transformer_block(&mut names, config, &format!("layers.{i}"), true);
    }
    if let Some(features) = config.siglip_feat_dim {
        names.weight("siglip_embedder.0", &[features]);
        names.weight_and_bias("siglip_embedder.1", &[dim, features]);
        names.add("siglip_pad_token".to_owned(), &[1, dim]);
        for i in 0..config.n_refiner_layers {
            transformer_block(&mut names, config, &format!("siglip_refiner.{i}"), false);
        }
    }
    names.tensors
}

/// Tensors of diffusers' `ZImageControlNetModel`; `blocks` is [`ControlNetConfig::blocks`] of its transformer.
pub fn control_net(config: &ControlNetConfig, blocks: &TransformerConfig) -> Vec<Expected> {
    let mut names = Names::new();
    let patch = blocks.patch_dim() / blocks.in_channels * config.control_in_dim;
    names.weight_and_bias("control_all_x_embedder.2-1", &[blocks.dim, patch]);
    let mut block = |name: String, projections: &[&str]| {
        transformer_block(&mut names, blocks, &name, true);
        for projection in projections {
            names.weight_and_bias(&format!("{name}.{projection}"), &[blocks.dim, blocks.dim]);
        }
    };
    // Only the first block of a row takes the image in.
    let control = |number: usize| match number {
        0 => ["before_proj", "after_proj"].as_slice(),
        _ => ["after_proj"].as_slice(),
    };
    for i in 0..config.control_layers_places.len() {
        block(format!("control_layers.{i}"), control(i));
    }
    for i in 0..config.n_refiner_layers {
        let name = format!("control_noise_refiner.{i}");
        match config.add_control_noise_refiner {
            Refiner::Own => block(name, &[]),
            Refiner::Shared => {}
            Refiner::Controlled => block(name, control(i)),
        }
    }
    names.tensors
}

fn transformer_block(names: &mut Names, config: &TransformerConfig, block: &str, modulated: bool) {
    let (dim, ffn) = (config.dim, config.ffn_dim());
    for projection in ["to_q", "to_k", "to_v", "to_out.0"] {
        names.weight(&format!("{block}.attention.{projection}"), &[dim, dim]);
    }
    if config.qk_norm {
        names.weight(&format!("{block}.attention.norm_q"), &[config.head_dim()]);
        names.weight(&format!("{block}.attention.norm_k"), &[config.head_dim()]);
    }
    for norm in [
        "attention_norm1",
        "attention_norm2",
        "ffn_norm1",
        "ffn_norm2",
    ] {
        names.weight(&format!("{block}.{norm}"), &[dim]);
    }
    names.weight(&format!("{block}.feed_forward.w1"), &[ffn, dim]);
    names.weight(&format!("{block}.feed_forward.w2"), &[dim, ffn]);
    names.weight(&format!("{block}.feed_forward.w3"), &[ffn, dim]);
    if modulated {
        names.weight_and_bias(
            &format!("{block}.adaLN_modulation.0"),
            &[4 * dim, config.adaln_dim()],
        );
    }
}

/// Tensors of diffusers' `AutoencoderKL` without quantisation convolutions: encoder and decoder.
pub fn vae(config: &VaeConfig) -> Vec<Expected> {
    let mut names = Names::new();
    let channels = &config.block_out_channels;
    let (first, last) = (channels[0], channels[channels.len() - 1]);

    names.weight_and_bias("encoder.conv_in", &[first, config.in_channels, 3, 3]);
    let mut previous = first;
    for (i, &width) in channels.iter().enumerate() {
        for j in 0..config.layers_per_block {
            resnet(
                &mut names,
                &format!("encoder.down_blocks.{i}.resnets.{j}"),
                previous,
                width,
            );
            previous = width;
        }
        if i + 1 < channels.len() {
            let conv = format!("encoder.down_blocks.{i}.downsamplers.0.conv");
            names.weight_and_bias(&conv, &[width, width, 3, 3]);
        }
    }
    vae_ends(
        &mut names,
        "encoder",
        last,
        last,
        2 * config.latent_channels,
    );

    names.weight_and_bias("decoder.conv_in", &[last, config.latent_channels, 3, 3]);
    let mut previous = last;
    for (i, &width) in channels.iter().rev().enumerate() {
        for j in 0..=config.layers_per_block {
            resnet(
                &mut names,
                &format!("decoder.up_blocks.{i}.resnets.{j}"),
                previous,
                width,
            );
            previous = width;
        }
        if i + 1 < channels.len() {
            let conv = format!("decoder.up_blocks.{i}.upsamplers.0.conv");
            names.weight_and_bias(&conv, &[width, width, 3, 3]);
        }
    }
    vae_ends(&mut names, "decoder", last, first, config.out_channels);
    names.tensors
}

/// The middle block, and the normalisation and convolution at the end.
fn vae_ends(names: &mut Names, half: &str, middle: usize, end: usize, out: usize) {
    resnet(
        names,
        &format!("{half}.mid_block.resnets.0"),
        middle,
        middle,
    );
    let attention = format!("{half}.mid_block.attentions.0");
    names.weight_and_bias(&format!("{attention}.group_norm"), &[middle]);
    for projection in ["to_q", "to_k", "to_v", "to_out.0"] {
        names.weight_and_bias(&format!("{attention}.{projection}"), &[middle, middle]);
    }
    resnet(
        names,
        &format!("{half}.mid_block.resnets.1"),
        middle,
        middle,
    );
    names.weight_and_bias(&format!("{half}.conv_norm_out"), &[end]);
    names.weight_and_bias(&format!("{half}.conv_out"), &[out, end, 3, 3]);
}

fn resnet(names: &mut Names, block: &str, from: usize, to: usize) {
    names.weight_and_bias(&format!("{block}.norm1"), &[from]);
    names.weight_and_bias(&format!("{block}.conv1"), &[to, from, 3, 3]);
    names.weight_and_bias(&format!("{block}.norm2"), &[to]);
    names.weight_and_bias(&format!("{block}.conv2"), &[to, to, 3, 3]);
    if from != to {
        names.weight_and_bias(&format!("{block}.conv_shortcut"), &[to, from, 1, 1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_transformer_has_521_tensors() {
        let mut config = crate::shape::Shape::Tiny.spec().transformer;
        config.n_layers = 30;
        assert_eq!(transformer(&config).len(), 521);
    }
}
