//! A model's files without any tensor library: configurations, weights, tokenizer, and tiny models to test with.
//!
//! ```text
//! model_index.json, */config.json ──┐
//! *.safetensors, index, *.gguf     ─┼─> Checkpoint ──> tensor(component, name): dtype, shape, bytes
//! LoRA, LoKR files                 ─┤                                  (or the sum of these and the files' changes)
//! tokenizer/*                      ─┘               └─> encode(prompt): token ids
//! config.json, *.safetensors ─────> ControlNet: the same for what follows an image
//! Shape, seed ──> make_model, make_control_net ──> the same files
//! Checkpoint  ──> convert ─────> the same files in bfloat16, and zimage-manifest.json ──> check_manifest
//! ```
//!
//! Invariants: weights are read when they are asked for, one tensor at a time; nothing here computes with weights, but for merging LoRAs into them; a malformed file is an error that
//! names it, never a panic and never an allocation larger than what the file implies.

mod checkpoint;
mod component;
pub mod config;
mod control_net;
mod convert;
mod error;
mod fingerprint;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gguf;
pub mod layout;
mod lora;
mod make_model;
mod manifest;
mod progress;
mod prompt;
mod read;
mod shape;
mod shard;
mod single_file;
mod stored;
mod table;
mod tensor;
mod validate;
mod values;
mod weight_file;
mod weights;
mod write;

pub use checkpoint::{Checkpoint, Siglip};
pub use component::Component;
pub use config::{ControlNetConfig, Refiner, UnknownRefiner};
pub use control_net::ControlNet;
pub use convert::convert;
pub use error::CheckpointError;
pub use lora::{Lora, LoraChanges};
pub use make_model::{make_control_net, make_model};
pub use manifest::{MANIFEST, check_manifest};
pub use progress::Progress;
pub use prompt::{EncodedPrompt, MAX_TOKENS, PromptEncoder};
pub use shape::{Shape, UnknownShape};
pub use stored::{BlockFormat, Dequantize};
pub use tensor::{DType, TensorView};
