//! A model's folder, opened.

mod omni;

pub use omni::Siglip;

use crate::component::Component;
use crate::config::{SchedulerConfig, TextEncoderConfig, TransformerConfig, VaeConfig};
use crate::error::CheckpointError;
use crate::layout::{self, Expected};
use crate::lora::{self, Lora, LoraChanges};
use crate::prompt::{EncodedPrompt, PromptEncoder};
use crate::stored::Dequantize;
use crate::tensor::TensorView;
use crate::weights::Weights;
use crate::{read, validate};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model in the Hugging Face layout: its configurations, its weights and its tokenizer.
pub struct Checkpoint {
    dir: PathBuf,
    text_encoder: TextEncoderConfig,
    transformer: TransformerConfig,
    vae: VaeConfig,
    scheduler: SchedulerConfig,
    siglip: Option<Siglip>,
    /// In the order of [`Component::ALL`].
    weights: Vec<Weights>,
    /// Merged into the transformer's weights, in this order.
    loras: Vec<LoraChanges>,
    prompts: Arc<PromptEncoder>,
}

impl Checkpoint {
    /// Reads every configuration and the headers of every weight file. No weights are read.
    ///
    /// # Errors
    /// When a file is missing, is damaged, or describes a model that is not implemented.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        Self::open_parts(dir, None)
    }

    /// As [`Self::open`], with the transformer's weights from one safetensors or GGUF file: ComfyUI's names or
    /// diffusers'. The folder's own may be missing; its configuration may not. Tensors that GGUF stores in blocks are read
    /// with the function given, as float32.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_with_transformer(
        dir: &Path,
        file: &Path,
        dequantize: Dequantize,
    ) -> Result<Self, CheckpointError> {
        Self::open_parts(dir, Some((file, dequantize)))
    }

    fn open_parts(
        dir: &Path,
        transformer_file: Option<(&Path, Dequantize)>,
    ) -> Result<Self, CheckpointError> {
        let index = dir.join("model_index.json");
        let class = read::json::<Value>(&index)?["_class_name"].clone();
        let omni = class == "ZImageOmniPipeline";
        if class != "ZImagePipeline" && !omni {
            let problem = format!("the model's pipeline is {class}; \"ZImagePipeline\" is needed");
            return Err(CheckpointError::new(index, problem));
        }
        let text_encoder: TextEncoderConfig = read::config(
            &dir.join("text_encoder/config.json"),
            &[
                ("model_type", json!("qwen3")),
                ("hidden_act", json!("silu")),
                ("attention_bias", json!(false)),
                ("use_sliding_window", json!(false)),
                // Null is accepted; any other scaling is not.
                ("rope_scaling", json!({"rope_type": "default"})),
            ],
            validate::text_encoder,
        )?;
        let transformer_path = dir.join("transformer/config.json");
        let mut known = vec![("_class_name", json!("ZImageTransformer2DModel"))];
        if !omni {
            known.push(("siglip_feat_dim", Value::Null));
        }
        let transformer: TransformerConfig =
            read::config(&transformer_path, &known, validate::transformer)?;
        let vae: VaeConfig = read::config(
            &dir.join("vae/config.json"),
            &[
                ("_class_name", json!("AutoencoderKL")),
                ("act_fn", json!("silu")),
                ("mid_block_add_attention", json!(true)),
                ("use_quant_conv", json!(false)),
                ("use_post_quant_conv", json!(false)),
            ],
            validate::vae,
        )?;
        let scheduler = read::config(
            &dir.join("scheduler/scheduler_config.json"),
            &[
                ("_class_name", json!("FlowMatchEulerDiscreteScheduler")),
                ("use_dynamic_shifting", json!(false)),
                ("shift_terminal", Value::Null),
                ("use_karras_sigmas", json!(false)),
                ("use_exponential_sigmas", json!(false)),
                ("use_beta_sigmas", json!(false)),
                ("invert_sigmas", json!(false)),
                ("stochastic_sampling", json!(false)),
            ],
            |_: &SchedulerConfig| Ok(()),
        )?;
        fit(&text_encoder, &transformer, &vae)
            .map_err(|problem| CheckpointError::new(transformer_path, problem))?;
        let siglip = omni.then(|| Siglip::open(dir, &transformer)).transpose()?;
        let mut weights = vec![
            Weights::open(dir, Component::TextEncoder)?,
            match transformer_file {
                Some((file, dequantize)) => Weights::open_transformer_file(file, dequantize)?,
                None => Weights::open(dir, Component::Transformer)?,
            },
            Weights::open(dir, Component::Vae)?,
        ];
        if siglip.is_some() {
            weights.push(Weights::open(dir, Component::Siglip)?);
        }
        Ok(Self {
            dir: dir.to_owned(),
            text_encoder,
            transformer,
            vae,
            scheduler,
            siglip,
            weights,
            loras: Vec::new(),
            prompts: Arc::new(PromptEncoder::open(dir)?),
        })
    }

    /// Lets every weight of the transformer be read with the files' changes added to it, in float32.
    ///
    /// # Errors
    /// When a key of a file is for no weight of this transformer, or for one of another shape: the first such keys are
    /// named, and all are counted.
    pub fn with_loras(mut self, loras: Vec<Lora>) -> Result<Self, CheckpointError> {
        let expected = self.expected(Component::Transformer);
        for lora in loras {
            self.loras.push(lora.fit(&expected)?);
        }
        Ok(self)
    }

    /// The files that [`Self::with_loras`] merges.
    pub fn loras(&self) -> &[LoraChanges] {
        &self.loras
    }

    /// The model's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `text_encoder/config.json`.
    pub const fn text_encoder(&self) -> &TextEncoderConfig {
        &self.text_encoder
    }

    /// `transformer/config.json`.
    pub const fn transformer(&self) -> &TransformerConfig {
        &self.transformer
    }

    /// `vae/config.json`.
    pub const fn vae(&self) -> &VaeConfig {
        &self.vae
    }

    /// `scheduler/scheduler_config.json`.
    pub const fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// What only an Omni model has. `None`: the model takes no condition images.
    pub const fn siglip(&self) -> Option<&Siglip> {
        self.siglip.as_ref()
    }

    /// The components that this model has.
    pub fn components(&self) -> &'static [Component] {
        &Component::ALL[..self.weights.len()]
    }

    /// A tensor by the name that [`layout`] gives it, with the changes of every LoRA: float32 where there are any.
    ///
    /// # Errors
    /// When it is missing or stored in a format that is not read.
    pub fn tensor(
        &self,
        component: Component,
        name: &str,
    ) -> Result<TensorView<'_>, CheckpointError> {
        let stored = self.weights(component)?.tensor(name)?;
        if component == Component::Transformer {
            lora::merge(&self.loras, name, stored)
        } else {
            Ok(stored)
        }
    }

    pub(crate) fn weights(&self, component: Component) -> Result<&Weights, CheckpointError> {
        let problem = || {
            format!(
                "the model has no {}: it is no Omni model",
                component.folder()
            )
        };
        self.weights
            .get(component as usize)
            .ok_or_else(|| CheckpointError::new(&self.dir, problem()))
    }

    /// The file that holds the tensor, or should.
    pub fn path_of(&self, component: Component, name: &str) -> &Path {
        let weights = self.weights.get(component as usize);
        weights.map_or(&self.dir, |weights| weights.path_of(name))
    }

    /// A tensor that must have this shape.
    ///
    /// # Errors
    /// As for [`Self::tensor`], or when the shape is another.
    pub fn tensor_of_shape(
        &self,
        component: Component,
        name: &str,
        shape: &[usize],
    ) -> Result<TensorView<'_>, CheckpointError> {
        self.weights(component)?.check_shape(name, shape)?;
        Ok(TensorView {
            shape: shape.to_vec(),
            ..self.tensor(component, name)?
        })
    }

    /// The tokenizer and the chat template, which outlive the checkpoint where they are shared.
    pub fn prompt_encoder(&self) -> Arc<PromptEncoder> {
        Arc::clone(&self.prompts)
    }

    /// The tokens of the prompt inside the chat template.
    ///
    /// # Errors
    /// When the template or the tokenizer fails.
    pub fn encode(&self, prompt: &str) -> Result<EncodedPrompt, CheckpointError> {
        self.prompts.encode(prompt)
    }

    /// The tensors that a component's configuration implies.
    pub fn expected(&self, component: Component) -> Vec<Expected> {
        match component {
            Component::TextEncoder => layout::text_encoder(&self.text_encoder),
            Component::Transformer => layout::transformer(&self.transformer),
            Component::Vae => layout::vae(&self.vae),
            Component::Siglip => {
                (self.siglip.as_ref()).map_or_else(Vec::new, |siglip| layout::siglip(&siglip.tower))
            }
        }
    }

    /// Checks that every tensor that the configurations imply is there, with its shape, in a format that is read, and that
    /// a prompt becomes tokens that the text encoder knows. Returns their number.
    ///
    /// # Errors
    /// Names the first tensor that is missing or does not fit, and its file; or the chat template or the tokenizer.
    pub fn verify(&self) -> Result<usize, CheckpointError> {
        for &component in self.components() {
            for Expected { name, shape } in self.expected(component) {
                self.weights(component)?.check_shape(&name, &shape)?;
            }
        }
        let vocabulary = self.text_encoder.vocab_size;
        self.prompts.check(vocabulary, self.siglip.is_some())
    }
}

/// What one component gives must be what the next one takes.
fn fit(
    text_encoder: &TextEncoderConfig,
    transformer: &TransformerConfig,
    vae: &VaeConfig,
) -> Result<(), String> {
    let (caption, hidden) = (transformer.cap_feat_dim, text_encoder.hidden_size);
    if caption != hidden {
        return Err(format!(
            "cap_feat_dim is {caption}, but the text encoder's hidden_size is {hidden}"
        ));
    }
    let (latents, channels) = (transformer.in_channels, vae.latent_channels);
    if latents != channels {
        return Err(format!(
            "in_channels is {latents}, but the VAE's latent_channels is {channels}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
