//! Tiny ControlNets with random weights.

use super::{Weights, with};
use crate::config::{ControlNetConfig, Refiner};
use crate::error::CheckpointError;
use crate::layout;
use crate::shape::{Shape, Spec};
use serde_json::json;
use std::path::Path;

/// Writes a tiny ControlNet with random weights into a folder, which is created when it is missing: one for the model
/// that [`make_model`](super::make_model) writes for the same shape.
///
/// The files are the same bit for bit for the same shape, form and seed, on every machine. diffusers loads them with
/// `ZImageControlNetModel.from_pretrained`. `config.json` is written last. Unlike a ControlNet before its training,
/// this one's hints are not zero.
///
/// # Errors
/// When a file cannot be written, or another file with its name is already there.
pub fn make_control_net(
    dir: &Path,
    shape: Shape,
    form: Refiner,
    seed: u64,
) -> Result<(), CheckpointError> {
    let spec = shape.spec();
    let config = config(&spec, form);
    // There is none for an Omni model.
    crate::validate::control_net::fit(&config, &spec.transformer)
        .map_err(|problem| CheckpointError::new(dir, problem))?;
    let tensors = layout::control_net(&config, &config.blocks(&spec.transformer));
    let file = with(
        &config,
        json!({
            "_class_name": "ZImageControlNetModel",
            "_diffusers_version": "0.36.0",
            "all_f_patch_size": spec.transformer.all_f_patch_size,
            "all_patch_size": spec.transformer.all_patch_size,
            "n_kv_heads": config.n_heads,
        }),
    );
    let weights = Weights {
        seed,
        component: "controlnet",
        stem: "diffusion_pytorch_model",
    };
    weights.write_folder(dir, file, &tensors, spec.transformer_storage)
}

/// The released forms: the one whose refiner is its own knows no masks and gives the noise refiner no hints.
fn config(spec: &Spec, form: Refiner) -> ControlNetConfig {
    let transformer = &spec.transformer;
    let (channels, layers) = (transformer.in_channels, transformer.n_layers);
    let released = if form == Refiner::Own { 6 } else { 15 };
    ControlNetConfig {
        // Even steps where the model is as deep as the released one, and both ends otherwise.
        control_layers_places: if layers.is_multiple_of(released) {
            (0..layers).step_by(layers / released).collect()
        } else {
            vec![0, layers - 1]
        },
        control_refiner_layers_places: (form != Refiner::Own)
            .then(|| (0..transformer.n_refiner_layers).collect()),
        control_in_dim: match form {
            Refiner::Own => channels,
            Refiner::Shared | Refiner::Controlled => 2 * channels + 1,
        },
        add_control_noise_refiner: form,
        dim: transformer.dim,
        n_refiner_layers: transformer.n_refiner_layers,
        n_heads: transformer.n_heads,
        norm_eps: transformer.norm_eps,
        qk_norm: transformer.qk_norm,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_size_has_the_released_places() {
        let places = |form| config(&Shape::Full.spec(), form).control_layers_places;
        assert_eq!(places(Refiner::Own), [0, 5, 10, 15, 20, 25]);
        assert_eq!(places(Refiner::Shared).last(), Some(&28));
        assert_eq!(places(Refiner::Controlled).len(), 15);
    }
}
