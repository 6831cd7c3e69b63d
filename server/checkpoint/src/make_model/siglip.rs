//! What an Omni model has besides.

use super::{Weights, json_file, with};
use crate::checkpoint::Siglip;
use crate::error::CheckpointError;
use crate::layout;
use crate::shape::Storage;
use crate::write::write_once;
use safetensors::Dtype;
use serde_json::{Value, json};
use std::path::Path;

/// Entries of `model_index.json`.
pub(super) fn index() -> Value {
    json!({
        "_class_name": "ZImageOmniPipeline",
        "siglip": ["transformers", "Siglip2VisionModel"],
        "siglip_processor": ["transformers", "Siglip2ImageProcessor"],
    })
}

/// Writes the `siglip` and `siglip_processor` folders.
pub(super) fn write(dir: &Path, siglip: &Siglip, seed: u64) -> Result<(), CheckpointError> {
    let config = with(
        &siglip.tower,
        json!({
            "architectures": ["Siglip2VisionModel"],
            "attention_dropout": 0.0,
            "hidden_act": "gelu_pytorch_tanh",
            "model_type": "siglip2_vision_model",
            "torch_dtype": "float32",
        }),
    );
    let mut tensors = layout::siglip(&siglip.tower);
    for tensor in &mut tensors {
        tensor.name.insert_str(0, "vision_model.");
    }
    let weights = Weights {
        seed,
        component: "siglip",
        stem: "model",
    };
    let storage = Storage {
        dtype: Dtype::F32,
        shards: 1,
    };
    weights.write(dir, config, &tensors, storage)?;

    let processor = with(
        &siglip.processor,
        json!({
            "do_convert_rgb": null,
            "do_normalize": true,
            "do_rescale": true,
            "do_resize": true,
            "image_processor_type": "Siglip2ImageProcessor",
            "resample": 2,
        }),
    );
    let path = dir.join("siglip_processor/preprocessor_config.json");
    write_once(&path, &json_file(processor))
}
