//! What an Omni transformer does besides: condition images beside the one that is made.

use super::block::Block;
use super::{Caption, Transformer, layer_norm, pad, patchify, unpatchify};
use crate::error::LoadError;
use crate::norm::RmsNorm;
use crate::part::Part;
use crate::reference::Reference;
use candle_core::{Device, Module as _, Result, Tensor};
use candle_nn::Linear;
use zimage_checkpoint::config::TransformerConfig;
use zimage_core::omni::Sequence;
use zimage_core::rotary::SEQUENCE_MULTIPLE;

/// The time of tokens that are an image already.
const CLEAN_TIME: f32 = 1.0;

/// The layers that only an Omni transformer has.
pub(super) struct Omni {
    siglip_norm: RmsNorm,
    siglip_embedder: Linear,
    siglip_pad_token: Tensor,
    siglip_refiner: Vec<Block>,
}

/// What stays the same at every step of an Omni request.
pub(super) struct Conditions {
    /// (tokens, dim): the condition images' latents, embedded and padded. `None` without condition images.
    references: Option<Tensor>,
    /// (tokens, dim): the condition images' features, refined, and the padding in the place of the image that is made.
    features: Option<Tensor>,
    /// Which of the two times an image token has, as [`Sequence`] numbers them.
    image_times: Tensor,
    /// As `image_times`, of all tokens.
    joint_times: Tensor,
}

impl Omni {
    /// `None` for a transformer that takes no condition images.
    pub(super) fn load(
        config: &TransformerConfig,
        part: &Part<'_>,
    ) -> std::result::Result<Option<Self>, LoadError> {
        let Some(width) = config.siglip_feat_dim else {
            return Ok(None);
        };
        let refiner = part.at("siglip_refiner");
        Ok(Some(Self {
            siglip_norm: RmsNorm::load(&part.at("siglip_embedder.0"), width, config.norm_eps)?,
            siglip_embedder: part.at("siglip_embedder.1").linear(width, config.dim)?,
            siglip_pad_token: part.tensor("siglip_pad_token", &[1, config.dim])?,
            siglip_refiner: (0..config.n_refiner_layers)
                .map(|i| Block::load(config, &refiner.at(i), false))
                .collect::<std::result::Result<_, _>>()?,
        }))
    }

    /// The features of all condition images, refined together: (tokens, dim).
    fn refine(&self, references: &[Reference], rope: &(Tensor, Tensor)) -> Result<Tensor> {
        let mut parts = Vec::with_capacity(references.len() + 1);
        for reference in references {
            let (rows, columns, width) = reference.features.dims3()?;
            // diffusers cuts the features into tokens with the width outermost, so a token holds one number of many
            // patches, not all numbers of one.
            let features =
                (reference.features.permute((2, 0, 1))?).reshape((rows * columns, width))?;
            let embedded = (self.siglip_embedder).forward(&self.siglip_norm.forward(&features)?)?;
            parts.push(pad(&embedded, &self.siglip_pad_token)?);
        }
        // The image that is made has no features yet.
        parts.push(self.siglip_pad_token.repeat((SEQUENCE_MULTIPLE, 1))?);
        let mut tokens = Tensor::cat(&parts, 0)?;
        for block in &self.siglip_refiner {
            tokens = block.forward(&tokens, rope, None)?;
        }
        Ok(tokens)
    }
}

impl Transformer {
    /// Whether this transformer takes condition images, and every prompt in their form.
    pub(crate) const fn is_omni(&self) -> bool {
        self.omni.is_some()
    }

    /// Embeds and refines a prompt's parts, each (tokens, hidden), and condition images for one image size.
    ///
    /// # Errors
    /// When the sequence was laid out for others, or the transformer is no Omni one.
    pub(crate) fn omni_caption(
        &self,
        prompt: &[Tensor],
        references: &[Reference],
        sequence: &Sequence,
    ) -> Result<Caption> {
        let Some(omni) = &self.omni else {
            candle_core::bail!("the transformer takes no condition images");
        };
        let mut parts = Vec::with_capacity(prompt.len());
        for hidden in prompt {
            let embedded = self.cap_embedder.forward(&self.cap_norm.forward(hidden)?)?;
            parts.push(pad(&embedded, &self.cap_pad_token)?);
        }
        let mut tokens = Tensor::cat(&parts, 0)?;
        let caption_rope = self.rope(&sequence.captions)?;
        for block in &self.context_refiner {
            tokens = block.forward(&tokens, &caption_rope, None)?;
        }
        let images = (references.iter())
            .map(|reference| {
                let patches = self.x_embedder.forward(&patchify(&reference.latents)?)?;
                pad(&patches, &self.x_pad_token)
            })
            .collect::<Result<Vec<_>>>()?;
        let (references, features) = if references.is_empty() {
            (None, None)
        } else {
            let features = omni.refine(references, &self.rope(&sequence.features)?)?;
            (Some(Tensor::cat(&images, 0)?), Some(features))
        };
        Ok(Caption {
            tokens,
            image_rope: self.rope(&sequence.images)?,
            joint_rope: self.rope(&sequence.joint())?,
            conditions: Some(Conditions {
                references,
                features,
                image_times: Tensor::new(sequence.image_times.as_slice(), &Device::Cpu)?,
                joint_times: Tensor::new(sequence.joint_times(), &Device::Cpu)?,
            }),
        })
    }

    /// As [`Self::forward`], with clean tokens beside the noisy ones: prompt, images, features.
    pub(super) fn forward_omni(
        &self,
        latents: &Tensor,
        time: f32,
        caption: &Caption,
        conditions: &Conditions,
    ) -> Result<Tensor> {
        let noisy = self.embed_time(time)?;
        // (2, width), in the order that `image_times` counts them.
        let times = Tensor::cat(&[&noisy, &self.embed_time(CLEAN_TIME)?], 0)?;
        let patches = patchify(latents)?;
        let count = patches.dim(0)?;
        let image = pad(&self.x_embedder.forward(&patches)?, &self.x_pad_token)?;
        let (mut images, before) = match &conditions.references {
            Some(references) => (Tensor::cat(&[references, &image], 0)?, references.dim(0)?),
            None => (image, 0),
        };
        for block in &self.noise_refiner {
            let rows = (&times, &conditions.image_times);
            images = block.forward_mixed(&images, &caption.image_rope, rows)?;
        }
        let mut parts = vec![&caption.tokens, &images];
        parts.extend(&conditions.features);
        let mut joint = Tensor::cat(&parts, 0)?;
        for block in &self.layers {
            let rows = (&times, &conditions.joint_times);
            joint = block.forward_mixed(&joint, &caption.joint_rope, rows)?;
        }
        // Only the image that is made is read, and all its tokens are noisy.
        let made = joint.narrow(0, caption.tokens.dim(0)? + before, count)?;
        let scale = (self.final_modulation.forward(&noisy.silu()?)? + 1.0)?;
        let normed = layer_norm(&made)?.broadcast_mul(&scale)?;
        unpatchify(&self.final_linear.forward(&normed)?, latents.dims3()?)
    }
}
