//! diffusers' `ZImageTransformer2DModel` for one image at a time.

mod block;
mod control_net;
mod omni;

pub(crate) use control_net::{Control, ControlNet};

use crate::error::LoadError;
use crate::norm::{RmsNorm, layer_norm};
use crate::part::Part;
use block::Block;
use candle_core::{Module as _, Result, Tensor};
use candle_nn::Linear;
use control_net::Hints;
use omni::{Conditions, Omni};
use zimage_checkpoint::config::TransformerConfig;
use zimage_checkpoint::{Checkpoint, Component};
use zimage_core::rotary::{self, Position, SEQUENCE_MULTIPLE, TIME_FREQUENCIES};
use zimage_core::validate::ModelLimits;

/// Width of the first layer of the time's embedding.
const TIME_HIDDEN: usize = 1024;

/// The denoising transformer.
pub(crate) struct Transformer {
    config: TransformerConfig,
    x_embedder: Linear,
    x_pad_token: Tensor,
    cap_norm: RmsNorm,
    cap_embedder: Linear,
    cap_pad_token: Tensor,
    time_in: Linear,
    time_out: Linear,
    noise_refiner: Vec<Block>,
    context_refiner: Vec<Block>,
    layers: Vec<Block>,
    final_modulation: Linear,
    final_linear: Linear,
    omni: Option<Omni>,
}

/// A prompt as the transformer sees it at every step, for one image size.
pub(crate) struct Caption {
    /// (tokens, dim), padded.
    tokens: Tensor,
    image_rope: (Tensor, Tensor),
    joint_rope: (Tensor, Tensor),
    /// Only of an Omni transformer.
    conditions: Option<Conditions>,
}

/// What the layers begin with at a step.
struct Entry {
    /// The time's embedding (1, width).
    time: Tensor,
    /// The image's tokens (tokens, dim), padded: as embedded, and behind the noise refiner.
    embedded: Tensor,
    refined: Tensor,
}

impl Transformer {
    pub(crate) fn load(checkpoint: &Checkpoint) -> std::result::Result<Self, LoadError> {
        let config = checkpoint.transformer().clone();
        let part = Part::root(checkpoint, Component::Transformer);
        let (dim, adaln, patch) = (config.dim, config.adaln_dim(), config.patch_dim());
        let blocks = |name: &str, count: usize, modulated: bool| {
            let list = part.at(name);
            (0..count)
                .map(|i| Block::load(&config, &list.at(i), modulated))
                .collect::<std::result::Result<Vec<_>, LoadError>>()
        };
        let last = part.at("all_final_layer.2-1");
        Ok(Self {
            x_embedder: part.at("all_x_embedder.2-1").linear(patch, dim)?,
            x_pad_token: part.tensor("x_pad_token", &[1, dim])?,
            cap_norm: RmsNorm::load(
                &part.at("cap_embedder.0"),
                config.cap_feat_dim,
                config.norm_eps,
            )?,
            cap_embedder: part.at("cap_embedder.1").linear(config.cap_feat_dim, dim)?,
            cap_pad_token: part.tensor("cap_pad_token", &[1, dim])?,
            time_in: part
                .at("t_embedder.mlp.0")
                .linear(TIME_FREQUENCIES, TIME_HIDDEN)?,
            time_out: part.at("t_embedder.mlp.2").linear(TIME_HIDDEN, adaln)?,
            noise_refiner: blocks("noise_refiner", config.n_refiner_layers, true)?,
            context_refiner: blocks("context_refiner", config.n_refiner_layers, false)?,
            layers: blocks("layers", config.n_layers, true)?,
            final_modulation: last.at("adaLN_modulation.1").linear(adaln, dim)?,
            final_linear: last.at("linear").linear(dim, patch)?,
            omni: Omni::load(&config, &part)?,
            config,
        })
    }

    /// Embeds and refines a prompt's hidden states (tokens, hidden) for images of `rows` x `columns` patches.
    pub(crate) fn caption(&self, hidden: &Tensor, rows: usize, columns: usize) -> Result<Caption> {
        let embedded = self.cap_embedder.forward(&self.cap_norm.forward(hidden)?)?;
        let mut tokens = pad(&embedded, &self.cap_pad_token)?;
        let caption = rotary::caption(tokens.dim(0)?);
        let image = rotary::image(caption.len(), rows, columns);
        let caption_rope = self.rope(&caption)?;
        for block in &self.context_refiner {
            tokens = block.forward(&tokens, &caption_rope, None)?;
        }
        Ok(Caption {
            tokens,
            image_rope: self.rope(&image)?,
            joint_rope: self.rope(&[image, caption].concat())?,
            conditions: None,
        })
    }

    /// Channels of the latents.
    pub(crate) const fn channels(&self) -> usize {
        self.config.in_channels
    }

    /// Positions that each axis of the rotary embedding has.
    pub(crate) fn axes_lens(&self) -> &[usize] {
        &self.config.axes_lens
    }

    /// What the model has positions for.
    pub(crate) fn limits(&self) -> ModelLimits {
        ModelLimits::of_axes(&self.config.axes_lens)
    }

