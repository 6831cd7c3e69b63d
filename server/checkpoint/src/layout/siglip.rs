//! The tensors of an Omni model's vision tower.

use super::{Expected, Names};
use crate::config::SiglipConfig;

/// Tensors of transformers' `Siglip2VisionModel`, without the "vision_model." that some checkpoints put before each name.
pub fn siglip(config: &SiglipConfig) -> Vec<Expected> {
    let mut names = Names::new();
    let hidden = config.hidden_size;
    names.weight_and_bias("embeddings.patch_embedding", &[hidden, config.patch_dim()]);
    names.weight(
        "embeddings.position_embedding",
        &[config.num_patches, hidden],
    );
    for i in 0..config.num_hidden_layers {
        let layer = format!("encoder.layers.{i}");
        norm(&mut names, &format!("{layer}.layer_norm1"), hidden);
        for projection in ["k_proj", "v_proj", "q_proj", "out_proj"] {
            let projection = format!("{layer}.self_attn.{projection}");
            names.weight_and_bias(&projection, &[hidden, hidden]);
        }
        norm(&mut names, &format!("{layer}.layer_norm2"), hidden);
        mlp(&mut names, &format!("{layer}.mlp"), config);
    }
    norm(&mut names, "post_layernorm", hidden);
    if config.vision_use_head {
        names.add("head.probe".to_owned(), &[1, 1, hidden]);
        let attention = "head.attention";
        names.add(format!("{attention}.in_proj_weight"), &[3 * hidden, hidden]);
        names.add(format!("{attention}.in_proj_bias"), &[3 * hidden]);
        names.weight_and_bias(&format!("{attention}.out_proj"), &[hidden, hidden]);
        norm(&mut names, "head.layernorm", hidden);
        mlp(&mut names, "head.mlp", config);
    }
    names.tensors
}

fn norm(names: &mut Names, name: &str, hidden: usize) {
    names.weight_and_bias(name, &[hidden]);
}

fn mlp(names: &mut Names, name: &str, config: &SiglipConfig) {
    let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
    names.weight_and_bias(&format!("{name}.fc1"), &[ffn, hidden]);
    names.weight_and_bias(&format!("{name}.fc2"), &[hidden, ffn]);
}
