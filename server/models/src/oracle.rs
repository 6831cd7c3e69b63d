//! The tensors between the stages, to compare another implementation with this one.

use crate::control;
use crate::executor::{CandleExecutor, failed};
use candle_core::{Result, Tensor};
use zimage_core::executor::{ExecutorError, Slot};
use zimage_core::request::ImageRequest;

/// A tensor between two stages.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Values, row by row.
    pub values: Vec<f32>,
}

impl Stage {
    fn of(tensor: &Tensor) -> Result<Self> {
        Ok(Self {
            shape: tensor.dims().to_vec(),
            values: tensor.flatten_all()?.to_vec1()?,
        })
    }
}

impl CandleExecutor {
    /// diffusers' `prompt_embeds`: (tokens, hidden).
    ///
    /// # Errors
    /// As for [`begin`](zimage_core::executor::Executor::begin).
    pub fn prompt_embeds(&self, prompt: &str) -> std::result::Result<Stage, ExecutorError> {
        self.omni_prompt_embeds(prompt, 0)
    }

    /// diffusers' `prompt_embeds` with that many condition images, the parts one behind the other: (tokens, hidden).
    ///
    /// # Errors
    /// As for [`begin`](zimage_core::executor::Executor::begin).
    pub fn omni_prompt_embeds(
        &self,
        prompt: &str,
        references: usize,
    ) -> std::result::Result<Stage, ExecutorError> {
        let parts = self.encode("prompt", prompt, references)?.into_iter();
        let embeds = parts
            .map(|part| self.text_encoder.forward(&part.ids))
            .collect::<Result<Vec<_>>>();
        embeds
            .and_then(|embeds| Stage::of(&Tensor::cat(&embeds, 0)?))
            .map_err(failed)
    }

    /// What is seen of each condition image: its latents (channels, height / 8, width / 8) and features (rows, columns,
    /// width).
    ///
    /// # Errors
    /// As for [`begin`](zimage_core::executor::Executor::begin).
    pub fn condition_images(
        &self,
        request: &ImageRequest,
    ) -> std::result::Result<Vec<(Stage, Stage)>, ExecutorError> {
        let references = self.references(request)?.into_iter();
        references
            .map(|image| Ok((Stage::of(&image.latents)?, Stage::of(&image.features)?)))
            .collect::<Result<_>>()
            .map_err(failed)
    }

    /// A slot's latents: (channels, height / 8, width / 8).
    ///
    /// # Errors
    /// When the slot is not taken.
    pub fn latents(&self, slot: Slot) -> std::result::Result<Stage, ExecutorError> {
        Stage::of(&self.state(slot)?.latents).map_err(failed)
    }

    /// diffusers' `control_context` of a request with a control image: (channels, height / 8, width / 8), without the
    /// channels that are always zero.
    ///
    /// # Errors
    /// When the request has no control image, or its image cannot be encoded.
    pub fn control_context(
        &self,
        request: &ImageRequest,
    ) -> std::result::Result<Stage, ExecutorError> {
        let missing = || ExecutorError::Failed("the request has no control image".to_owned());
        let control = request.control.as_ref().ok_or_else(missing)?;
        control::context(&self.encoder, request, control)
            .and_then(|context| Stage::of(&context))
            .map_err(failed)
    }

    /// diffusers' `controlnet_block_samples` of a slot's next step, one for each control layer: (tokens, dim).
    ///
    /// # Errors
    /// When the slot is not taken or follows nothing.
    pub fn hints(&self, slot: Slot) -> std::result::Result<Vec<Stage>, ExecutorError> {
        let hints = self.state(slot)?.hints(&self.transformer).map_err(failed)?;
        let stages = hints.iter().map(Stage::of).collect::<Result<_>>();
        stages.map_err(failed)
    }

    /// The decoder's output for a slot, from -1 to 1 and a little beyond: (3, height, width).
    ///
    /// # Errors
    /// When the slot is not taken.
    pub fn decoded(&self, slot: Slot) -> std::result::Result<Stage, ExecutorError> {
        self.decoder
            .forward(&self.state(slot)?.latents)
            .and_then(|image| Stage::of(&image))
            .map_err(failed)
    }
}
