//! A ControlNet's files, opened: what makes a transformer follow an image of edges, depth or a pose.

mod released;

use crate::config::{ControlNetConfig, TransformerConfig};
use crate::error::CheckpointError;
use crate::layout::{self, Expected};
use crate::read;
use crate::tensor::TensorView;
use crate::validate;
use crate::weights::Weights;
use serde_json::json;
use std::path::Path;

/// A ControlNet whose configuration fits a transformer's, and its weights.
pub struct ControlNet {
    config: ControlNetConfig,
    blocks: TransformerConfig,
    weights: Weights,
}

impl ControlNet {
    /// Reads the configuration and the headers of the weight files: those of a folder in diffusers' layout, or of a
    /// single file of Fun-Union 1.0, 2.0 or 2.1. No weights are read, but for the tensor that tells 2.0 from 2.1.
    ///
    /// # Errors
    /// When a file is missing, is damaged, or describes a ControlNet that is not implemented or not `transformer`'s.
    pub fn open(path: &Path, transformer: &TransformerConfig) -> Result<Self, CheckpointError> {
        let (config_path, config, weights) = if path.is_dir() {
            let config_path = path.join("config.json");
            let known = [
                ("_class_name", json!("ZImageControlNetModel")),
                ("all_patch_size", json!([2])),
                ("all_f_patch_size", json!([1])),
            ];
            let config = read::config(&config_path, &known, |_: &ControlNetConfig| Ok(()))?;
            let weights = Weights::open_folder(path, "diffusion_pytorch_model", "")?;
            (config_path, config, weights)
        } else {
            let weights = Weights::open_diffusers_file(path)?;
            let config = released::config(&weights, transformer)?;
            (path.to_owned(), config, weights)
        };
        validate::control_net::fit(&config, transformer)
            .map_err(|problem| CheckpointError::new(config_path, problem))?;
        Ok(Self {
            blocks: config.blocks(transformer),
            config,
            weights,
        })
    }

    /// What the ControlNet is.
    pub const fn config(&self) -> &ControlNetConfig {
        &self.config
    }

    /// The configuration of its blocks.
    pub const fn blocks(&self) -> &TransformerConfig {
        &self.blocks
    }

    /// A tensor that must have this shape.
    ///
    /// # Errors
    /// When it is missing, stored in a format that is not read, or of another shape.
    pub fn tensor_of_shape(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<TensorView<'_>, CheckpointError> {
        self.weights.tensor_of_shape(name, shape)
    }

    /// The tensors that the configuration implies.
    pub fn expected(&self) -> Vec<Expected> {
        layout::control_net(&self.config, &self.blocks)
    }

    /// Checks that every tensor that the configuration implies is there, with its shape, in a format that is read.
    ///
    /// # Errors
    /// Names the first tensor that is missing or does not fit, and its file.
    pub fn verify(&self) -> Result<(), CheckpointError> {
        for Expected { name, shape } in self.expected() {
            self.tensor_of_shape(&name, &shape)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
