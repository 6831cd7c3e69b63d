//! Writes tiny models with random weights in the layout of the released ones.

mod control_net;
mod siglip;
mod tokenizer;
mod weights;

pub use control_net::make_control_net;

use crate::error::CheckpointError;
use crate::layout::{self, Expected};
use crate::shape::{Shape, Spec, Storage};
use crate::write::write_once;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Writes a tiny model with random weights into a folder, which is created when it is missing.
///
/// The files are the same bit for bit for the same shape and seed, on every machine. diffusers loads them with
/// `ZImagePipeline.from_pretrained`, an Omni model with `ZImageOmniPipeline.from_pretrained`. `model_index.json` is written last: a folder that has it is complete. Writing the
/// same model again changes nothing.
///
/// # Errors
/// When a file cannot be written, or another file with its name is already there.
pub fn make_model(dir: &Path, shape: Shape, seed: u64) -> Result<(), CheckpointError> {
    let spec = shape.spec();
    for (name, content) in tokenizer::files() {
        write_once(&dir.join("tokenizer").join(name), &content)?;
    }
    let (config, tensors) = text_encoder(&spec);
    let weights = Weights {
        seed,
        component: "text_encoder",
        stem: "model",
    };
    weights.write(dir, config, &tensors, spec.text_encoder_storage)?;

    let (config, tensors) = transformer(&spec);
    let weights = Weights {
        seed,
        component: "transformer",
        stem: "diffusion_pytorch_model",
    };
    weights.write(dir, config, &tensors, spec.transformer_storage)?;

    let (config, tensors) = vae(&spec);
    let weights = Weights {
        seed,
        component: "vae",
        stem: "diffusion_pytorch_model",
    };
    weights.write(dir, config, &tensors, spec.vae_storage)?;

    if let Some(siglip) = &spec.siglip {
        siglip::write(dir, siglip, seed)?;
    }

    let scheduler = with(
        &spec.scheduler,
        json!({
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "_diffusers_version": "0.36.0",
        }),
    );
    write_once(
        &dir.join("scheduler/scheduler_config.json"),
        &json_file(scheduler),
    )?;
    let mut index = json!({
        "_class_name": "ZImagePipeline",
        "_diffusers_version": "0.36.0",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen3Model"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "ZImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    });
    if spec.siglip.is_some() {
        index = with(&index, siglip::index());
    }
    write_once(&dir.join("model_index.json"), &json_file(index))
}

fn text_encoder(spec: &Spec) -> (Value, Vec<Expected>) {
    let config = with(
        &spec.text_encoder,
        json!({
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": null,
            "eos_token_id": null,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "max_position_embeddings": 40960,
            "max_window_layers": spec.text_encoder.num_hidden_layers,
            "model_type": "qwen3",
            "rope_scaling": null,
            "sliding_window": null,
            "tie_word_embeddings": true,
            "torch_dtype": dtype_name(spec.text_encoder_storage.dtype),
            "use_cache": true,
            "use_sliding_window": false,
        }),
    );
    let mut tensors = layout::text_encoder(&spec.text_encoder);
    for tensor in &mut tensors {
        tensor.name.insert_str(0, spec.text_encoder_prefix);
    }
    (config, tensors)
}

fn transformer(spec: &Spec) -> (Value, Vec<Expected>) {
    let config = with(
        &spec.transformer,
        json!({
            "_class_name": "ZImageTransformer2DModel",
            "_diffusers_version": "0.36.0",
            "n_kv_heads": spec.transformer.n_heads,
        }),
    );
    (config, layout::transformer(&spec.transformer))
}

