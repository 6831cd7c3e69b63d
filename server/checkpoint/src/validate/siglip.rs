//! What an Omni model's configurations must hold.

use super::{MAX_LAYERS, at_most, require, sizes};
use crate::config::{SiglipConfig, SiglipProcessorConfig, TransformerConfig};

pub(crate) fn tower(config: &SiglipConfig) -> Result<(), String> {
    let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
    sizes(&[
        ("hidden_size", hidden),
        ("intermediate_size", config.intermediate_size),
        ("num_attention_heads", heads),
        ("patch_size", config.patch_size),
        ("num_patches", config.num_patches),
    ])?;
    at_most(MAX_LAYERS, "num_hidden_layers", config.num_hidden_layers)?;
    require(config.num_channels == 3, || {
        format!("num_channels is {}; an image has 3", config.num_channels)
    })?;
    require(hidden.is_multiple_of(heads), || {
        format!("hidden_size is {hidden}, which num_attention_heads, {heads}, does not divide")
    })?;
    let side = config.position_side();
    require(side * side == config.num_patches, || {
        format!(
            "num_patches is {}; a square number is needed",
            config.num_patches
        )
    })
}

pub(crate) fn processor(config: &SiglipProcessorConfig) -> Result<(), String> {
    sizes(&[
        ("patch_size", config.patch_size),
        ("max_num_patches", config.max_num_patches),
    ])?;
    require(
        config.rescale_factor.is_finite() && config.rescale_factor > 0.0,
        || format!("rescale_factor is {}", config.rescale_factor),
    )?;
    let usable = config.image_std.iter().all(|&deviation| deviation > 0.0);
    require(usable, || {
        format!("image_std is {:?}; it divides", config.image_std)
    })
}

/// What the tower gives must be what the transformer takes, and the patches of one size.
pub(crate) fn fit(
    transformer: &TransformerConfig,
    tower: &SiglipConfig,
    processor: &SiglipProcessorConfig,
) -> Result<(), String> {
    let (features, hidden) = (transformer.siglip_feat_dim, tower.hidden_size);
    require(features == Some(hidden), || match features {
        Some(features) => {
            format!("siglip_feat_dim is {features}, but siglip's hidden_size is {hidden}")
        }
        None => {
            "siglip_feat_dim is not there: the transformer takes no condition images".to_owned()
        }
    })?;
    let (one, other) = (tower.patch_size, processor.patch_size);
    require(one == other, || {
        format!("siglip's patch_size is {one}, but siglip_processor's is {other}")
    })
}
