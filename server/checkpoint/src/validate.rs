//! What the configurations must hold before anything is computed from them.

pub(crate) mod control_net;
pub(crate) mod siglip;

use crate::config::{TextEncoderConfig, TransformerConfig, VaeConfig};
use serde_json::Value;

/// More channels or tokens than any model has: larger numbers are damage.
const MAX: usize = 1 << 20;

/// More layers than any model has.
const MAX_LAYERS: usize = 1 << 10;

/// Requires fields that change the computation to have the value that is implemented, when they are there.
pub(crate) fn only_known(config: &Value, known: &[(&str, Value)]) -> Result<(), String> {
    for (field, expected) in known {
        match config.get(field) {
            None | Some(Value::Null) => {}
            Some(actual) if actual == expected => {}
            Some(actual) => {
                return Err(format!(
                    "{field} is {actual}; only {expected} is implemented"
                ));
            }
        }
    }
    Ok(())
}

fn sizes(fields: &[(&str, usize)]) -> Result<(), String> {
    let mut fields = fields.iter();
    fields.try_for_each(|&(field, size)| at_most(MAX, field, size))
}

fn at_most(most: usize, field: &str, size: usize) -> Result<(), String> {
    require((1..=most).contains(&size), || {
        format!("{field} is {size}; it must be 1 to {most}")
    })
}

pub(crate) fn require(holds: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(problem()) }
}

pub(crate) fn text_encoder(config: &TextEncoderConfig) -> Result<(), String> {
    let (queries, keys) = (config.num_attention_heads, config.num_key_value_heads);
    sizes(&[
        ("vocab_size", config.vocab_size),
        ("hidden_size", config.hidden_size),
        ("intermediate_size", config.intermediate_size),
        ("num_attention_heads", queries),
        ("num_key_value_heads", keys),
        ("head_dim", config.head_dim),
    ])?;
    at_most(MAX_LAYERS, "num_hidden_layers", config.num_hidden_layers)?;
    let rope = config
        .rope_parameters
        .as_ref()
        .and_then(|rope| rope.rope_type.as_deref());
    require(matches!(rope, None | Some("default")), || {
        format!("rope_type is {rope:?}; only \"default\" is implemented")
    })?;
    require(queries.is_multiple_of(keys), || {
        format!(
            "num_attention_heads is {queries}, which num_key_value_heads, {keys}, does not divide"
        )
    })?;
    require(config.head_dim.is_multiple_of(2), || {
        format!("head_dim is {}; it must be even", config.head_dim)
    })
}

pub(crate) fn transformer(config: &TransformerConfig) -> Result<(), String> {
    let (dim, heads) = (config.dim, config.n_heads);
    sizes(&[
        ("in_channels", config.in_channels),
        ("dim", dim),
        ("n_heads", heads),
        ("cap_feat_dim", config.cap_feat_dim),
    ])?;
    at_most(MAX_LAYERS, "n_layers", config.n_layers)?;
    // There may be none.
    at_most(
        MAX_LAYERS,
        "n_refiner_layers",
        config.n_refiner_layers.max(1),
    )?;
    require(
        config.all_patch_size == [2] && config.all_f_patch_size == [1],
        || {
            let (patch, frames) = (&config.all_patch_size, &config.all_f_patch_size);
            format!(
                "all_patch_size is {patch:?} and all_f_patch_size {frames:?}; only [2] and [1] are implemented"
            )
        },
    )?;
    require(dim.is_multiple_of(heads), || {
        format!("dim is {dim}, which n_heads, {heads}, does not divide")
    })?;
    let (dims, lens) = (&config.axes_dims, &config.axes_lens);
    require(dims.len() == 3 && lens.len() == 3, || {
        "axes_dims and axes_lens must have three entries".to_owned()
    })?;
    let bounded = dims.iter().chain(lens).all(|&axis| axis <= MAX)
        && dims.iter().all(|axis| axis.is_multiple_of(2));
    require(
        bounded && dims.iter().sum::<usize>() == config.head_dim(),
        || {
            format!(
                "axes_dims is {dims:?}; even widths that add up to dim / n_heads, {}, are needed",
                config.head_dim()
            )
        },
    )
}

pub(crate) fn vae(config: &VaeConfig) -> Result<(), String> {
    let (channels, groups) = (&config.block_out_channels, config.norm_num_groups);
    sizes(&[
        ("in_channels", config.in_channels),
        ("latent_channels", config.latent_channels),
        ("norm_num_groups", groups),
    ])?;
    at_most(MAX_LAYERS, "layers_per_block", config.layers_per_block)?;
    require(config.out_channels == 3, || {
        format!("out_channels is {}; an image has 3", config.out_channels)
    })?;
    require(channels.len() == 4, || {
        format!(
            "block_out_channels has {} entries; only 4 are implemented (an eighth of the size)",
            channels.len()
        )
    })?;
    for &width in channels {
        sizes(&[("an entry of block_out_channels", width)])?;
        require(width.is_multiple_of(groups), || {
            format!(
                "block_out_channels has {width}, which norm_num_groups, {groups}, does not divide"
            )
        })?;
    }
    require(config.scaling_factor != 0.0, || {
        "scaling_factor is 0".to_owned()
    })
}
