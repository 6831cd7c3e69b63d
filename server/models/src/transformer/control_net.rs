//! diffusers' `ZImageControlNetModel`: blocks beside the transformer's, whose hints are added behind its layers.

use super::block::Block;
use super::{Caption, Entry, Transformer, pad, patchify};
use crate::error::LoadError;
use crate::part::Part;
use candle_core::{Module as _, Result, Tensor};
use candle_nn::Linear;
use std::sync::Arc;
use zimage_checkpoint::{ControlNetConfig, Refiner as Form};

/// A ControlNet. It has no embedders and no noise refiner of its own but for the control image: it borrows the
/// transformer's.
pub(crate) struct ControlNet {
    config: ControlNetConfig,
    latent_channels: usize,
    x_embedder: Linear,
    layers: Vec<ControlBlock>,
    refiner: Refiner,
}

/// What refines the control image's tokens.
enum Refiner {
    /// Blocks that see nothing else.
    Own(Vec<Block>),
    /// The control layers, which see the image too and give it hints.
    Shared,
    /// Blocks of that kind.
    Controlled(Vec<ControlBlock>),
}

/// diffusers' `ZImageControlTransformerBlock`.
struct ControlBlock {
    block: Block,
    /// Only the first of a row takes the image in.
    before: Option<Linear>,
    after: Linear,
}

/// What one image follows, the same at every step.
pub(crate) struct Control {
    net: Arc<ControlNet>,
    /// The control image's tokens (tokens, dim), padded.
    tokens: Tensor,
    scale: f64,
}

/// Tensors to add behind layers.
#[derive(Default)]
pub(crate) struct Hints(Vec<(usize, Tensor)>);

impl ControlNet {
    pub(crate) fn load(
        control_net: &zimage_checkpoint::ControlNet,
    ) -> std::result::Result<Self, LoadError> {
        let (config, blocks) = (control_net.config(), control_net.blocks());
        let part = Part::control_net(control_net);
        let patch = blocks.patch_dim() / blocks.in_channels * config.control_in_dim;
        let block = |part: &Part<'_>| Block::load(blocks, part, true);
        let control_block = |part: &Part<'_>, first: bool| {
            let projection = |name: &str| part.at(name).linear(blocks.dim, blocks.dim);
            Ok(ControlBlock {
                block: block(part)?,
                before: first.then(|| projection("before_proj")).transpose()?,
                after: projection("after_proj")?,
            })
        };
        let row = |name: &str, count: usize| {
            let list = part.at(name);
            (0..count)
                .map(|i| control_block(&list.at(i), i == 0))
                .collect::<std::result::Result<Vec<_>, LoadError>>()
        };
        let (own, count) = ("control_noise_refiner", config.n_refiner_layers);
        Ok(Self {
            latent_channels: blocks.in_channels,
            x_embedder: part
                .at("control_all_x_embedder.2-1")
                .linear(patch, blocks.dim)?,
            layers: row("control_layers", config.control_layers_places.len())?,
            refiner: match config.add_control_noise_refiner {
                Form::Own => {
                    let blocks = (0..count).map(|i| block(&part.at(own).at(i)));
                    Refiner::Own(blocks.collect::<std::result::Result<_, LoadError>>()?)
                }
                Form::Shared => Refiner::Shared,
                Form::Controlled => Refiner::Controlled(row(own, count)?),
            },
            config: config.clone(),
        })
    }

    /// Channels of the control context.
    pub(crate) const fn channels(&self) -> usize {
        self.config.control_in_dim
    }

    /// Whether the control context may hold a mask.
    pub(crate) const fn inpaints(&self) -> bool {
        self.config.inpaints(self.latent_channels)
    }
}

impl Control {
    /// Embeds a control context (channels, height, width), whose missing channels are zeros.
    pub(crate) fn new(
        net: &Arc<ControlNet>,
        transformer: &Transformer,
        context: &Tensor,
        scale: f64,
    ) -> Result<Self> {
        let missing = net.channels().saturating_sub(context.dim(0)?);
        let patches = patchify(&context.pad_with_zeros(0, 0, missing)?)?;
        Ok(Self {
            tokens: pad(&net.x_embedder.forward(&patches)?, &transformer.x_pad_token)?,
            net: Arc::clone(net),
            scale,
        })
    }

    /// The hints for the transformer's layers at one step.
    pub(super) fn hints(
        &self,
        transformer: &Transformer,
        entry: &Entry,
        caption: &Caption,
    ) -> Result<Hints> {
        let (tokens, image) = self.refine(transformer, entry, caption)?;
        let joint = |image: &Tensor| Tensor::cat(&[image, &caption.tokens], 0);
        let rope = &caption.joint_rope;
        let (hints, _) = run(
            &self.net.layers,
            (joint(&tokens)?, &joint(&image)?),
            rope,
            &entry.time,
        )?;
        self.place(hints, &self.net.config.control_layers_places)
    }

    /// The control image's tokens and the image's, both refined. The transformer never sees this image, only its own.
    fn refine(
        &self,
        transformer: &Transformer,
        entry: &Entry,
        caption: &Caption,
    ) -> Result<(Tensor, Tensor)> {
        let (rope, time) = (&caption.image_rope, &entry.time);
        let blocks = match &self.net.refiner {
            Refiner::Own(blocks) => {
                let mut tokens = self.tokens.clone();
                for block in blocks {
                    tokens = block.forward(&tokens, rope, Some(time))?;
                }
                return Ok((tokens, entry.refined.clone()));
            }
            Refiner::Shared => &self.net.layers,
            Refiner::Controlled(blocks) => blocks,
        };
        let (hints, tokens) = run(blocks, (self.tokens.clone(), &entry.embedded), rope, time)?;
        let hints = self.place(hints, self.net.config.refiner_places())?;
        let image = transformer.refine(&entry.embedded, time, caption, &hints)?;
        Ok((tokens, image))
    }

    fn place(&self, hints: Vec<Tensor>, places: &[usize]) -> Result<Hints> {
        let scaled = |(hint, &place): (Tensor, &usize)| Ok((place, (hint * self.scale)?));
        let placed: Result<_> = hints.into_iter().zip(places).map(scaled).collect();
        Ok(Hints(placed?))
    }
}

/// Runs a row of blocks over the control's tokens (tokens, dim), which take the image's in first. Returns each block's
/// hint, and the tokens behind the last one.
fn run(
    blocks: &[ControlBlock],
    (mut tokens, image): (Tensor, &Tensor),
    rope: &(Tensor, Tensor),
    time: &Tensor,
) -> Result<(Vec<Tensor>, Tensor)> {
    let mut hints = Vec::with_capacity(blocks.len());
    for ControlBlock {
        block,
        before,
        after,
    } in blocks
    {
        if let Some(before) = before {
            tokens = (before.forward(&tokens)? + image)?;
        }
        tokens = block.forward(&tokens, rope, Some(time))?;
        hints.push(after.forward(&tokens)?);
    }
    Ok((hints, tokens))
}

impl Hints {
    pub(super) fn into_tensors(self) -> Vec<Tensor> {
        self.0.into_iter().map(|(_, hint)| hint).collect()
    }

    /// The output of a layer with the hints for it.
    pub(super) fn add(&self, layer: usize, output: Tensor) -> Result<Tensor> {
        let mut here = self.0.iter().filter(|(place, _)| *place == layer);
        here.try_fold(output, |output, (_, hint)| output + hint)
    }
}