    /// The model's prediction for latents (channels, height, width) at a time from 0 (noise) to 1.
    pub(crate) fn forward(
        &self,
        latents: &Tensor,
        time: f32,
        caption: &Caption,
        control: Option<&Control>,
    ) -> Result<Tensor> {
        if let Some(conditions) = &caption.conditions {
            return self.forward_omni(latents, time, caption, conditions);
        }
        let entry = self.enter(latents, time, caption)?;
        let hints = match control {
            Some(control) => control.hints(self, &entry, caption)?,
            None => Hints::default(),
        };
        let mut joint = Tensor::cat(&[&entry.refined, &caption.tokens], 0)?;
        for (i, block) in self.layers.iter().enumerate() {
            joint = block.forward(&joint, &caption.joint_rope, Some(&entry.time))?;
            joint = hints.add(i, joint)?;
        }
        let scale = (self.final_modulation.forward(&entry.time.silu()?)? + 1.0)?;
        let (channels, height, width) = latents.dims3()?;
        let image = joint.narrow(0, 0, height / 2 * (width / 2))?;
        let normed = layer_norm(&image)?.broadcast_mul(&scale)?;
        let patches = self.final_linear.forward(&normed)?;
        unpatchify(&patches, (channels, height, width))
    }

    /// What a control adds behind the layers, in their order: (tokens, dim) each.
    pub(crate) fn hints(
        &self,
        latents: &Tensor,
        time: f32,
        caption: &Caption,
        control: &Control,
    ) -> Result<Vec<Tensor>> {
        let entry = self.enter(latents, time, caption)?;
        Ok(control.hints(self, &entry, caption)?.into_tensors())
    }

    fn enter(&self, latents: &Tensor, time: f32, caption: &Caption) -> Result<Entry> {
        let time = self.embed_time(time)?;
        let patches = self.x_embedder.forward(&patchify(latents)?)?;
        let embedded = pad(&patches, &self.x_pad_token)?;
        Ok(Entry {
            refined: self.refine(&embedded, &time, caption, &Hints::default())?,
            embedded,
            time,
        })
    }

    /// The image's tokens behind the noise refiner, with hints on the way.
    fn refine(
        &self,
        embedded: &Tensor,
        time: &Tensor,
        caption: &Caption,
        hints: &Hints,
    ) -> Result<Tensor> {
        let mut image = embedded.clone();
        for (i, block) in self.noise_refiner.iter().enumerate() {
            image = block.forward(&image, &caption.image_rope, Some(time))?;
            image = hints.add(i, image)?;
        }
        Ok(image)
    }

    /// Cosines and sines (tokens, head / 2).
    fn rope(&self, positions: &[Position]) -> Result<(Tensor, Tensor)> {
        let TransformerConfig {
            rope_theta,
            axes_dims,
            ..
        } = &self.config;
        let angles = rotary::angles(*rope_theta, axes_dims, positions);
        crate::rope::cos_sin(&angles, positions.len())
    }

    /// The time's embedding (1, width).
    fn embed_time(&self, time: f32) -> Result<Tensor> {
        let angles = rotary::time_angles(time * self.config.t_scale as f32);
        let (cos, sin) = crate::rope::cos_sin(&angles, 1)?;
        let waves = Tensor::cat(&[cos, sin], 1)?;
        self.time_out
            .forward(&self.time_in.forward(&waves)?.silu()?)
    }
}

/// Appends the pad token until the length is a multiple of 32.
fn pad(tokens: &Tensor, pad_token: &Tensor) -> Result<Tensor> {
    let length = tokens.dim(0)?;
    let missing = length.next_multiple_of(SEQUENCE_MULTIPLE) - length;
    if missing == 0 {
        return Ok(tokens.clone());
    }
    let padding = pad_token.broadcast_as((missing, pad_token.dim(1)?))?;
    Tensor::cat(&[tokens, &padding.contiguous()?], 0)
}

/// (channels, height, width) -> (patches, 2 * 2 * channels)
fn patchify(latents: &Tensor) -> Result<Tensor> {
    let (channels, height, width) = latents.dims3()?;
    latents
        .reshape((channels, height / 2, 2, width / 2, 2))?
        .permute((1, 3, 2, 4, 0))?
        .reshape((height / 2 * (width / 2), 4 * channels))
}

/// (patches, 2 * 2 * channels) -> (channels, height, width)
fn unpatchify(
    patches: &Tensor,
    (channels, height, width): (usize, usize, usize),
) -> Result<Tensor> {
    patches
        .reshape((height / 2, width / 2, 2, 2, channels))?
        .permute((4, 0, 2, 1, 3))?
        .reshape((channels, height, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn unpatchify_undoes_patchify() {
        let latents = Tensor::arange(0f32, 3.0 * 4.0 * 6.0, &Device::Cpu)
            .unwrap()
            .reshape((3, 4, 6))
            .unwrap();
        let patches = patchify(&latents).unwrap();
        // The second patch of the first row: its pixels row by row, the channels innermost.
        let second: Vec<f32> = patches.to_vec2().unwrap()[1].clone();
        assert_eq!(
            second,
            [2., 26., 50., 3., 27., 51., 8., 32., 56., 9., 33., 57.]
        );
        let back = unpatchify(&patches, (3, 4, 6)).unwrap();
        assert_eq!(
            back.to_vec3::<f32>().unwrap(),
            latents.to_vec3::<f32>().unwrap()
        );
    }
}