fn vae(spec: &Spec) -> (Value, Vec<Expected>) {
    let levels = spec.vae.block_out_channels.len();
    let config = with(
        &spec.vae,
        json!({
            "_class_name": "AutoencoderKL",
            "_diffusers_version": "0.36.0",
            "act_fn": "silu",
            "down_block_types": vec!["DownEncoderBlock2D"; levels],
            "force_upcast": true,
            "latents_mean": null,
            "latents_std": null,
            "mid_block_add_attention": true,
            "sample_size": 1024,
            "up_block_types": vec!["UpDecoderBlock2D"; levels],
            "use_post_quant_conv": false,
            "use_quant_conv": false,
        }),
    );
    (config, layout::vae(&spec.vae))
}

const fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::BF16 => "bfloat16",
        Dtype::F16 => "float16",
        _ => "float32",
    }
}

/// Where a component's random weights go.
struct Weights {
    seed: u64,
    component: &'static str,
    /// The weight files' name before "-00001-of-00003.safetensors".
    stem: &'static str,
}

impl Weights {
    fn write(
        &self,
        dir: &Path,
        config: Value,
        tensors: &[Expected],
        storage: Storage,
    ) -> Result<(), CheckpointError> {
        self.write_folder(&dir.join(self.component), config, tensors, storage)
    }

    fn write_folder(
        &self,
        folder: &Path,
        config: Value,
        tensors: &[Expected],
        storage: Storage,
    ) -> Result<(), CheckpointError> {
        let per_file = tensors.len().div_ceil(storage.shards);
        let mut weight_map = BTreeMap::new();
        let mut total_size = 0;
        for (number, part) in (1..).zip(tensors.chunks(per_file)) {
            let file = match storage.shards {
                1 => format!("{}.safetensors", self.stem),
                shards => format!("{}-{number:05}-of-{shards:05}.safetensors", self.stem),
            };
            let content = self
                .serialize(part, storage.dtype)
                .map_err(CheckpointError::while_doing(folder, "encode"))?;
            write_once(&folder.join(&file), &content)?;
            for tensor in part {
                weight_map.insert(tensor.name.clone(), file.clone());
                total_size += tensor.shape.iter().product::<usize>() * storage.dtype.bitsize() / 8;
            }
        }
        if storage.shards > 1 {
            let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
            write_once(
                &folder.join(format!("{}.safetensors.index.json", self.stem)),
                &json_file(index),
            )?;
        }
        write_once(&folder.join("config.json"), &json_file(config))
    }

    /// Each tensor's bytes. Tensors of real size are made by several threads.
    fn random(&self, tensors: &[Expected], dtype: Dtype) -> Vec<Vec<u8>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicUsize::new(0);
        let made: Vec<OnceLock<Vec<u8>>> = tensors.iter().map(|_| OnceLock::new()).collect();
        let work = || {
            while let Some((tensor, place)) = {
                let at = next.fetch_add(1, Ordering::Relaxed);
                tensors.get(at).zip(made.get(at))
            } {
                place.get_or_init(|| weights::random(self.seed, self.component, tensor, dtype));
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
        let bytes = made.into_iter().map(OnceLock::into_inner);
        bytes.map(Option::unwrap_or_default).collect()
    }

    fn serialize(
        &self,
        tensors: &[Expected],
        dtype: Dtype,
    ) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        let bytes = self.random(tensors, dtype);
        let views = tensors
            .iter()
            .zip(&bytes)
            .map(|(tensor, bytes)| {
                Ok((
                    &tensor.name,
                    TensorView::new(dtype, tensor.shape.clone(), bytes)?,
                ))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        // transformers refuses a file that does not name its framework.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize(views, Some(metadata))
    }
}

/// A configuration with the fields that only diffusers and transformers read.
fn with(config: &impl serde::Serialize, others: Value) -> Value {
    let mut all = Map::new();
    for part in [json!(config), others] {
        if let Value::Object(fields) = part {
            all.extend(fields);
        }
    }
    Value::Object(all)
}

/// A JSON file with sorted keys, whichever map serde_json was built with.
fn json_file(value: Value) -> Vec<u8> {
    format!("{:#}\n", sorted(value)).into_bytes()
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> = fields
                .into_iter()
                .map(|(key, field)| (key, sorted(field)))
                .collect();
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
