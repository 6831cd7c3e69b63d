//! The parts that only an Omni model has: diffusers' `ZImageOmniPipeline`.

use crate::config::{SiglipConfig, SiglipProcessorConfig, TransformerConfig};
use crate::error::CheckpointError;
use crate::read;
use crate::validate::siglip as validate;
use serde_json::json;
use std::path::Path;

/// How an Omni model sees condition images.
#[derive(Clone, Debug, PartialEq)]
pub struct Siglip {
    /// `siglip/config.json`.
    pub tower: SiglipConfig,
    /// `siglip_processor/preprocessor_config.json`.
    pub processor: SiglipProcessorConfig,
}

impl Siglip {
    pub(super) fn open(
        dir: &Path,
        transformer: &TransformerConfig,
    ) -> Result<Self, CheckpointError> {
        let tower = read::config(
            &dir.join("siglip/config.json"),
            &[
                ("model_type", json!("siglip2_vision_model")),
                ("hidden_act", json!("gelu_pytorch_tanh")),
            ],
            validate::tower,
        )?;
        let processor = read::config(
            &dir.join("siglip_processor/preprocessor_config.json"),
            &[
                ("do_resize", json!(true)),
                ("do_rescale", json!(true)),
                ("do_normalize", json!(true)),
                // Pillow's number for bilinear.
                ("resample", json!(2)),
            ],
            validate::processor,
        )?;
        validate::fit(transformer, &tower, &processor).map_err(|problem| {
            CheckpointError::new(dir.join("transformer/config.json"), problem)
        })?;
        Ok(Self { tower, processor })
    }
}
