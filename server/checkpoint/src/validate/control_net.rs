//! What a ControlNet's configuration must hold beside a transformer's.

use super::require;
use crate::config::{ControlNetConfig, Refiner, TransformerConfig};

/// More layers or channels than any ControlNet has: larger numbers are damage.
const MAX: usize = 1 << 10;

/// Whether a ControlNet's hints are what a transformer takes.
pub(crate) fn fit(
    config: &ControlNetConfig,
    transformer: &TransformerConfig,
) -> Result<(), String> {
    require(transformer.siglip_feat_dim.is_none(), || {
        "no ControlNet is implemented for an Omni model".to_owned()
    })?;
    for (field, own, needed) in [
        ("dim", config.dim, transformer.dim),
        ("n_heads", config.n_heads, transformer.n_heads),
    ] {
        require(own == needed, || {
            format!("{field} is {own}, but the transformer's is {needed}")
        })?;
    }
    let (channels, inputs) = (transformer.in_channels, config.control_in_dim);
    require((channels..=MAX).contains(&inputs), || {
        format!("control_in_dim is {inputs}; {channels} to {MAX} fit the transformer's in_channels")
    })?;
    require(config.n_refiner_layers <= MAX, || {
        format!(
            "n_refiner_layers is {}; it must be at most {MAX}",
            config.n_refiner_layers
        )
    })?;
    let places = &config.control_layers_places;
    ascending("control_layers_places", places, transformer.n_layers)?;
    require(places.first() == Some(&0), || {
        format!("control_layers_places is {places:?}; the first must be 0")
    })?;
    fit_refiner(config, transformer)
}

fn fit_refiner(config: &ControlNetConfig, transformer: &TransformerConfig) -> Result<(), String> {
    let field = "control_refiner_layers_places";
    let blocks = match config.add_control_noise_refiner {
        Refiner::Own => return Ok(()),
        Refiner::Shared => config.control_layers_places.len(),
        Refiner::Controlled => config.n_refiner_layers,
    };
    require(blocks > 0, || {
        "n_refiner_layers is 0; a refiner with control has at least one".to_owned()
    })?;
    let places = config.control_refiner_layers_places.as_deref();
    let places = places.ok_or_else(|| format!("{field} is missing"))?;
    ascending(field, places, transformer.n_refiner_layers)?;
    require(places.len() <= blocks, || {
        format!("{field} is {places:?}, but only {blocks} blocks give hints")
    })
}

/// Places must each be behind the one before, and all in the transformer.
fn ascending(field: &str, places: &[usize], layers: usize) -> Result<(), String> {
    let sorted = places.is_sorted_by(|one, next| one < next);
    let inside = places.last().is_none_or(|&last| last < layers);
    require(sorted && inside, || {
        format!("{field} is {places:?}; ascending numbers below {layers} are needed")
    })
}
