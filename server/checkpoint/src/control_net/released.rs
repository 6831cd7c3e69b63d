//! The released ControlNets that are a single file without a configuration, told apart as diffusers tells them.

use crate::config::{ControlNetConfig, Refiner, TransformerConfig};
use crate::error::CheckpointError;
use crate::weights::Weights;

/// Channels of the latents, of a mask and of the latents that are kept: what Fun-Union 2.0 and 2.1 read.
const WITH_MASK: usize = 33;

/// The configuration of a Fun-Union file, from its tensors.
///
/// Follows diffusers' `infer_diffusers_model_type` and the configurations that it then loads.
pub(super) fn config(
    weights: &Weights,
    transformer: &TransformerConfig,
) -> Result<ControlNetConfig, CheckpointError> {
    let has = |layer: usize| {
        let name = format!("control_layers.{layer}.adaLN_modulation.0.weight");
        weights.tensor(&name).is_ok()
    };
    let layers = (0..).take_while(|&layer| has(layer)).count();
    let (step, refiner, inputs) = match layers {
        6 => (5, Refiner::Own, transformer.in_channels),
        15 if refiner_was_trained(weights) => (2, Refiner::Controlled, WITH_MASK),
        // 2.0 has a refiner too, which was never trained: its layers stand in.
        15 => (2, Refiner::Shared, WITH_MASK),
        _ => {
            let problem = format!(
                "the file has {layers} control layers; known are 6 (Fun-Union 1.0) and 15 (2.0 and 2.1). \
                 For another ControlNet name a folder with config.json and diffusion_pytorch_model.safetensors"
            );
            return Err(CheckpointError::new(weights.path(), problem));
        }
    };
    Ok(ControlNetConfig {
        control_layers_places: (0..layers).map(|layer| layer * step).collect(),
        control_refiner_layers_places: (refiner != Refiner::Own).then(|| vec![0, 1]),
        control_in_dim: inputs,
        add_control_noise_refiner: refiner,
        dim: transformer.dim,
        n_refiner_layers: 2,
        n_heads: transformer.n_heads,
        norm_eps: 1e-5,
        qk_norm: true,
    })
}

/// The projection is zero before the training; 2.0 has it so, or not at all.
fn refiner_was_trained(weights: &Weights) -> bool {
    let projection = weights.tensor("control_noise_refiner.0.before_proj.weight");
    projection.is_ok_and(|tensor| tensor.to_f32().iter().any(|&weight| weight != 0.0))
}
